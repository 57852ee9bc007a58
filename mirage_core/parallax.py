"""Parallax: what moves by itself, from frames, their depth and their cameras.

Where a still world is seen again by a moved camera is known from its depth. The next frame is fetched from there, so
that the whole still world falls on itself, however fast the camera is, and only what moves is left displaced. That
displacement is found by a pyramidal Lucas-Kanade flow (Lucas and Kanade 1981; Bouguet 2001), dense and in torch.
Deciding is not done here: the result is a score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from .camera import Cameras
from .latent_grid import WAN22

FLOW_SIDE = 320  # pixels; the longer side of the pictures that flow is found on
LIKELY_MOVING = 0.75  # pixels of FLOW_SIDE that are as likely a motion as an error of the flow
LIKELY_GONE = 0.15  # share of its depth by which the other frame looks past a pixel, as likely gone as misjudged
DEPTH_ERROR = 0.05  # share of the camera's own parallax that depth may be wrong by
# So many times the displacement that is usual for what stands still is as likely a motion: two medians hold all but one
# in sixteen of errors that are normal in x and y.
WAVERING = 2.0
_WINDOW = 7  # pixels
_HOLE = 9  # pixels; what scores high all around this much does inside of it
_LEVELS = 4
_STEPS = 3  # per level
_NOISE = 0.02  # of a picture in [0, 1]; differences below are none
_FARTHEST = 1e6  # stands for infinitely far
_ENOUGH = 0.01  # share of a picture that has to be textured and stand still to tell how far the film wavers there
_TEXTURE = 1e-4  # mean squared gradient below which flow says nothing
_HIDDEN = 0.05  # share of its depth by which something must be behind another surface to be hidden by it


@dataclass(frozen=True)
class Reprojection:
    """Where a frame's pixels are in another frame if nothing moves.

    positions: [H W 2] x, y in pixels of the other frame.  depth: [H W] z-depth there.
    parallax: [H W] pixels by which the camera's translation alone moves them; what an error of depth acts on.
    is_seen: [H W] bool, in front of the other camera and inside of its picture, with a known depth.
    """

    positions: torch.Tensor
    depth: torch.Tensor
    parallax: torch.Tensor
    is_seen: torch.Tensor


@dataclass(frozen=True)
class Moving:
    """score: [frames h w] in [0, 1], how far a pixel moves otherwise than depth and cameras explain.
    wavering: [pairs] pixels of the scores' size by which what stands still is displaced between two frames that were
        compared, in the median; 0 if nothing says so.
    """

    score: torch.Tensor
    wavering: torch.Tensor

    @property
    def likely(self) -> torch.Tensor:
        """[pairs] pixels that score 1/2 where the camera does not travel."""
        return _likely(self.wavering)


def moving_score(
    pictures: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    *,
    step: int = 4,
    is_still: torch.Tensor | None = None,
) -> Moving:
    """What moves otherwise than depth and cameras explain.

    Made-up films do not obey their cameras exactly: held to a memory cell by cell they stand still and jump by a cell.
    Where a memory of still things shows, all displacement is of that kind, or due to depth, and only clearly more than
    it is a motion; from a cell on, anything is.

    pictures: [frames H W 3] in [0, 1].  depth: [frames Hd Wd] z-depth in the cameras' world units; not finite or <= 0
        is unknown.  cameras: one per frame.
    step: frames between those compared. Each frame is compared with the one before and the one after, where depth
        says that nothing hides the pixel there.
    is_still: [frames rows columns] bool of the same view, what stands still as far as is known; None says nothing. The
        fewer movers are in it the better; they may be less than half of it.
    h, w: the pictures' size, at most FLOW_SIDE. Pixels of which nothing can be said (unknown depth, hidden in both
        other frames) score 0.

    Raises ValueError when counts differ, with fewer than two frames, or step < 1.
    """
    frames = _checked(pictures, depth, cameras, step, is_still)
    size = flow_size((pictures.shape[1], pictures.shape[2]))
    small = functional.interpolate(pictures[..., :3].movedim(-1, 1).float(), size, mode="area")
    depth = functional.interpolate(depth[:, None].float(), size, mode="nearest-exact")[:, 0]
    at_size = cameras.resized(size)
    pairs = [
        (
            frame,
            _compared(
                small[frame], small[other], depth[other], reprojected(depth[frame], at_size[frame], at_size[other])
            ),
        )
        for frame in range(frames)
        for other in sorted({max(0, frame - step), min(frames - 1, frame + step)} - {frame})
    ]
    wavering = torch.zeros(len(pairs))
    if is_still is not None:
        half_cell = WAN22.spatial_stride / 2 * size[1] / pictures.shape[2]
        wavering = _wavering(pairs, is_still, size).clamp_max(half_cell)
    highest = torch.zeros(frames, *size)
    for (frame, pair), likely in zip(pairs, _likely(wavering).tolist(), strict=True):
        torch.maximum(highest[frame], pair.score(likely), out=highest[frame])
    return Moving(_closed(_smoothed(highest[:, None]))[:, 0], wavering)


def flow_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) on which flow is found for pictures of (height, width)."""
    scale = min(1.0, FLOW_SIDE / max(image_size))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def reprojected(depth: torch.Tensor, camera: Cameras, other: Cameras) -> Reprojection:
    """Where the pixels of depth [H W], seen by one camera, are in the picture of the other; both of that size."""
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    motion = other.world2cam[0] @ camera.cam2world[0]
    turned = other.intrinsics[0] @ motion[:3, :3] @ torch.linalg.inv(camera.intrinsics[0]) @ pixels
    shift = other.intrinsics[0] @ motion[:3, 3:]
    is_known = torch.isfinite(depth) & (depth > 0)
    z = torch.where(is_known, depth, 1.0).double().flatten()
    moved = turned * z + shift
    ahead = moved[2].clamp_min(1e-9)
    positions = (moved[:2] / ahead).T.reshape(height, width, 2).float()
    parallax = (moved[:2] / ahead - turned[:2] / turned[2].clamp_min(1e-9)).norm(dim=0).view(height, width).float()
    inside = (positions >= 0).all(-1) & (positions[..., 0] <= width) & (positions[..., 1] <= height)
    is_seen = is_known & inside & (moved[2] > 1e-6).view(height, width)
    return Reprojection(positions, moved[2].view(height, width).float(), parallax, is_seen)


