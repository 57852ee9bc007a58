"""Which earlier latent frames saw the same places as the coming segment.

A place is a voxel; what a camera sees is a sorted set of voxel keys, made from the memory as it is now, so early frames
are not judged by what was known when they were made. Two ways to see: visible_voxels() asks only whether a point is in
the image, as the released code does; shown_voxels() asks what is not hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from .camera import Cameras, projection_matrices
from .memory import LatentMemory
from .sight import image_positions, tiles_in_sight
from .zbuffer import project

_AXIS_BITS = 21
_AXIS_MASK = (1 << _AXIS_BITS) - 1


def default_voxel_size(memory: LatentMemory) -> float:
    """A voxel edge for scenes whose depth is not metric: one and a half cells of the first remembered block.

    The release uses 0.1 for rooms in metres, which is about one and a half cells at 4 m. An empty memory has 0.1.
    """
    if not memory.blocks:
        return 0.1
    return 1.5 * float(memory.blocks[0].footprints.median())


def voxel_keys(points: torch.Tensor, voxel_size: float) -> torch.Tensor:
    """[n] int64, one number per voxel floor(point / voxel_size); points: [n 3].

    Voxels 2^21 apart share a number, which no scene reaches.  Raises ValueError when voxel_size is not above 0.
    """
    if not voxel_size > 0:
        raise ValueError(f"voxel_size is {voxel_size}; it is a length above 0 in world units.")
    x, y, z = (points / voxel_size).floor().long().bitwise_and_(_AXIS_MASK).unbind(1)
    return (x << 2 * _AXIS_BITS) | (y << _AXIS_BITS) | z


def visible_voxels(
    memory: LatentMemory, cameras: Cameras, size: tuple[int, int], *, voxel_size: float
) -> list[torch.Tensor]:
    """Sorted voxel keys of the points inside each camera's image of `size` = (rows, columns), hidden or not.

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/inference/mirage_pipeline.py, the visibility of
    reference retrieval: depth > 0 and 0 <= u < columns, 0 <= v < rows on coordinates that are not rounded.
    """
    places, place_of_point = voxel_keys(memory.points, voxel_size).unique(return_inverse=True)
    matrices = projection_matrices(cameras, size, memory.grid)
    # They have the cell rule folded in; this test is on coordinates without it.
    matrices[:, :2] -= (0.5 - memory.grid.cell_offset) * matrices[:, 2:]
    is_seen = torch.zeros(len(cameras), len(places), dtype=torch.uint8, device=places.device)
    for chunk in tiles_in_sight(memory, matrices, size, only_points=True):
        place = place_of_point[chunk.index]
        for frame, (matrix, in_sight) in enumerate(zip(matrices, chunk.in_sight, strict=True)):
            tiles = in_sight.nonzero()[:, 0]
            u, v, depth = image_positions(chunk.values[:, tiles].flatten(1), matrix)
            is_visible = (depth > 0) & (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])
            is_seen[frame].scatter_reduce_(0, place[tiles].flatten(), is_visible.byte(), "amax")
    return [places[one.bool()] for one in is_seen]


def shown_voxels(
    memory: LatentMemory, cameras: Cameras, size: tuple[int, int], *, voxel_size: float
) -> list[torch.Tensor]:
    """Sorted voxel keys of the points that show in each camera's view; what another surface hides is not among them."""
    points, shown = memory.points, project(memory, cameras, size).point_index
    return [voxel_keys(points[index[index >= 0]], voxel_size).unique() for index in shown]


def overlaps(query_keys: torch.Tensor, history_keys: Sequence[torch.Tensor]) -> list[float]:
    """Intersection over union of a sorted set of keys with each of `history_keys`; 0 for two empty sets."""
    if not history_keys:
        return []
    if len(query_keys) == 0:
        return [0.0] * len(history_keys)
    joined = torch.cat(list(history_keys))
    position = torch.searchsorted(query_keys, joined).clamp_(max=len(query_keys) - 1)
    is_shared = query_keys[position] == joined
    counts = [int(part.sum()) for part in is_shared.split([len(keys) for keys in history_keys])]
    return [shared / (len(query_keys) + len(keys) - shared) for shared, keys in zip(counts, history_keys, strict=True)]


def select_references(
    query_keys: torch.Tensor | Sequence[torch.Tensor],
    history_keys: Sequence[torch.Tensor],
    *,
    max_references: int = 4,
    min_overlap: float = 0.04,
    max_similarity: float = 0.9,
    excluded: Collection[int] = (),
) -> list[int]:
    """Indices into `history_keys` of the frames that saw most of the query, best first.

    query_keys: sorted voxel keys, or one such set per target camera, which are united.
    min_overlap: least intersection over union with the query.  Equal overlaps: the lower index first.
    max_similarity: a frame whose own overlap with a better reference is above this is passed over, so that references
        are different views; 1 turns that off.
    excluded: indices that are not taken, such as the frames the model is given anyway (overlap and preceding).

    Source: method of microsoft/LatentSpatialMemory@b2cd738 with max_similarity=1 and nothing excluded.
    """
    if isinstance(query_keys, torch.Tensor):
        united = query_keys
    else:
        united = torch.cat([torch.zeros(0, dtype=torch.int64), *query_keys]).unique()
    overlap = overlaps(united, history_keys)
    candidates = [index for index in range(len(overlap)) if index not in excluded and overlap[index] >= min_overlap]
    chosen: list[int] = []
    for index in sorted(candidates, key=lambda index: -overlap[index]):
        if len(chosen) >= max_references:
            break
        likeness = overlaps(history_keys[index], [history_keys[one] for one in chosen]) if max_similarity < 1 else []
        if not likeness or max(likeness) <= max_similarity:
            chosen.append(index)
    return chosen
