"""The arithmetic of camera moves: rotations as vectors, screw motions, smooth curves through keys. All float64."""

from __future__ import annotations

import torch


def rotations(turns: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [n 3 3] of rotation vectors [n 3] (axis times angle)."""
    angle = turns.norm(dim=-1)
    axis = turns / angle.clamp_min(torch.finfo(turns.dtype).tiny)[:, None]
    cross = _cross_matrices(axis)
    sine, versine = angle.sin(), 2 * (angle / 2).sin() ** 2
    identity = torch.eye(3, dtype=turns.dtype)
    return identity + sine[:, None, None] * cross + versine[:, None, None] * (cross @ cross)


def rotation_vectors(rotations: torch.Tensor) -> torch.Tensor:
    """The inverse of rotations for angles in [0, pi]; at exactly pi the sign of the axis is arbitrary."""
    skew = torch.stack(
        [
            rotations[:, 2, 1] - rotations[:, 1, 2],
            rotations[:, 0, 2] - rotations[:, 2, 0],
            rotations[:, 1, 0] - rotations[:, 0, 1],
        ],
        dim=-1,
    )
    trace = rotations.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Near pi the skew part vanishes; there the symmetric part, cos I + (1 - cos) axis axis^T, holds the axis.
    angle = torch.atan2(skew.norm(dim=-1), trace - 1)
    symmetric = (rotations + rotations.mT) / 2 - angle.cos()[:, None, None] * torch.eye(3, dtype=rotations.dtype)
    column = symmetric.diagonal(dim1=-2, dim2=-1).argmax(-1)
    outer = symmetric[torch.arange(len(symmetric)), column]
    outer = outer * torch.where((outer * skew).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    axis = torch.where((angle > 3.0)[:, None], outer, skew)
    return axis / axis.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(axis.dtype).tiny) * angle[:, None]


def _cross_matrices(vectors: torch.Tensor) -> torch.Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)


def screw_translations(turns: torch.Tensor, ends: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Translation [n 3] after `share` of the screw motion that turns by `turns` [n 3] and ends at `ends` [n 3].

    With A the cross matrix of the unit axis and V(s) = s I + (1 - cos s t)/t A + (s - sin(s t)/t) A^2, the left
    Jacobian of SO(3): the motion is V(s) V(1)^-1 end.
    """
    angle = turns.norm(dim=-1)[:, None, None]
    is_straight = angle < 1e-9  # below, the arc differs from a straight line by less than a rounding error
    safe = torch.where(is_straight, torch.ones_like(angle), angle)
    cross = _cross_matrices(turns) / safe
    square = cross @ cross
    identity = torch.eye(3, dtype=turns.dtype)
    share = share[:, None, None]
    inverse = identity - safe / 2 * cross + (1 - safe / 2 / (safe / 2).tan()) * square
    forward = share * identity + 2 * (share * safe / 2).sin() ** 2 / safe * cross
    forward = forward + (share - (share * safe).sin() / safe) * square
    motion = torch.where(is_straight, share * identity, forward @ inverse)
    return (motion @ ends[..., None])[..., 0]


def monotone_slopes(lengths: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Derivatives at the keys [keys axes] from those of the segments [segments axes].

    Inner keys: weighted harmonic mean, 0 where the direction changes. Ends: 3/2 of the first segment's slope less half
    of the next derivative, which keeps within the three times slope that monotone cubics allow.
    """
    before, after = slopes[:-1], slopes[1:]
    first, second = lengths[1:] * 2 + lengths[:-1], lengths[1:] + 2 * lengths[:-1]
    same = before * after > 0
    safe_before, safe_after = torch.where(same, before, 1.0), torch.where(same, after, 1.0)
    inner = torch.where(same, (first + second) / (first / safe_before + second / safe_after), 0.0)
    start = _end_slope(slopes[0], inner[0])
    end = _end_slope(slopes[-1], inner[-1])
    return torch.cat([start[None], inner, end[None]])


def _end_slope(segment: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    slope = 1.5 * segment - 0.5 * inner
    return torch.where(slope * segment > 0, slope, 0.0)