def residual_flow(picture: torch.Tensor, fetched: torch.Tensor) -> torch.Tensor:
    """[2 H W] x, y in pixels: where each pixel of `picture` is found in `fetched`, both [channels H W] in [0, 1]."""
    pyramid = [(picture[None], fetched[None])]
    for _ in range(_LEVELS - 1):
        if min(pyramid[-1][0].shape[2:]) < 4 * _WINDOW:
            break
        pyramid.append(tuple(functional.avg_pool2d(_smoothed(one), 2, ceil_mode=True) for one in pyramid[-1]))  # type: ignore[arg-type]
    flow = torch.zeros(1, 2, *pyramid[-1][0].shape[2:])
    for first, second in reversed(pyramid):
        if flow.shape[2:] != first.shape[2:]:
            flow = 2 * functional.interpolate(flow, first.shape[2:], mode="bilinear", align_corners=False)
        flow = _refined(first, second, flow)
    return flow[0]


@dataclass(frozen=True)
class _Pair:
    """One frame compared with another, all [H W].

    distance: pixels of displacement.  parallax: see Reprojection.  gain: in [0, 1], how sure the displacement is.
    gone: score of what has gone from where it stood.  is_known: whether anything can be said.  is_textured: whether a
        distance of 0 says that nothing moves.
    """

    distance: torch.Tensor
    parallax: torch.Tensor
    gain: torch.Tensor
    gone: torch.Tensor
    is_known: torch.Tensor
    is_textured: torch.Tensor

    def score(self, likely: float) -> torch.Tensor:
        """likely: pixels that are as likely a motion as an error."""
        allowed = likely + DEPTH_ERROR * self.parallax
        displaced = self.distance**2 / (self.distance**2 + allowed**2) * self.gain
        return torch.maximum(displaced, self.gone) * self.is_known


