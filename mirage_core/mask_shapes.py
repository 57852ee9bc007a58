"""Growing, holding, thinning out and softening masks of whole segments, fast enough for a slider.

Masks are [frames H W] bool, True where something is excluded. Everything is shifts and ORs of bytes: at 352 x 640 a
segment of 33 frames has 7 million pixels, and a pooling in floating point takes 100 ms where two shifts take one. What
a mask means is not known here.
"""

from __future__ import annotations

import torch

CELL = 4  # pixels; regions are told apart on squares of 4 x 4, which keeps noise from making a million of them
_RINGS = 4  # steps of a feathered edge


def grown(is_excluded: torch.Tensor, steps: int) -> torch.Tensor:
    """[frames H W] bool: True within `steps` pixels (or cells), diagonals included, of a True one."""
    _check(is_excluded, steps)
    return _spread(_spread(is_excluded, steps, 1), steps, 2)


def held(is_excluded: torch.Tensor, frames: int) -> torch.Tensor:
    """[frames H W] bool: True where a pixel is True at most `frames` frames earlier or later."""
    _check(is_excluded, frames)
    return _spread(is_excluded, frames, 0)


def feathered(is_excluded: torch.Tensor, steps: int) -> torch.Tensor:
    """[frames H W] uint8: 255 where True, falling to 0 within `steps` pixels around, in a few rings."""
    _check(is_excluded, steps)
    rings = min(steps, _RINGS)
    level = is_excluded.view(torch.uint8) * (255 - 255 // (rings + 1) * rings)
    reached, done = is_excluded, 0
    for ring in range(1, rings + 1):
        reached = grown(reached, steps * ring // rings - done)
        done = steps * ring // rings
        level.add_(reached.view(torch.uint8), alpha=255 // (rings + 1))
    return level


def without_small(is_excluded: torch.Tensor, min_pixels: int) -> torch.Tensor:
    """The mask without regions of fewer than `min_pixels` pixels.

    is_excluded: [frames H W] bool, H and W multiples of CELL. A region is what hangs together within a frame, seen in
        squares of CELL x CELL pixels that are touched at all: gaps below that are bridged.

    Raises ValueError for sides that are no multiples of CELL.
    """
    frames, height, width = is_excluded.shape
    if height % CELL or width % CELL:
        raise ValueError(f"The mask is {width}x{height}; regions are counted on squares of {CELL}. Resample it first.")
    if min_pixels <= 1 or not is_excluded.any():
        return is_excluded
    rows, columns = height // CELL, width // CELL
    # Four bytes of a row as one number: the bytes add up without carrying into each other.
    packed = is_excluded.contiguous().view(torch.int32).view(frames, rows, CELL, columns)
    first, second, third, fourth = packed.unbind(2)
    counts = ((first + second + third + fourth) * 0x01010101) >> 24
    is_small = _is_small(counts, min_pixels)
    if not is_small.any():
        return is_excluded
    return torch.where(is_small[:, :, None], 0, packed).view(frames, height, columns).view(torch.bool)


def _is_small(counts: torch.Tensor, min_pixels: int) -> torch.Tensor:
    """[frames rows columns] bool: cells of regions with fewer than `min_pixels`. counts: int32 pixels per cell."""
    # A border that is never touched: no region reaches from one row's end to the next row, nor to the next frame.
    padded = torch.nn.functional.pad(counts, (1, 1, 0, 1))
    stride, flat = padded.shape[2], padded.flatten()
    is_touched = (flat > 0).to(torch.int8)
    change = is_touched.diff(prepend=is_touched[-1:])
    starts, ends = (change == 1).nonzero()[:, 0], (change == -1).nonzero()[:, 0] - 1
    below = flat.cumsum(0)
    areas = below[ends] - below[starts - 1]
    regions = _regions(starts, ends, stride)
    area = torch.zeros_like(areas).scatter_add_(0, regions, areas)[regions]
    small = area < min_pixels
    marks = torch.zeros(len(flat) + 1, dtype=torch.int8, device=flat.device)
    marks[starts[small]] += 1
    marks[ends[small] + 1] -= 1
    is_small = marks.cumsum(0, dtype=torch.int8)[:-1].view(padded.shape) > 0
    return is_small[:, :-1, 1:-1]


def _regions(starts: torch.Tensor, ends: torch.Tensor, stride: int) -> torch.Tensor:
    """[runs] int64, the least run of the region each run is in. Runs touch across rows, diagonals included."""
    low = torch.searchsorted(ends, starts - 1 + stride)
    high = torch.searchsorted(starts, ends + 1 + stride, right=True)
    counts = (high - low).clamp_min(0)
    above = torch.repeat_interleave(counts)
    rank = torch.arange(len(above), device=starts.device) - (counts.cumsum(0) - counts)[above]
    below = low[above] + rank
    region = torch.arange(len(starts), device=starts.device)
    while True:
        one, other = region[above], region[below]
        if torch.equal(one, other):
            return region
        least = torch.minimum(one, other)
        region.scatter_reduce_(0, one, least, "amin")
        region.scatter_reduce_(0, other, least, "amin")
        while not torch.equal(region, shorter := region[region]):
            region = shorter


def _spread(mask: torch.Tensor, steps: int, dim: int) -> torch.Tensor:
    """True within `steps` along one axis, in doubling shifts."""
    for side in (1, -1):
        covered = 0
        while covered < min(steps, mask.shape[dim] - 1):
            shift = min(covered + 1, steps - covered, mask.shape[dim] - 1)
            length = mask.shape[dim] - shift
            first, last = mask.narrow(dim, 0, length), mask.narrow(dim, shift, length)
            moved, onto = (first, last) if side > 0 else (last, first)
            spread = mask.clone()
            torch.logical_or(onto, moved, out=spread.narrow(dim, shift if side > 0 else 0, length))
            mask, covered = spread, covered + shift
    return mask


def _check(mask: torch.Tensor, steps: int) -> None:
    if mask.ndim != 3 or mask.dtype != torch.bool:
        raise ValueError(f"The mask is {mask.dtype} {list(mask.shape)}; it is bool and [frames H W].")
    if steps < 0:
        raise ValueError(f"A mask cannot grow by {steps}; give 0 or more.")
