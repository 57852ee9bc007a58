"""Pinhole cameras. The one convention of the project, the pinhole equations and the pixel-centre rule live only here.

OpenCV axes: +x right, +y down, +z forward. `cam2world` maps camera to world. `intrinsics` are in pixels of
`image_size`; continuous image coordinates start at the upper left corner, so the centre of the first pixel is at
(1/2, 1/2) and the principal point of a centred camera is (width / 2, height / 2). Depth is z-depth. Lengths are in the
world units of the depth. Anything foreign is converted where it enters, not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .latent_grid import LatentGrid

_ROTATION_TOLERANCE = 1e-3  # poses come from files with 6 digits and from float32 networks


@dataclass(frozen=True)
class Cameras:
    """A sequence of pinhole cameras.

    cam2world: [frames 4 4] float64, rigid.  intrinsics: [frames 3 3] float64, pixels of image_size.
    image_size: (height, width) in pixels; for a latent grid, in cells.

    Raises ValueError for wrong shapes, non-finite values, a matrix that is not a rigid motion, a focal length <= 0.
    """

    cam2world: torch.Tensor
    intrinsics: torch.Tensor
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        cam2world, intrinsics = self.cam2world, self.intrinsics
        if cam2world.ndim != 3 or cam2world.shape[1:] != (4, 4):
            raise ValueError(f"cam2world is [frames 4 4]; this one has shape {list(cam2world.shape)}.")
        if intrinsics.shape != (cam2world.shape[0], 3, 3):
            raise ValueError(
                f"intrinsics are [frames 3 3] with one matrix per camera; there are {cam2world.shape[0]} cameras and "
                f"intrinsics of shape {list(intrinsics.shape)}."
            )
        # float64 and CPU: poses are few, and float32 poses move far points by whole cells.
        object.__setattr__(self, "cam2world", cam2world.detach().to("cpu", torch.float64))
        object.__setattr__(self, "intrinsics", intrinsics.detach().to("cpu", torch.float64))
        object.__setattr__(self, "image_size", (int(self.image_size[0]), int(self.image_size[1])))
        if min(self.image_size) < 1:
            raise ValueError(f"image_size is (height, width), both at least 1; got {self.image_size}.")
        _check_rigid(self.cam2world)
        _check_intrinsics(self.intrinsics)

    def __len__(self) -> int:
        return self.cam2world.shape[0]

    def __getitem__(self, index: int | slice | list[int]) -> Cameras:
        """The cameras at `index`; an int gives a sequence of one."""
        if isinstance(index, int):
            index = [index]
        return Cameras(self.cam2world[index], self.intrinsics[index], self.image_size)

    @property
    def world2cam(self) -> torch.Tensor:
        """[frames 4 4] float64, the exact inverse of a rigid cam2world."""
        rotation = self.cam2world[:, :3, :3].transpose(1, 2)
        world2cam = torch.zeros_like(self.cam2world)
        world2cam[:, :3, :3] = rotation
        world2cam[:, :3, 3:] = -rotation @ self.cam2world[:, :3, 3:]
        world2cam[:, 3, 3] = 1
        return world2cam

    @property
    def centers(self) -> torch.Tensor:
        """[frames 3] camera centres in the world."""
        return self.cam2world[:, :3, 3]

    def resized(self, image_size: tuple[int, int]) -> Cameras:
        """The same cameras for an image (or latent grid) stretched to `image_size` (paper eq. 7)."""
        scale = torch.tensor([image_size[1] / self.image_size[1], image_size[0] / self.image_size[0], 1.0])
        return Cameras(self.cam2world, torch.diag(scale.double()) @ self.intrinsics, image_size)

    def center_cropped(self, image_size: tuple[int, int]) -> Cameras:
        """The same cameras after cutting the image to `image_size` around its middle, whole pixels from the upper left.

        The offset is (size - new size) // 2, the host VAE's own crop.
        """
        top, left = ((old - new) // 2 for old, new in zip(self.image_size, image_size, strict=True))
        if top < 0 or left < 0:
            raise ValueError(f"Cannot crop {self.image_size} to the larger {image_size}.")
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 2] -= left
        intrinsics[:, 1, 2] -= top
        return Cameras(self.cam2world, intrinsics, image_size)

    def moved(self, motion: torch.Tensor) -> Cameras:
        """The cameras after a rigid motion [4 4] of the whole world."""
        return Cameras(motion.double() @ self.cam2world, self.intrinsics, self.image_size)

    @staticmethod
    def joined(cameras: list[Cameras]) -> Cameras:
        """Several sequences of one image_size, end to end."""
        sizes = {one.image_size for one in cameras}
        if len(sizes) != 1:
            raise ValueError(f"Cameras of different image sizes cannot be joined: {sorted(sizes)}. Resize them first.")
        return Cameras(
            torch.cat([one.cam2world for one in cameras]), torch.cat([one.intrinsics for one in cameras]), sizes.pop()
        )


def pinhole_intrinsics(fov_degrees: float, image_size: tuple[int, int]) -> torch.Tensor:
    """[3 3] centred intrinsics with square pixels and a horizontal field of view in degrees."""
    if not 0 < fov_degrees < 180:
        raise ValueError(f"The field of view is {fov_degrees} degrees; it lies between 0 and 180.")
    height, width = image_size
    focal = width / 2 / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def fov_degrees(intrinsics: torch.Tensor, image_size: tuple[int, int]) -> float:
    """Horizontal field of view in degrees of centred intrinsics [3 3]; the inverse of pinhole_intrinsics."""
    return math.degrees(2 * math.atan(image_size[1] / 2 / float(intrinsics[0, 0])))


def unproject_cells(depth: torch.Tensor, cameras: Cameras, grid: LatentGrid) -> torch.Tensor:
    """World points of latent cells (paper eq. 4 and 8).

    depth: [frames rows columns], z-depth of each cell's ray; values that are not finite and > 0 give points to be
        thrown away by the caller.  cameras: one per frame, any image_size (resized to the grid here).
    Returns [frames rows columns 3] in depth's dtype and device.
    """
    frames, rows, columns = depth.shape
    if len(cameras) != frames:
        raise ValueError(
            f"There are {frames} depth maps and {len(cameras)} cameras; one camera per depth map is needed."
        )
    at_cells = cameras.resized((rows, columns))
    x = torch.arange(columns, dtype=torch.float64) + grid.cell_offset
    y = torch.arange(rows, dtype=torch.float64) + grid.cell_offset
    y, x = torch.meshgrid(y, x, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    rays = torch.einsum("fij,rcj->frci", torch.linalg.inv(at_cells.intrinsics), pixels)
    in_camera = rays.to(depth.device) * depth.double()[..., None]
    rotation = at_cells.cam2world[:, :3, :3].to(depth.device)
    points = torch.einsum("fij,frcj->frci", rotation, in_camera) + at_cells.centers.to(depth.device)[:, None, None]
    return points.to(depth.dtype)


def projection_matrices(cameras: Cameras, size: tuple[int, int], grid: LatentGrid) -> torch.Tensor:
    """[frames 3 4] float64: world point (homogeneous) -> (u z, v z, z), where floor(u), floor(v) is the cell.

    The cell rule of the grid is folded into the matrix, so both rules are read out by the same floor
    (paper eq. 9; the release's round() is floor(u + 1/2)).
    """
    at_cells = cameras.resized(size)
    intrinsics = at_cells.intrinsics.clone()
    intrinsics[:, 0, 2] += 0.5 - grid.cell_offset
    intrinsics[:, 1, 2] += 0.5 - grid.cell_offset
    return intrinsics @ at_cells.world2cam[:, :3]


def _check_rigid(cam2world: torch.Tensor) -> None:
    if not torch.isfinite(cam2world).all():
        raise ValueError("A camera pose contains NaN or infinite values.")
    rotation = cam2world[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64)
    is_off = (rotation @ rotation.transpose(1, 2) - identity).abs().amax(dim=(1, 2)) > _ROTATION_TOLERANCE
    is_off |= torch.linalg.det(rotation) < 0
    is_off |= (cam2world[:, 3] - torch.tensor([0.0, 0, 0, 1])).abs().amax(dim=1) > _ROTATION_TOLERANCE
    if is_off.any():
        first = int(is_off.nonzero()[0])
        raise ValueError(
            f"cam2world of camera {first} is not a rotation and a translation (scaled, mirrored or transposed axes). "
            "Convert the poses to OpenCV axes, camera-to-world, without scale."
        )


def _check_intrinsics(intrinsics: torch.Tensor) -> None:
    if not torch.isfinite(intrinsics).all() or (intrinsics[:, [0, 1], [0, 1]] <= 0).any():
        raise ValueError("intrinsics need finite values and focal lengths above 0.")
