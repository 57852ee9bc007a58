"""Whether a Rollout that came out of a file is one: kinds, shapes and ranges of everything that it is made of.

A file may come from a stranger. What is checked here is what Rollout.started() and Rollout.extended() would have made;
reading files is rollout_files.py. Each error is a clause without a full stop ("it has 3 cameras for 9 latent frames").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .camera import Cameras
from .latent_grid import LatentGrid
from .latent_origin import LatentOrigin, checked_origin
from .memory import LatentMemory, MemoryBlock
from .memory_files import check_field, check_grid, check_kind
from .movers import MoverLayer
from .rgb_memory import is_rgb
from .rollout import Rollout
from .segments import Segment
from .tensor_files import check_room
from .zbuffer import MemoryView

_MAX_NUMBER = 1e9  # frames per second, world units
_MAX_NOTE = 20_000  # letters
_MAX_SHOWN_FRAMES = 1000


def check_rollout(rollout: Rollout) -> None:
    """Check all but the values of tensors, which are not read.  Raises ValueError for what is no film."""
    _check_kinds(rollout)
    check_grid(rollout.grid)
    check_grid(rollout.memory.grid)
    checked_origin(rollout.origin.latent_format, rollout.origin.vae)
    if rollout.memory.grid != rollout.grid and not is_rgb(rollout.memory):
        raise ValueError("its memory is on another latent grid than its film")
    for number in (rollout.fps, rollout.unit_length):
        if not _is_number(number) or not 0 < number < _MAX_NUMBER:
            raise ValueError(f"its fps and unit length are {_shown(rollout.fps)} and {_shown(rollout.unit_length)}")
    _check_plan(rollout)
    _check_latents(rollout)
    _check_told(rollout)
    for block in rollout.memory.blocks:
        _check_block(block, rollout.memory.grid)
    _check_view(rollout)
    _check_movers(rollout)


def check_values(rollout: Rollout) -> None:
    """Read all tensors; for files from elsewhere.

    Raises ValueError when one holds NaN or infinite values, or values that no memory has.
    """
    movers, view = rollout.movers, rollout.last_view
    blocks = (*rollout.memory.blocks, *([movers.block] if movers else []))
    tensors = [one for part in (*blocks, view, movers) if part for one in vars(part).values()]
    # They are mapped from files that may be mostly hole; looking at one makes a copy of it.
    largest = max(one.nbytes for one in (*tensors, *rollout.latents) if isinstance(one, torch.Tensor))
    check_room([largest])
    for block in blocks:
        for name, values in vars(block).items():
            if isinstance(values, torch.Tensor):
                check_field(name, values)
        if len(block) and int(block.latent_index.max()) >= rollout.filmed_latents:
            raise ValueError("its points come from frames that are not filmed yet")
    named = {f"latents of segment {number}": latents for number, latents in enumerate(rollout.latents)}
    for part, values in (("last view", view), ("movers", movers)):
        named |= {f"{part}: {name}": one for name, one in vars(values).items()} if values else {}
    for name, tensor in named.items():
        if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
            raise ValueError(f"its {name} contain NaN or infinite values")


def _check_kinds(rollout: Rollout) -> None:
    if type(rollout) is not Rollout:
        raise ValueError("it holds no film")
    kinds = {"memory": LatentMemory, "cameras": Cameras, "grid": LatentGrid, "origin": LatentOrigin}
    for name, kind in kinds.items():
        if not isinstance(getattr(rollout, name), kind):
            raise ValueError(f"its {name} are no {kind.__name__}")
    if not isinstance(rollout.memory.grid, LatentGrid):
        raise ValueError("its memory has no grid")
    for what, values, kind in (
        ("blocks", rollout.memory.blocks, MemoryBlock),
        ("plan", rollout.plan, Segment),
        ("latents", rollout.latents, torch.Tensor),
        ("coverage", rollout.coverage, tuple),
        ("notes", rollout.notes, str),
    ):
        if not isinstance(values, tuple) or not all(isinstance(one, kind) for one in values):
            raise ValueError(f"its {what} are no list of {kind.__name__}")


def _check_plan(rollout: Rollout) -> None:
    """Each frame of the path in one segment, in order, as plan_segments() and Rollout.redirected() make them."""
    stride, frames, stop = rollout.grid.temporal_stride, len(rollout.cameras), 0
    for number, segment in enumerate(rollout.plan):
        output, targets = segment.output, segment.target_frames
        is_row = type(output) is range and output.step == 1 and output.start == stop <= output.stop <= frames
        if not is_row or type(segment.index) is not int or segment.index != number:
            raise ValueError(f"its plan is not in order, or longer than its {frames} cameras")
        first, stop = max(0, stop - 1), output.stop
        expected = tuple(range(first, stop, stride))
        if type(segment.model_frames) is not int or segment.model_frames != stop - first:
            raise ValueError(f"its plan makes {_shown(segment.model_frames)} frames where {stop - first} are missing")
        if not rollout.grid.is_frame_count(segment.model_frames) or targets != expected or not _are_whole(targets):
            raise ValueError("its plan looks from other frames than it makes")


def _check_latents(rollout: Rollout) -> None:
    done, grid = rollout.segments_done, rollout.grid
    if not 0 <= done <= len(rollout.plan):
        raise ValueError(f"it has {done} finished segments of {len(rollout.plan)}")
    size = grid.size_of(rollout.cameras.image_size)
    lengths = [1, *(segment.latent_frames - 1 for segment in rollout.plan)]
    for latents, length in zip(rollout.latents, lengths, strict=False):
        check_kind("latents", latents)
        if tuple(latents.shape) != (grid.channels, length, *size):
            raise ValueError(f"it holds latents of shape {list(latents.shape)} for {length} frames of {size} cells")
    if len(rollout.cameras) < rollout.filmed_frames:
        raise ValueError(f"it has {len(rollout.cameras)} cameras for {rollout.filmed_latents} latent frames")


def _check_told(rollout: Rollout) -> None:
    """What is told of finished segments."""
    done = rollout.plan[: rollout.segments_done]
    if [len(shares) for shares in rollout.coverage] != [segment.latent_frames for segment in done]:
        raise ValueError("its coverage is not that of its finished segments")
    if not all(_is_number(share) and 0 <= share <= 1 for shares in rollout.coverage for share in shares):
        raise ValueError("its coverage lies outside of 0 to 1")
    if len(rollout.notes) > len(done) or any(len(note) > _MAX_NOTE for note in rollout.notes):
        raise ValueError("its notes are more, or longer, than its finished segments have")
    fit = rollout.depth_fit
    if fit is not None and not (isinstance(fit, tuple) and len(fit) == 2 and all(map(_is_number, fit))):
        raise ValueError("its depth fit is not a scale and a shift")


def _check_block(block: MemoryBlock, grid: LatentGrid) -> None:
    for name, values in vars(block).items():
        if isinstance(values, torch.Tensor):
            check_kind(name, values)
    if block.latents.shape[1] != grid.channels:
        raise ValueError(f"its points have {block.latents.shape[1]} channels and not {grid.channels}")


def _check_view(rollout: Rollout) -> None:
    view, grid = rollout.last_view, rollout.grid
    if view is None:
        return
    if not isinstance(view, MemoryView) or not rollout.segments_done:
        raise ValueError("its last view is none of a finished segment")
    cells = (rollout.plan[rollout.segments_done - 1].latent_frames, *rollout.size)
    for values, shape, is_kind in (
        (view.latents, (grid.channels, *cells), torch.is_floating_point),
        (view.is_covered, cells, _is_bool),
        (view.depth, cells, torch.is_floating_point),
        (view.point_index, cells, _is_index),
        (view.hole_latents, (grid.channels, *cells), torch.is_floating_point),
    ):
        if values is not None and not _is_tensor(values, shape, is_kind):
            raise ValueError("its last view is not one picture per latent frame of its newest segment")
    if any(one is None for one in (view.latents, view.is_covered, view.depth, view.point_index)):
        raise ValueError("its last view is not complete")


def _check_movers(rollout: Rollout) -> None:
    movers = rollout.movers
    if movers is None:
        return
    if not isinstance(movers, MoverLayer) or not isinstance(movers.block, MemoryBlock):
        raise ValueError("its movers are no MoverLayer")
    _check_block(movers.block, rollout.grid)
    count = len(movers.block)
    for values, shape in ((movers.velocities, (count, 3)), (movers.ranks, (count,))):
        if not _is_tensor(values, shape, torch.is_floating_point):
            raise ValueError("its movers have no speed and rank each")
    whole = (movers.latent_index, movers.shown_frames)
    if not _are_whole(whole) or not 0 <= whole[0] < rollout.filmed_latents or not 0 <= whole[1] <= _MAX_SHOWN_FRAMES:
        raise ValueError("its movers are of no frame of the film")


def _is_tensor(values: object, shape: tuple[int, ...], is_kind: Callable[[torch.Tensor], bool]) -> bool:
    return isinstance(values, torch.Tensor) and tuple(values.shape) == shape and is_kind(values)


def _is_bool(values: torch.Tensor) -> bool:
    return values.dtype == torch.bool


def _is_index(values: torch.Tensor) -> bool:
    return values.dtype == torch.int64


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)  # type: ignore[arg-type]


def _are_whole(values: tuple) -> bool:
    return all(type(one) is int for one in values)


def _shown(value: object) -> str:
    return ascii(value)[:20]
