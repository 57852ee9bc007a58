"""Cameras of a segment corrected by what the memory knows: depth is laid onto the remembered surfaces.

A path says where the camera should be; a generated film may have it a little elsewhere. Distances along the ray between
new points and known planes are made least by a few Gauss-Newton steps, smoothly over the frames and within bounds.
For depth whose scale is right: align first (alignment.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .camera import Cameras, unproject_cells
from .latent_grid import LatentGrid

MAX_DEGREES = 4.0  # a camera that is farther off has not followed the path; depth alone must not decide that
MAX_SHIFT = 0.08  # of the median depth

_STEPS = 12
_MIN_CELLS = 60
_REACH = 0.15  # share of the depth beyond which two surfaces are not compared
_FRAME_DEGREES, _FRAME_SHIFT = 0.1, 0.002  # change of the correction from frame to frame
_USUAL_DEGREES, _USUAL_SHIFT = 2.0, 0.04  # of the correction itself; the shift in median depths
_WEAKEST = 2e-3  # least mean square cosine with which the surfaces must hold every motion
_NEIGHBOURS = 4  # cells whose errors are alike
_LEAST_NOISE = 1e-4
_SAME_SURFACE = 0.1
_FLATTEST = 0.1  # least cosine between ray and normal by which a distance is taken along the ray
_BENT = (3.0, 0.002, 0.03)  # median distances from its plane, and bounds, from which on a cell is of no plane


@dataclass(frozen=True)
class Refinement:
    """cameras: the refined ones, or those given where is_refined is False.
    degrees, shifts: [frames] float64, how far each camera was turned, and moved in world units.
    residuals: before and after, median distance between the surfaces along the ray, as a share of the depth.
    reason: why nothing was refined, or "".
    """

    cameras: Cameras
    is_refined: bool
    degrees: torch.Tensor
    shifts: torch.Tensor
    residuals: tuple[float, float] = (math.nan, math.nan)
    reason: str = ""


def refine_cameras(
    cameras: Cameras,
    depth: torch.Tensor,
    known: torch.Tensor,
    is_known: torch.Tensor,
    grid: LatentGrid,
    *,
    weights: torch.Tensor | None = None,
) -> Refinement:
    """Cameras under which new depth lies on known surfaces.

    cameras: one per latent frame, where the path has them.  depth: [frames rows columns] new, at the right scale.
    known: [frames rows columns] depth that the memory shows to these very cameras.
    is_known: [frames rows columns] bool, True where both may be compared.  weights: of the known cells; default 1.

    Nothing is refined, and the reason told, where too little is shared, where the surfaces leave a motion open (a
    single wall lets the camera slide along it), where the way would be too far, and where it makes nothing better.
    """
    frames, rows, columns = depth.shape
    at_cells = cameras.resized((rows, columns))
    fit = _Surfaces.of(at_cells, depth, known, is_known, grid, weights)
    unmoved = torch.zeros(frames, 6, dtype=torch.float64)
    still = Refinement(cameras, False, unmoved[:, 0], unmoved[:, 0])
    shared = ((fit.weights > 0) & (fit.known_weights > 0)).flatten(1).sum(1)
    if int((shared >= _MIN_CELLS).sum()) == 0:
        return _refused(still, f"at most {int(shared.max())} cells are shared, {_MIN_CELLS} are needed")
    motion, before, noise, weakest = unmoved, math.nan, 0.0, 0.0
    for step in range(_STEPS):
        rows_of, residual, trust = fit.equations(motion)
        noise = max(_median(residual.abs(), trust > 0) * 1.4826, _LEAST_NOISE)
        before = noise / 1.4826 if step == 0 else before
        # Cauchy's weights: a wrong start leaves no sharp line between surfaces that fit and those that do not.
        trust = trust / (1 + (residual / (2 * noise)) ** 2)
        if step == 0:
            weakest = _weakest(rows_of, trust)
            if weakest < _WEAKEST:
                return _refused(still, "the shared surfaces leave the camera free to slide or turn, as one wall does")
        motion = motion + _smooth_step(rows_of, residual, trust / (noise**2 * _NEIGHBOURS), motion)
    degrees = torch.rad2deg(motion[:, :3].norm(dim=1))
    shifts = motion[:, 3:].norm(dim=1)
    _, residual, trust = fit.equations(motion)
    after = _median(residual.abs(), trust > 0)
    if float(degrees.max()) > MAX_DEGREES or float(shifts.max()) > MAX_SHIFT:
        way = f"turn by {float(degrees.max()):.1f} degrees and move by {float(shifts.max()):.0%} of the depth"
        return _refused(still, f"the cameras would {way}, too far for an error of the path")
    if not after < before:
        return _refused(still, "the surfaces fit no better than along the path")
    moved = cameras.cam2world @ _rigid(motion, fit.unit)
    return Refinement(
        Cameras(moved, cameras.intrinsics, cameras.image_size), True, degrees, shifts * fit.unit, (before, after)
    )


def _refused(still: Refinement, reason: str) -> Refinement:
    return Refinement(still.cameras, False, still.degrees, still.shifts, still.residuals, reason)


@dataclass(frozen=True)
class _Surfaces:
    """New points and known planes, each in the frame of the path's camera.

    points: [frames rows columns 3], lengths in `unit`, the median depth.  planes: [frames rows columns 3], n with
    n . x = 1 on the known surface.  weights: [frames rows columns], 0 where nothing is compared.
    known_weights: the same for the known cells.  intrinsics: [frames 3 3] of the grid.
    shift: added to image coordinates, so that a cell's own ray falls into its middle under either cell rule.
    """

    points: torch.Tensor
    planes: torch.Tensor
    weights: torch.Tensor
    known_weights: torch.Tensor
    intrinsics: torch.Tensor
    unit: float
    shift: float

    @staticmethod
    def of(
        at_cells: Cameras,
        depth: torch.Tensor,
        known: torch.Tensor,
        is_known: torch.Tensor,
        grid: LatentGrid,
        weights: torch.Tensor | None,
    ) -> _Surfaces:
        depth, known = depth.double().cpu(), known.double().cpu()
        is_new = depth.isfinite() & (depth > 0)
        is_old = is_known.cpu() & known.isfinite() & (known > 0)
        unit = float(known[is_old].median()) if is_old.any() else 1.0
        frames = len(depth)
        here = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)
        own = Cameras(here, at_cells.intrinsics, at_cells.image_size)
        rays = unproject_cells(torch.ones_like(depth), own, grid)
        inverse = torch.where(is_old, unit / torch.where(is_old, known, 1), 0.0)
        planes, is_plane = _fitted_planes(rays, inverse)
        old = is_plane.double() if weights is None else is_plane * weights.double().cpu()
        points = rays * torch.where(is_new, depth / unit, 1.0)[..., None]
        return _Surfaces(points, planes, is_new.double(), old, at_cells.intrinsics, unit, 0.5 - grid.cell_offset)

    def equations(self, motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Derivatives [frames cells 6] by turn and shift, distances [frames cells] along the ray over depth, and
        weights, when the cameras have moved by `motion` [frames 6] (turn in radians, shift in units)."""
        rows, columns = self.points.shape[1:3]
        rigid = _rigid(motion, 1.0)
        moved = torch.einsum("fij,frcj->frci", rigid[:, :3, :3], self.points) + rigid[:, None, None, :3, 3]
        image = torch.einsum("fij,frcj->frci", self.intrinsics, moved)
        column = (image[..., 0] / image[..., 2].clamp_min(1e-9) + self.shift).floor().long()
        row = (image[..., 1] / image[..., 2].clamp_min(1e-9) + self.shift).floor().long()
        is_inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (moved[..., 2] > 0)
        cell = (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)).flatten(1)
        planes = self.planes.flatten(1, 2).gather(1, cell[..., None].expand(-1, -1, 3))
        weights = self.known_weights.flatten(1).gather(1, cell) * self.weights.flatten(1) * is_inside.flatten(1)
        moved = moved.flatten(1, 2)
        length = planes.norm(dim=-1).clamp_min(1e-9)
        normals = planes / length[..., None]
        depth = moved[..., 2].clamp_min(1e-3)
        distance = (1 - (planes * moved).sum(-1)) / length
        weights = weights * ((distance / depth).abs() < _REACH)
        # Along the ray and over the depth, as errors of depth are: across a floor seen flat they would count for little
        # and those of a wall for much.
        along = (normals * moved).sum(-1).abs().maximum(_FLATTEST * depth)
        rows_of = torch.cat([torch.linalg.cross(moved, normals), normals], dim=-1) / along[..., None]
        return rows_of, distance / along, weights


