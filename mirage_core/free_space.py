"""Space that cameras have looked through: nothing static can stand there.

A camera that saw a surface has seen that all before it, on the same ray, was empty. Such rays are known of a segment's
own frames, with all their depth, and of earlier frames for the points that they have left in the memory. So an object
that no earlier camera could have seen is never taken for one in empty space, wherever the camera is now.
"""

from __future__ import annotations

import torch

from .camera import Cameras, projection_matrices
from .latent_grid import LatentGrid
from .memory import LatentMemory

_MAX_CREATORS = 8  # earlier cameras asked per frame: those that most of the shown points come from
_CENTER = 0.05  # cells; a point lies on the ray through the centre of a cell of the camera it was seen by


class FreeSpace:
    """What cameras looked through, collected while a segment is written.

    Of earlier cameras it is what their points told when they were first asked: that points settle meanwhile by less
    than the tolerance changes nothing that matters.
    """

    def __init__(self, grid: LatentGrid, size: tuple[int, int], filmed_cameras: Cameras | None = None) -> None:
        """size: (rows, columns).  filmed_cameras: latent_index of a point is an index into them."""
        self._grid, self._size = grid, size
        none = torch.zeros(0, 3, 4, dtype=torch.float64)
        self._filmed = none if filmed_cameras is None else projection_matrices(filmed_cameras, size, grid)
        self._looks: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._earlier: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def looked(self, camera: Cameras, depth: torch.Tensor) -> None:
        """Remember that a camera saw surfaces at depth [rows columns], 0 = unknown."""
        self._looks.append((projection_matrices(camera, self._size, self._grid)[0], depth))

    def is_free(
        self, memory: LatentMemory, points: torch.Tensor, creators: torch.Tensor, tolerance: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether points [n 3] lie where a camera looked through, and whether they do so by more than a cell.

        memory: whose points tell what earlier cameras saw.  creators: [m] latent_index of points that concern the
        question; the cameras that occur most often are asked.
        tolerance: share of the depth that a surface must be behind the point.
        Returns two [n] bool: the point's own cell was looked through; and all known cells around it too.
        """
        through = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        clear = through.clone()
        points = points.double()
        for matrix, depth in [*self._looks, *self._of_creators(memory, creators)]:
            own, around = _looked_through(points, matrix.to(points.device), depth.to(points.device), tolerance)
            through |= own
            clear |= around
        return through, clear

    def _of_creators(self, memory: LatentMemory, creators: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if not len(self._filmed):
            return []
        counts = torch.bincount(creators[(creators >= 0) & (creators < len(self._filmed))].long())
        most = counts.argsort(descending=True, stable=True)[:_MAX_CREATORS].tolist()
        chosen = [index for index in most if counts[index]]
        for index in chosen:
            if index not in self._earlier:
                self._earlier[index] = self._filmed[index], self._left_by(memory, index)
        return [self._earlier[index] for index in chosen]

    def _left_by(self, memory: LatentMemory, index: int) -> torch.Tensor:
        """[rows columns] depth of the points that a film's latent frame has left, 0 where it left none."""
        rows, columns = self._size
        device = memory.blocks[0].points.device
        depth = torch.full((rows * columns,), torch.inf, dtype=torch.float64, device=device)
        for block in memory.blocks:
            points = block.points[block.latent_index == index].double()
            u, v, z = _image_positions(points, self._filmed[index].to(device))
            is_own = is_cell_center(u, v) & (z > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
            place = (v.floor() * columns + u.floor())[is_own].long()
            depth.scatter_reduce_(0, place, z[is_own], "amin")
        return depth.where(depth.isfinite(), 0.0).view(rows, columns)


def is_cell_center(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """bool, whether an image position is the centre of a cell, as it is where a camera saw a point first.

    Points of another film may carry this camera's index: theirs hardly ever lie on its rays.
    """
    return ((u - u.floor() - 0.5).abs() < _CENTER) & ((v - v.floor() - 0.5).abs() < _CENTER)


def neighbours_least(depth: torch.Tensor) -> torch.Tensor:
    """[rows columns] the least of each cell and its eight neighbours."""
    return -torch.nn.functional.max_pool2d(-depth[None], 3, stride=1, padding=1)[0]


def _looked_through(
    points: torch.Tensor, matrix: torch.Tensor, depth: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = depth.shape
    u, v, z = _image_positions(points, matrix)
    is_inside = (z > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
    row, column = v.clamp(0, rows - 1).long(), u.clamp(0, columns - 1).long()
    nearest = neighbours_least(torch.where(depth > 0, depth.double(), torch.inf))
    seen = depth.double()[row, column]
    through = is_inside & (seen > z * (1 + tolerance))
    return through, through & (nearest[row, column] > z * (1 + tolerance))


def _image_positions(points: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(u, v, z), each [n]; elementwise, so that no bit depends on how many points come together."""
    x, y, z = ((points[:, None] * matrix[:, :3]).sum(2) + matrix[:, 3]).unbind(1)
    in_front = z.clamp(min=1e-9)
    return (x / in_front).nan_to_num(-1), (y / in_front).nan_to_num(-1), z
