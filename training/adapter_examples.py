"""What an adapter is trained on: segments of films, with a memory as it is at that moment of a flight.

The memory is built by mirage_core as in the nodes: lift, grow, project, select references, preceding frames. Then it
is made as imperfect as it will be: views are missing, poses, depths and scales are a little off, parts are forgotten,
and some latents are ones that a model made. Geometry runs in float64 outside any autocast.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from random import Random

import torch

from mirage_core.camera import Cameras
from mirage_core.fusion import fused
from mirage_core.latent_grid import CellRule, LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.references import default_voxel_size, select_references, shown_voxels
from mirage_core.side_branch import Layout, branch_context
from mirage_core.zbuffer import MemoryView, project

from .nano_films import Film

SEGMENT = 9  # latent frames, the first shared with the segment before
_NEW = SEGMENT - 1
_CANDIDATES = 12  # earlier frames that are looked at as references: more would cost more than the model


@dataclass(frozen=True)
class Recipe:
    """How examples are made. Rates are shares of the examples, in [0, 1].

    layout, cell_rule: what the branch reads; they go into its file.
    view_loss: share of earlier frames that the memory lacks.  hole_rate: examples with forgotten rectangles.
    empty_rate: examples whose memory shows nothing.  model_rate: examples whose past is what a model made (or noisy,
    where no model has made it).  text_loss: examples without text.
    turn_degrees, shift: of poses, the shift in median depths.  depth_noise, scale_noise: of log depth, per cell and per
    segment; all are standard deviations.
    static_rate: examples whose memory has no movers; in the others they are left in by mistake. 1 as the paper.
    fused_rate: examples whose memory is written as Write Memory does by itself, each place once (fusion.py); in the
    others everything is appended, which costs a third of the time.
    """

    layout: Layout = "hole_mask"
    cell_rule: CellRule = "center"
    max_references: int = 4
    max_preceding: int = 2
    view_loss: float = 0.2
    hole_rate: float = 0.3
    empty_rate: float = 0.05
    model_rate: float = 0.3
    text_loss: float = 0.1
    turn_degrees: float = 0.2
    shift: float = 0.004
    depth_noise: float = 0.005
    scale_noise: float = 0.01
    static_rate: float = 1.0
    fused_rate: float = 0.25

    @property
    def grid(self) -> LatentGrid:
        return LatentGrid(cell_rule=self.cell_rule)


@dataclass(frozen=True)
class Example:
    """One segment with its company, or a batch of them (then every tensor has a leading axis, texts one entry each).

    target: [channels frames rows columns].  context: [branch_channels frames rows columns] of target and preceding.
    references, preceding: [channels n rows columns] or None.  texts: the words of each, None where they are left out.
    """

    target: torch.Tensor
    context: torch.Tensor
    references: torch.Tensor | None
    preceding: torch.Tensor | None
    texts: tuple[tuple[str, ...] | None, ...]

    def to(self, device: torch.device | str) -> Example:
        moved = [None if one is None else one.to(device) for one in self.tensors]
        target, context, references, preceding = moved
        assert target is not None and context is not None
        return Example(target, context, references, preceding, self.texts)

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.target, self.context, self.references, self.preceding


def batch_of(films: list[Film], random: Random, recipe: Recipe, *, size: int) -> Example:
    """`size` examples with equally many references and preceding frames, drawn at random."""
    preceding = random.randint(0, recipe.max_preceding)
    references = random.randint(0, recipe.max_references)
    if random.random() < 0.25:  # the start of a film, which has no past
        preceding = references = 0
    examples = [
        example_of(random.choice(films), random, recipe, references=references, preceding=preceding)
        for _ in range(size)
    ]
    parts = zip(*(one.tensors for one in examples), strict=True)
    stacked = [None if part[0] is None else torch.stack([one for one in part if one is not None]) for part in parts]
    target, context, chosen, before = stacked
    assert target is not None and context is not None
    return Example(target, context, chosen, before, tuple(one.texts[0] for one in examples))


def example_of(film: Film, random: Random, recipe: Recipe, *, references: int, preceding: int) -> Example:
    """One segment of a film.

    Raises ValueError when the film is too short for so many references.
    """
    last = len(film) - SEGMENT
    # The references come from before the preceding and the overlap frame.
    first = 0 if references == preceding == 0 else max(references + preceding, preceding + 1)
    if first > last:
        raise ValueError(
            f"A film of {len(film)} latent frames has no {references} references before a segment. Make longer films."
        )
    start = random.randint(first, last)
    if references == preceding == 0 and random.random() < 0.5:
        start = 0
    past = _past_latents(film, random, recipe)
    noisy = _noisy(film, random, recipe)
    memory = _memory(noisy, past, random, recipe, until=start)
    targets = list(range(start, start + SEGMENT))
    view = _view(memory, film.cameras[targets], random, recipe)
    before = None
    if preceding:
        earlier = _memory(noisy, past, random, recipe, until=max(0, start - _NEW))
        rows = list(range(start - preceding, start))
        view = _joined(view, _view(earlier, film.cameras[rows], random, recipe))
        before = past[:, rows]
    chosen = None
    if references:
        at = _references(film, memory, random, start=start, preceding=preceding, count=references)
        chosen = past[:, at]
    text = None if random.random() < recipe.text_loss else film.words
    context = branch_context(view.latents, view.is_covered, recipe.layout)
    return Example(film.latents[:, targets], context, chosen, before, (text,))


def _past_latents(film: Film, random: Random, recipe: Recipe) -> torch.Tensor:
    if random.random() >= recipe.model_rate:
        return film.latents
    if film.predicted is not None:
        return film.predicted
    level = random.uniform(0.05, 0.25)
    return film.latents + level * torch.randn(film.latents.shape, generator=_torch_generator(random))


def _noisy(film: Film, random: Random, recipe: Recipe) -> Film:
    """The film with poses and depths as an estimate would have them; the first camera stays exact."""
    generator = _torch_generator(random)
    known = film.depth[film.depth > 0]
    unit = float(known.median()) if len(known) else 1.0
    count = len(film)
    turns = math.radians(recipe.turn_degrees) * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    shifts = recipe.shift * unit * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    turns[0], shifts[0] = 0, 0
    errors = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    errors[:, :3, :3], errors[:, :3, 3] = torch.linalg.matrix_exp(_cross(turns)), shifts
    cameras = Cameras(film.cameras.cam2world @ errors, film.cameras.intrinsics, film.cameras.image_size)
    segment = (torch.arange(count) + _NEW - 1) // _NEW
    scales = recipe.scale_noise * torch.randn(int(segment.max()) + 1, generator=generator)
    scales[0] = 0
    logs = scales[segment][:, None, None] + recipe.depth_noise * torch.randn(film.depth.shape, generator=generator)
    return replace(film, depth=film.depth * logs.exp(), cameras=cameras)


def _cross(vectors: torch.Tensor) -> torch.Tensor:
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)


def _memory(film: Film, latents: torch.Tensor, random: Random, recipe: Recipe, *, until: int) -> LatentMemory:
    """What has been written when the segment that begins with frame `until` is made: one block per segment."""
    is_masked, is_fused = random.random() < recipe.static_rate, random.random() < recipe.fused_rate
    memory = LatentMemory.empty(recipe.grid)
    bounds = [0, *range(1, until + 1, _NEW), until + 1] if until else [0, 1]
    for begin, end in itertools.pairwise(bounds):
        # The newest frame is the overlap: it is always there.
        frames = [one for one in range(begin, end) if one == until or random.random() >= recipe.view_loss]
        if not frames:
            continue
        new = latents[:, frames], film.depth[frames], film.cameras[frames]
        is_static = film.is_static[frames] if is_masked else None
        if is_fused:
            fusion = fused(memory, *new, is_static=is_static, first_latent_index=frames[0], features=None)
            memory = fusion.memory
        else:
            block = lift(*new, recipe.grid, is_static=is_static, first_latent_index=frames[0])
            memory = memory.extended(block)
    return memory


def _view(memory: LatentMemory, cameras: Cameras, random: Random, recipe: Recipe) -> MemoryView:
    size = memory.grid.size_of(cameras.image_size)
    if random.random() < recipe.empty_rate:
        memory = LatentMemory.empty(memory.grid)
    view = project(memory, cameras, size)
    if random.random() >= recipe.hole_rate:
        return view
    is_covered = view.is_covered.clone()
    for _ in range(random.randint(1, 4)):
        begin = random.randrange(len(is_covered))
        row, column = random.randrange(size[0]), random.randrange(size[1])
        height, width = random.randint(1, size[0] // 2), random.randint(1, size[1] // 2)
        is_covered[begin : begin + random.randint(1, SEGMENT), row : row + height, column : column + width] = False
    return replace(view, is_covered=is_covered)


def _joined(first: MemoryView, second: MemoryView) -> MemoryView:
    return MemoryView(
        torch.cat([first.latents, second.latents], dim=1),
        torch.cat([first.is_covered, second.is_covered]),
        torch.cat([first.depth, second.depth]),
        torch.cat([first.point_index, second.point_index]),
    )


def _references(
    film: Film, memory: LatentMemory, random: Random, *, start: int, preceding: int, count: int
) -> list[int]:
    """`count` earlier frames: half of the time those that saw most of the segment, else any, in random order."""
    earlier = list(range(start - preceding))
    random.shuffle(earlier)
    candidates, chosen = earlier[:_CANDIDATES], []
    if random.random() < 0.5 and memory.blocks:
        cameras = Cameras.joined([film.cameras[candidates], film.cameras[list(range(start, start + SEGMENT, 4))]])
        size = memory.grid.size_of(cameras.image_size)
        seen = shown_voxels(memory, cameras, size, voxel_size=default_voxel_size(memory))
        best = select_references(seen[len(candidates) :], seen[: len(candidates)], max_references=count)
        chosen = [candidates[one] for one in best]
    return (chosen + [one for one in candidates if one not in chosen])[:count]


def _torch_generator(random: Random) -> torch.Generator:
    return torch.Generator().manual_seed(random.getrandbits(62))
