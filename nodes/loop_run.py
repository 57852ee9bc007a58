"""One run of a segment loop: which segments are kept already, what is carried to the next, and what to tell of it."""

from __future__ import annotations

import errno
import logging
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..mirage_core.rollout import Rollout
from ..mirage_core.rollout_files import KeptRollout, SegmentFile, placed_tensors
from ..mirage_core.rollout_trees import Place
from .film_starts import FilmStart
from .host_cache import forget_nodes, what_stays
from .loop_turns import LoopOrder
from .loop_words import changed, ranges, told
from .segment_keys import GraphParts, differences, segment_key, turn_parts
from .segment_pruning import clean, make_room, prune
from .segments_in_ram import forget_in_ram, keep_in_ram, kept_in_ram, ram_limit

_MAX_RUNS = 16  # of one prompt: loops in a row, and in each other
_LIKENESS = 6  # films whose starts differ in more have nothing to do with each other
_ROOM = 2**28  # bytes to free where a disk is full
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no EDQUOT


@dataclass
class LoopRun:
    """The state of a loop while it runs. Turn i makes the segment number `first + i`.

    start: what the film goes on from; None when nothing is to be kept.  prompt: id of the prompt the loop runs in.
    warnings: what the user has to know, one sentence each.
    keys: of the film at the start, then of each segment; empty when nothing is to be kept.
    made_from: what made them, in the same order.
    before: the memory that the turn under way began with.
    memory: the newest memory.  kept: the newest one on disk, as it lies there.
    pending: memories that are not on disk yet, by their place in `keys`.
    placed: tensors in RAM that have come to lie on disk since the first of `pending`, and where.
    copies: ids of the copied nodes that the host has not forgotten yet.
    rendered: numbers of the segments that were made.
    reason: why segments are made that were made once before, or "".
    """

    order: LoopOrder
    start: FilmStart | None
    body_parts: GraphParts
    prompt: str = ""
    warnings: list[str] = field(default_factory=list)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    keys: list[str] = field(default_factory=list)
    made_from: list[Mapping[str, str]] = field(default_factory=list)
    files: dict[str, SegmentFile] = field(default_factory=dict)
    kept: KeptRollout | None = None
    pending: dict[int, Rollout] = field(default_factory=dict)
    placed: list[tuple[torch.Tensor, Place]] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    rendered: list[int] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        self.memory = self.before = memory = self.order.memory
        self.store = self.start.store if self.start else None
        if self.start is None:
            return
        self.warnings = self.start.store.warnings
        self.keys.append(self.start.key)
        self.made_from.append(dict(self.start.made_from))
        for index, turn in enumerate(self.order.turns):
            self.made_from.append(turn_parts(memory, index, turn, self.body_parts))
            self.keys.append(segment_key(self.keys[-1], self.made_from[-1]))

    @property
    def first(self) -> int:
        """The number of the first segment of this loop, from 1."""
        return self.order.memory.segments_done + 1

    @property
    def numbers(self) -> range:
        """The numbers of all segments of this loop."""
        return range(self.first, self.first + len(self.order.turns))

    def begin(self) -> str:
        """Find what is kept, and say what will be done: "reused 1-6, rendering 7-12"."""
        if self.store is None:
            return self._with_notes(f"rendering {ranges(self.numbers)}; nothing is kept")
        self.store.mark_in_use()  # before anything is looked for: another server may be pruning
        reused = [number for index, number in enumerate(self.numbers) if self._is_kept(index)]
        missing = [number for number in self.numbers if number not in reused]
        self.reason = self._reason(missing[0] - self.first) if missing else ""
        clean(self.store.folder)
        self._prune()
        self._begin_film()
        return self._with_notes(told(reused, missing, self.reason))

    def reused(self, index: int, before: Rollout) -> Rollout | None:
        """The memory after turn `index`, if it is kept and follows on `before`."""
        if self.store is None or len(self.keys) <= index + 1:
            return None
        key, number = self.keys[index + 1], self.first + index
        if self.kept is not None and not self.pending and self.memory is before:
            file = self.store.find(key, number)
            if file is not None and self._load(file):
                self.store.mark_in_use(self.files.values())
                return self.memory
        if (held := kept_in_ram(self.keys[0]).get(key)) is not None:
            return self._kept(index, held)
        return None

    def keep(self, index: int, after: Rollout) -> Rollout:
        """Keep the memory after turn `index`; gives it back with its tensors on disk, if that is possible."""
        self.rendered.append(self.first + index)
        return self._kept(index, after)

    def report(self) -> str:
        """What the loop has done, and below it what the user has to know."""
        reused = [number for number in self.numbers if number not in self.rendered]
        return self._with_notes(told(reused, sorted(self.rendered), self.reason))

    def notes(self) -> list[str]:
        """What the user has to know, one sentence each."""
        notes = list(self.warnings)
        if waiting := [self.first - 1 + position for position in self.pending if position]:
            notes.append(f"Segments in RAM only, lost when ComfyUI ends: {ranges(waiting)}.")
        if self.rendered and (stays := what_stays()):
            notes.append(stays)
        return notes

    def forget(self) -> None:
        """Have the host let go of what the turns so far leave behind."""
        forget_nodes(self.copies)
        self.copies = []

    def finish(self) -> None:
        """Let go of everything."""
        if self.store is not None:
            self.store.mark_in_use(self.files.values())
            self.store.release()
        self.kept = None
        self.files, self.pending, self.placed = {}, {}, []

    def _with_notes(self, text: str) -> str:
        return "\n".join([text, *self.notes()])

    def _kept(self, index: int, after: Rollout) -> Rollout:
        if self.store is None or len(self.keys) <= index + 1:
            return after
        if not self._is_next(index, after):
            self._keep_nothing(
                f"The loop's body gives another memory than that of segment {self.first + index}, so its segments are "
                "not kept. Connect the memory of Write Memory to Segment Loop End."
            )
            return after
        self.memory = self._on_path(after)
        self.pending[index + 1] = after
        self._write_pending()
        limit = ram_limit()
        if self.pending and not keep_in_ram(self.keys[0], self.keys[index + 1], self.memory, limit_bytes=limit):
            self._keep_nothing(
                f"The segments that wait for the disk take more than {limit / 2**30:.0f} GiB, a quarter of this "
                f"machine's RAM. From segment {self.first - 1 + max(1, min(self.pending))} on nothing is kept."
            )
        return self.memory

    def _keep_nothing(self, why: str) -> None:
        assert self.store is not None
        self.store.warn(why)
        self.store.release()
        self.store, self.pending, self.placed = None, {}, []

    def _is_kept(self, index: int) -> bool:
        assert self.store is not None
        key = self.keys[index + 1]
        return self.store.find(key, self.first + index) is not None or key in kept_in_ram(self.keys[0])

    def _begin_film(self) -> None:
        assert self.store is not None
        file = self.store.find(self.keys[0], self.first - 1, is_start=True)
        if file is None or not self._load(file):
            self.pending[0] = self.order.memory
            self._write_pending()
        self.store.mark_in_use(self.files.values())

    def _load(self, file: SegmentFile) -> bool:
        assert self.store is not None
        kept = self.store.load(file, self.kept, of={**self.files, file.key: file})
        if kept is not None:
            self._take(kept)
        return kept is not None

    def _write_pending(self) -> None:
        """Write what is not on disk yet, in its order, until something cannot be written."""
        assert self.store is not None
        for position, rollout in sorted(self.pending.items()):
            try:
                kept = self._written(position, rollout)
            except (OSError, ValueError, TypeError) as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else error
                self.store.warn(
                    f"Finished segments cannot be kept in {self.store.folder} ({why}). The film goes on in RAM, and "
                    "after each segment the disk is tried again. Make room, or set another output folder."
                )
                return
            del self.pending[position]
            forget_in_ram(self.keys[0], self.keys[position])
            self.placed += placed_tensors(rollout, kept.file)
            self._take(kept)
            self.store.mark_in_use(self.files.values())
            self._prune()
        self.placed = []

    def _written(self, position: int, rollout: Rollout) -> KeptRollout:
        """A memory as it lies on disk now. Where the disk is full, the oldest segments of others go first."""
        store, before = self.store, self.kept
        assert store is not None
        places = {id(tensor): place for tensor, place in self.placed} | (before.places if before else {})

        def write() -> KeptRollout:
            return store.write(
                rollout,
                key=self.keys[position],
                made_from=self.made_from[position],
                before=before,
                of=self.files,
                places=places,
            )

        try:
            return write()
        except OSError as error:
            if error.errno not in _FULL or not make_room(store.root, _ROOM, spared=self._spared()):
                raise
            return write()

    def _take(self, kept: KeptRollout) -> None:
        self.kept, self.memory = kept, self._on_path(kept.rollout)
        # Only where the tensors are: the trees of a long film would fill the RAM with the square of its length.
        self.files[kept.file.key] = replace(kept.file, tree=None, made_from={}, needs={})

    def _on_path(self, rollout: Rollout) -> Rollout:
        """A kept memory knows the path of its own day; where it goes from here is up to this loop."""
        ours, theirs = self.order.memory.cameras, rollout.cameras
        is_same = rollout.plan == self.order.memory.plan and torch.equal(theirs.cam2world, ours.cam2world)
        if is_same and torch.equal(theirs.intrinsics, ours.intrinsics):
            return rollout  # with the cameras that are on disk already
        return replace(rollout, cameras=self.order.memory.cameras, plan=self.order.memory.plan)

    def _is_next(self, index: int, after: Rollout) -> bool:
        return after.segments_done == self.first + index and after.plan == self.order.memory.plan

    def _spared(self) -> list:
        assert self.store is not None
        return [self.store.path_of(key, self.first - 1 + at, is_start=at == 0) for at, key in enumerate(self.keys)]

    def _prune(self) -> None:
        assert self.store is not None
        try:
            gone = prune(self.store.root, self.order.quota_bytes, spared=self._spared())
            if gone:
                logging.info("Mirage: %.2f GiB of kept segments were deleted to stay within the quota", gone / 2**30)
        except OSError as error:
            logging.warning("Mirage: old segments could not be deleted (%s).", error)

    def _reason(self, at: int) -> str:
        """Why turn `at`, the first to make, is made: how it differs from the newest kept film like this one.

        "" if there is none.
        """
        assert self.store is not None
        other = self.store.newest(self.first + at, previous=self.keys[at])
        if other is not None:
            return changed(differences(self.made_from[at + 1], other.made_from, self.first + at))
        starts = list(self.store.starts())
        if at or any(one.key == self.keys[0] for one in starts):
            return ""
        fewest = min((differences(self.made_from[0], one.made_from, 0) for one in starts), key=len, default=None)
        if fewest is None or len(fewest) > _LIKENESS:
            return ""
        return changed(fewest) or "nothing in front of the loop has changed, yet it gives another start each time"


def started(run: LoopRun) -> LoopRun:
    """Remember a run, for the nodes that it consists of. The runs of earlier prompts are over, however they ended."""
    for id in [one.id for one in _RUNS.values() if one.prompt != run.prompt]:
        _RUNS.pop(id).finish()
    _RUNS[run.id] = run
    while len(_RUNS) > _MAX_RUNS:
        _RUNS.popitem(last=False)[1].finish()
    return run


def running(id: str) -> LoopRun:
    """The run with this id. Raises ValueError when it is long over."""
    if id not in _RUNS:
        raise ValueError("This turn belongs to a loop that is over. Queue the workflow again.")
    return _RUNS[id]


_RUNS: OrderedDict[str, LoopRun] = OrderedDict()