def _compared(picture: torch.Tensor, other: torch.Tensor, other_depth: torch.Tensor, seen: Reprojection) -> _Pair:
    fetched = _sampled(other[None], seen.positions[None])[0]
    met = _sampled(other_depth.nan_to_num(0, _FARTHEST, 0)[None, None], seen.positions[None], mode="nearest")[0, 0]
    is_hidden = (met > 0) & (met < seen.depth * (1 - _HIDDEN))
    # What cannot be compared is made equal, so that it pulls no neighbour along.
    is_known = seen.is_seen & ~is_hidden
    fetched = torch.where(is_known, fetched, picture)
    flow = residual_flow(picture, fetched)
    still, followed = (
        _boxed((picture - one).abs().mean(0)[None, None])[0, 0]
        for one in (fetched, _sampled(fetched[None], _grid(picture.shape[1:]) + flow.movedim(0, -1)[None])[0])
    )
    gain = (2 * ((still - followed) / (still + _NOISE)).clamp(0, 1)).clamp_max(1)
    # Where the other frame looks through what should stand there, it has gone, however far.
    beyond = torch.where((met > 0) & is_known, met / seen.depth - 1, 0.0).clamp_min(0)
    gone = beyond**2 / (beyond**2 + LIKELY_GONE**2) * (still / (2 * _NOISE)).clamp_max(1)
    across, down = _gradients(picture[None])
    is_textured = _boxed((across**2 + down**2).mean(1, keepdim=True))[0, 0] > _TEXTURE
    return _Pair(flow.norm(dim=0), seen.parallax, gain, gone, is_known, is_textured)


def _likely(wavering: torch.Tensor) -> torch.Tensor:
    return (WAVERING * wavering).clamp_min(LIKELY_MOVING)


def _wavering(pairs: list[tuple[int, _Pair]], is_still: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[pairs] the median displacement, beyond what depth may be wrong by, of what stands still.

    Pairs with too little of it have the median of the others.
    """
    at_size = functional.interpolate(is_still[:, None].float(), size, mode="nearest-exact")[:, 0] > 0
    found = torch.full((len(pairs),), torch.nan)
    for number, (frame, pair) in enumerate(pairs):
        tells = pair.is_known & pair.is_textured & at_size[frame]
        if tells.float().mean() >= _ENOUGH:
            found[number] = (pair.distance - DEPTH_ERROR * pair.parallax).clamp_min(0)[tells].median()
    return torch.where(found.isnan(), found.nanmedian(), found).nan_to_num(0.0)


def _refined(first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    gradient_x, gradient_y = _gradients(first)
    xx, xy, yy = (_boxed((a * b).mean(1, keepdim=True)) for a, b in _pairs(gradient_x, gradient_y))
    # Where there is no texture in some direction nothing is said about it, and the coarser level stays.
    damping = 1e-4 + 0.02 * (xx + yy)
    determinant = (xx + damping) * (yy + damping) - xy * xy
    grid = _grid(first.shape[2:])
    for _ in range(_STEPS):
        error = first - _sampled(second, grid + flow.movedim(1, -1))
        ex, ey = (_boxed((gradient * error).mean(1, keepdim=True)) for gradient in (gradient_x, gradient_y))
        change_x = ((yy + damping) * ex - xy * ey) / determinant
        change_y = ((xx + damping) * ey - xy * ex) / determinant
        flow = flow + torch.cat([change_x, change_y], 1).clamp(-2, 2)
    return flow


def _pairs(x: torch.Tensor, y: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    return (x, x), (x, y), (y, y)


def _gradients(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    return (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2, (
        padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    ) / 2


def _boxed(maps: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(maps, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)


def _closed(scores: torch.Tensor) -> torch.Tensor:
    """Untextured insides of movers filled: there the flow says nothing, but all around it does."""
    widened = functional.max_pool2d(scores, _HOLE, stride=1, padding=_HOLE // 2)
    return -functional.max_pool2d(-widened, _HOLE, stride=1, padding=_HOLE // 2)


def _smoothed(maps: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _grid(size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """[1 H W 2] pixel centres x, y."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1)[None]


def _sampled(maps: torch.Tensor, positions: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """maps [1 channels H W] at positions [1 h w 2] in pixels; the border goes on outside."""
    size = torch.tensor([maps.shape[3], maps.shape[2]], dtype=positions.dtype)
    return functional.grid_sample(maps, positions / size * 2 - 1, mode=mode, padding_mode="border", align_corners=False)


def _checked(
    pictures: torch.Tensor, depth: torch.Tensor, cameras: Cameras, step: int, is_still: torch.Tensor | None
) -> int:
    frames = pictures.shape[0]
    if not frames == depth.shape[0] == len(cameras):
        raise ValueError(
            f"There are {frames} pictures, {depth.shape[0]} depth maps and {len(cameras)} cameras; parallax needs one "
            "of each per frame."
        )
    if is_still is not None and is_still.shape[0] != frames:
        raise ValueError(f"is_still has {is_still.shape[0]} frames for {frames} pictures; parallax needs one of each.")
    if frames < 2:
        raise ValueError("There is one frame; parallax needs at least two.")
    if step < 1:
        raise ValueError(f"step is {step}; frames are compared with others at least 1 away.")
    return frames
