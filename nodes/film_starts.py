"""Which kept start a film goes on from.

A start is known by its content, to the bit. Where a GPU computes the depth or the latents a little differently after a
restart, it is known by its origin instead: the nodes, files, code and device that made it. Then the film goes on from
the start that is kept, and so bit for bit as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..mirage_core.camera import Cameras
from ..mirage_core.rollout import Rollout
from ..mirage_core.rollout_files import content_key
from ..mirage_core.rollout_trees import canonical
from .conditions import conditions
from .loop_body import Link
from .segment_keys import ORIGIN, graph_parts
from .segment_store import SegmentStore, film_folder, kept_starts

# Where the film goes makes no start. What the path does make of it, size and field of view, is compared.
_PATH = {("MirageInitLatentMemory", "path")}
# How far apart two results of the same things may be: of median depths, of the picture's width, in radians.
_CAMERA_TOLERANCE = 1e-3
_LATENT_TOLERANCE = 1e-2  # of the latents' norm; half precision alone is about 1e-3


@dataclass(frozen=True)
class FilmStart:
    """A film where its loop begins.

    memory: as it is kept, if it is; with the path it is to follow.  key: of it, to the bit.
    made_from: what made it, name -> value.  store: where the film is kept.
    """

    memory: Rollout
    key: str
    made_from: Mapping[str, str]
    store: SegmentStore


def film_start(memory: Rollout, *, prompt, link: Link, root: Path, run: str) -> FilmStart:
    """The start of a film, taken from disk when it is there.

    memory: as the node at `link` has made it now.  root: the folder of all films.  run: "" for a folder by itself.
    Raises TypeError for a memory that no file can keep, and ValueError for a run that is no folder name.
    """
    made_from = {**graph_parts(prompt, link).parts, **conditions(), ORIGIN: _origin(prompt, link, memory)}
    return kept_start(memory, made_from=made_from, root=root, run=run)


def kept_start(memory: Rollout, *, made_from: Mapping[str, str], root: Path, run: str) -> FilmStart:
    """The start that is kept with this content, else one of this origin, else `memory` itself.

    made_from: with ORIGIN and the conditions.
    """
    # Conditions too: two versions of this pack never share a file.
    key = hashlib.sha256(canonical([content_key(memory), conditions()])).hexdigest()
    store = SegmentStore(root, film_folder(root, run, key))
    if store.find(key, memory.segments_done, is_start=True) is not None:
        return FilmStart(memory, key, made_from, store)
    for file in kept_starts(root, run):
        if file.made_from.get(ORIGIN) != made_from[ORIGIN] or file.path.parent.is_symlink():
            continue
        kept_in = SegmentStore(root, file.path.parent, store.warnings)
        kept = kept_in.load(file, None, of={file.key: file})
        if kept is not None and is_alike(memory, kept.rollout):
            logging.info("Mirage: the start differs in rounding; the film goes on from %s", file.path)
            return FilmStart(on_path_of(memory, kept.rollout), file.key, made_from, kept_in)
    return FilmStart(memory, key, made_from, store)


def is_alike(film: Rollout, other: Rollout) -> bool:
    """Whether two films so far are one, computed twice: the same but for rounding. The path ahead does not count."""
    done = film.segments_done
    exact = [
        (one.cameras.image_size, one.fps, one.grid, one.plan[:done], [latents.shape for latents in one.latents])
        for one in (film, other)
    ]
    if exact[0] != exact[1] or not math.isclose(film.unit_length, other.unit_length, rel_tol=_CAMERA_TOLERANCE):
        return False
    filmed = film.filmed_frames
    if not are_close(film.cameras[:filmed], other.cameras[:filmed], film.unit_length).all():
        return False
    ours, theirs = film.film.cpu().float(), other.film.cpu().float()
    return bool((ours - theirs).norm() <= _LATENT_TOLERANCE * theirs.norm())


def on_path_of(film: Rollout, kept: Rollout) -> Rollout:
    """A kept film on the path of `film`; where both go the same way, on its own cameras, to the bit."""
    shared = min(len(film.cameras), len(kept.cameras))
    close = are_close(film.cameras[:shared], kept.cameras[:shared], film.unit_length)
    cam2world, intrinsics = film.cameras.cam2world.clone(), film.cameras.intrinsics.clone()
    cam2world[:shared][close] = kept.cameras.cam2world[:shared][close]
    intrinsics[:shared][close] = kept.cameras.intrinsics[:shared][close]
    return replace(kept, cameras=Cameras(cam2world, intrinsics, film.cameras.image_size), plan=film.plan)


def are_close(cameras: Cameras, others: Cameras, unit_length: float) -> torch.Tensor:
    """[frames] bool, True where two cameras are the same but for rounding. unit_length: median depth, world units."""
    moved = (cameras.cam2world - others.cam2world).abs()
    moved[:, :3, 3] /= unit_length
    width = cameras.image_size[1]
    stretched = (cameras.intrinsics - others.intrinsics).abs() / width
    return (moved.amax(dim=(1, 2)) <= _CAMERA_TOLERANCE) & (stretched.amax(dim=(1, 2)) <= _CAMERA_TOLERANCE)


def _origin(prompt, link: Link, memory: Rollout) -> str:
    parts = graph_parts(prompt, link, leaving_out=_PATH).parts
    told = [parts, conditions(), memory.cameras.image_size, memory.segments_done]
    return hashlib.sha256(canonical(told)).hexdigest()
