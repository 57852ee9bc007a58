"""One run of a segment loop: which segments are kept already, what is carried to the next, and what to tell of it."""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..mirage_core.rollout import Rollout
from ..mirage_core.rollout_files import KeptRollout, SegmentFile
from .host_cache import forget_nodes
from .loop_turns import Turn
from .segment_keys import GraphParts, differences, segment_key, turn_parts
from .segment_store import SegmentStore, clean, prune, set_aside

_MAX_RUNS = 16  # of one prompt: loops in a row, and in each other
_MAX_FILMS_IN_RAM = 2  # only where the disk cannot be written; the segments of a film share their tensors
_TOLD_CHANGES = 3
_LIKENESS = 6  # films whose starts differ in more have nothing to do with each other


@dataclass(frozen=True)
class LoopOrder:
    """What Segment Loop Start hands to its End.

    memory: the film where the loop begins, with the path it is to follow.  run: name of the folder, "" for one of the
    film's own.  quota_bytes: for all films on disk.
    """

    memory: Rollout
    turns: tuple[Turn, ...]
    is_keeping: bool = True
    run: str = ""
    quota_bytes: int = 20 * 2**30


@dataclass
class LoopRun:
    """The state of a loop while it runs. Turn i makes the segment number `first + i`.

    keys: of the film at the start, then of each segment; empty when nothing is to be kept.
    made_from: what made them, in the same order.  prompt: id of the prompt the loop runs in.
    before: the memory that the turn under way began with.
    memory: the newest memory.  kept: the same as it lies on disk, None when it does not.
    copies: ids of the copied nodes that the host has not forgotten yet.
    rendered: numbers of the segments that were made.
    changes: what differs from the newest film on disk.
    """

    order: LoopOrder
    start_key: str
    start_parts: GraphParts
    body_parts: GraphParts
    store: SegmentStore | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    keys: list[str] = field(default_factory=list)
    made_from: list[Mapping[str, str]] = field(default_factory=list)
    files: dict[str, SegmentFile] = field(default_factory=dict)
    kept: KeptRollout | None = None
    is_writable: bool = True
    copies: list[str] = field(default_factory=list)
    rendered: list[int] = field(default_factory=list)
    changes: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        self.memory = self.before = memory = self.order.memory
        if self.store is None:
            return
        self.keys.append(self.start_key)
        self.made_from.append(dict(self.start_parts.parts))
        for index, turn in enumerate(self.order.turns):
            self.made_from.append(turn_parts(memory, index, turn, self.body_parts))
            self.keys.append(segment_key(self.keys[-1], self.made_from[-1]))

    @property
    def first(self) -> int:
        """The number of the first segment of this loop, from 1."""
        return self.order.memory.segments_done + 1

    def begin(self) -> str:
        """Find what is kept, and say what will be done: "reused 1-6, rendering 7-12"."""
        if self.store is None:
            return f"rendering {_ranges(range(self.first, self.first + len(self.order.turns)))}; nothing is kept"
        reused = [index for index in range(len(self.order.turns)) if self._is_kept(index)]
        self.changes = self._changes() if len(reused) < len(self.order.turns) else ""
        clean(self.store.folder)
        self._prune()
        self._begin_film()
        return told(
            [self.first + index for index in reused],
            [self.first + index for index in range(len(self.order.turns)) if index not in reused],
            self.changes,
        )

    def reused(self, index: int, before: Rollout) -> Rollout | None:
        """The memory after turn `index`, if it is kept and follows on `before`."""
        if self.store is None or len(self.keys) <= index + 1:
            return None
        key, number = self.keys[index + 1], self.first + index
        if self.kept is not None and self.memory is before:
            file = self.store.find(key, number)
            if file is not None and self._load(file):
                self.store.mark_in_use(self.files.values())
                return self.memory
        if (held := self._in_ram().get(key)) is not None:
            return self._kept(index, held)
        return None

    def keep(self, index: int, after: Rollout) -> Rollout:
        """Keep the memory after turn `index`; gives it back with its tensors on disk, if that is possible."""
        self.rendered.append(self.first + index)
        return self._kept(index, after)

    def report(self) -> str:
        """What the loop has done."""
        numbers = range(self.first, self.first + len(self.order.turns))
        return told([one for one in numbers if one not in self.rendered], sorted(self.rendered), self.changes)

    def _kept(self, index: int, after: Rollout) -> Rollout:
        if self.store is None or len(self.keys) <= index + 1:
            return after
        if not self._is_next(index, after):
            logging.warning(
                "Mirage: the loop's body gives another memory than that of segment %d, so its segments are not kept.",
                self.first + index,
            )
            self.store.release()
            self.store = None
            return after
        if self.kept is not None and self.is_writable and self._write(index + 1, after):
            return self.memory
        self.kept, self.memory = None, self._on_path(after)
        _IN_RAM.setdefault(self.keys[0], {})[self.keys[index + 1]] = self.memory
        _IN_RAM.move_to_end(self.keys[0])
        while len(_IN_RAM) > _MAX_FILMS_IN_RAM:
            _IN_RAM.popitem(last=False)
        return self.memory

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
        self.files = {}

    def _is_kept(self, index: int) -> bool:
        assert self.store is not None
        key = self.keys[index + 1]
        return self.store.find(key, self.first + index) is not None or key in self._in_ram()

    def _in_ram(self) -> Mapping[str, Rollout]:
        return _IN_RAM.get(self.keys[0], {})

    def _begin_film(self) -> None:
        assert self.store is not None
        file = self.store.find(self.keys[0], self.first - 1, is_start=True)
        if file is not None and self._load(file):
            self.store.mark_in_use(self.files.values())
            return
        self._write(0, self.order.memory)
        self.store.mark_in_use(self.files.values())

    def _load(self, file: SegmentFile) -> bool:
        assert self.store is not None
        try:
            kept = self.store.load(file, self.kept, of={**self.files, file.key: file})
        except (ValueError, KeyError) as error:
            logging.warning("Mirage: %s It is set aside and made again.", error)
            set_aside(file.path)
            return False
        self._take(kept)
        return True

    def _write(self, position: int, rollout: Rollout) -> bool:
        assert self.store is not None
        try:
            kept = self.store.write(
                rollout,
                key=self.keys[position],
                made_from=self.made_from[position],
                before=self.kept,
                of=self.files,
            )
        except (OSError, ValueError, TypeError) as error:
            self.is_writable = False
            logging.warning(
                "Mirage: finished segments cannot be kept in %s (%s). The film goes on in RAM; after a restart it "
                "would begin at the last segment on disk. Make room or set another output folder.",
                self.store.folder,
                error,
            )
            return False
        self._take(kept)
        self.store.mark_in_use(self.files.values())
        self._prune()
        return True

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

    def _prune(self) -> None:
        assert self.store is not None
        spared = [self.store.path_of(key, self.first - 1 + at, is_start=at == 0) for at, key in enumerate(self.keys)]
        try:
            gone = prune(self.store.root, self.order.quota_bytes, spared=spared)
            if gone:
                logging.info("Mirage: %.2f GiB of kept segments were deleted to stay within the quota", gone / 2**30)
        except OSError as error:
            logging.warning("Mirage: old segments could not be deleted (%s).", error)

    def _changes(self) -> str:
        """What differs at the first segment to make from the newest kept film like this one; "" if there is none."""
        assert self.store is not None
        at = next(index for index in range(len(self.order.turns)) if not self._is_kept(index))
        number = self.first + at
        other = self.store.newest(number, previous=self.keys[at])
        if other is not None:
            return _listed(differences(self.made_from[at + 1], other.made_from, number))
        if at or any(one.key == self.keys[0] for one in self.store.starts()):
            return ""
        changes = [differences(self.made_from[0], one.made_from, 0) for one in self.store.starts()]
        fewest = min(changes, key=len, default=[])
        return _listed(fewest) if len(fewest) <= _LIKENESS else ""


def told(reused: list[int], rendered: list[int], changes: str = "") -> str:
    """One line on what a loop does."""
    parts = [f"reused {_ranges(reused)}"] if reused else []
    parts += [f"rendering {_ranges(rendered)}"] if rendered else []
    return ", ".join(parts) + (f" (changed: {changes})" if changes else "")


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


def _ranges(numbers) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _listed(changes: list[str]) -> str:
    more = len(changes) - _TOLD_CHANGES
    return ", ".join(changes[:_TOLD_CHANGES]) + (f" and {more} more" if more > 0 else "")


_RUNS: OrderedDict[str, LoopRun] = OrderedDict()
# Segments by key, of the films whose folder cannot be written, by the key of their start.
_IN_RAM: OrderedDict[str, dict[str, Rollout]] = OrderedDict()
