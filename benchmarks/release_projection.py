"""The released code's algorithms, told again in our own words: the rivals that our benchmarks are measured against.

Source of the methods: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py (project) and
src/mirage/inference/mirage_pipeline.py (reference retrieval).
"""

from __future__ import annotations

import torch


def project_sorted(
    points: torch.Tensor,
    latents: torch.Tensor,
    cam2world: torch.Tensor,
    intrinsics: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """[channels rows columns] of one camera: all points in view sorted from far to near, then written in that order.

    points [n 3], latents [n channels], cam2world [4 4] and intrinsics [3 3] of the latent grid, all float32.
    """
    world2cam = torch.linalg.inv(cam2world)
    x, y, z = (points @ world2cam[:3, :3].T + world2cam[:3, 3]).unbind(1)
    column = (x * intrinsics[0, 0] / z + intrinsics[0, 2]).round().long()
    row = (y * intrinsics[1, 1] / z + intrinsics[1, 2]).round().long()
    is_seen = (z > 0) & (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    order = z[is_seen].argsort(descending=True)
    cell = (row[is_seen] * size[1] + column[is_seen])[order]
    picture = torch.zeros(size[0] * size[1], latents.shape[1])
    picture[cell] = latents[is_seen][order]
    return picture.T.reshape(-1, *size)


def set_overlap(points: torch.Tensor, others: torch.Tensor, voxel_size: float) -> float:
    """Intersection over union of two point clouds [n 3] as Python sets of voxel triples."""
    places, other_places = (
        {tuple(voxel) for voxel in torch.floor(cloud / voxel_size).int().tolist()} for cloud in (points, others)
    )
    together = len(places | other_places)
    return len(places & other_places) / together if together else 0.0