def _fitted_planes(rays: torch.Tensor, inverse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Planes [... 3] through the known surface around each cell, n . ray = inverse depth, and where there is one.

    Inverse depth is linear over the image on a plane; a window of 3 x 3 cells takes the noise of single cells away.
    Where two walls meet, a plane would lie across the corner: cells are left out that are farther from theirs than
    others are.
    """
    frames, rows, columns, _ = rays.shape
    padded = torch.nn.functional.pad(inverse, [1] * 4)
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1).reshape(frames, rows, columns, 9)
    around = torch.nn.functional.pad(rays.permute(0, 3, 1, 2), [1] * 4, mode="replicate")
    around = around.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 4, 5, 1).reshape(frames, rows, columns, 9, 3)
    is_same = (windows > 0) & ((windows - inverse[..., None]).abs() < _SAME_SURFACE * inverse[..., None])
    weighted = around * is_same[..., None]
    normal = weighted.mT @ around + 1e-9 * torch.eye(3, dtype=torch.float64)
    planes = torch.linalg.solve(normal, (weighted * windows[..., None]).sum(-2))
    off = ((planes * rays).sum(-1) - inverse).abs() / inverse.clamp_min(1e-12)
    is_plane = is_same.sum(-1) >= 6
    share, least, most = _BENT
    bent = min(max(share * _median(off, is_plane), least), most) if is_plane.any() else most
    return planes, is_plane & (off < bent)


def _weakest(rows_of: torch.Tensor, trust: torch.Tensor) -> float:
    """Least eigenvalue of the mean normal matrix over all frames: 0 when some motion changes no distance."""
    weighted = rows_of * trust[..., None]
    normal = (weighted.mT @ rows_of).sum(0) / trust.sum().clamp_min(1e-9)
    return float(torch.linalg.eigvalsh(normal)[0])


def _smooth_step(
    rows_of: torch.Tensor, residual: torch.Tensor, precision: torch.Tensor, motion: torch.Tensor
) -> torch.Tensor:
    """[frames 6] Newton step of all frames at once."""
    frames = len(motion)
    weighted = rows_of * precision[..., None]
    system = torch.block_diag(*(weighted.mT @ rows_of))
    right = (weighted * residual[..., None]).sum(1).flatten()
    steps = torch.eye(frames, dtype=torch.float64).diff(dim=0)
    change, usual = (
        torch.tensor([math.radians(turn)] * 3 + [shift] * 3, dtype=torch.float64)
        for turn, shift in ((_FRAME_DEGREES, _FRAME_SHIFT), (_USUAL_DEGREES, _USUAL_SHIFT))
    )
    prior = torch.kron(steps.T @ steps, torch.diag(1 / change**2))
    prior = prior + torch.diag((1 / usual**2).repeat(frames))
    return torch.linalg.solve(system + prior, right - prior @ motion.flatten()).reshape(frames, 6)


def _rigid(motion: torch.Tensor, unit: float) -> torch.Tensor:
    """[frames 4 4] of turns (radians about an axis) and shifts (in units) [frames 6]."""
    turn = motion[:, :3]
    angle = turn.norm(dim=1).clamp_min(1e-12)
    axis = turn / angle[:, None]
    cross = torch.zeros(len(motion), 3, 3, dtype=torch.float64)
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross = cross - cross.mT
    rigid = torch.eye(4, dtype=torch.float64).repeat(len(motion), 1, 1)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    rigid[:, :3, :3] += sine * cross + (1 - cosine) * cross @ cross
    rigid[:, :3, 3] = motion[:, 3:] * unit
    return rigid


def _median(values: torch.Tensor, is_used: torch.Tensor) -> float:
    return float(values[is_used].median()) if is_used.any() else math.nan
