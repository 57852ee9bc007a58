"""Patches of surface as one camera sees them: where the rays through cells meet them. What shows is zbuffer.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .memory import HALF_SIDE
from .sight import Vector

# A surface seen from behind hides what is beyond it, and what it looks like from there nobody has seen. The front of a
# thin wall must lose against its back, as far as these can be told apart.
_FROM_BEHIND = 1.1
_EDGE_ON = 0.1  # cosine up to which the side a surface is seen from is left open: normals are no better than depth


@dataclass(frozen=True)
class Patches:
    """Patches as one camera sees them, each [m]: image position in cells, depth, and the planes they lie on.

    The ray through (x, y) meets the plane at the depth z / ratio with ratio = 1 + (x - u) tilt_u + (y - v) tilt_v.
    On the patch itself the ratio is between `low` and `high`. `weight` is 1, or _FROM_BEHIND for what shows its back.
    """

    u: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    tilt_u: torch.Tensor
    tilt_v: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    weight: torch.Tensor

    @staticmethod
    def of(position: Vector, normal: Vector, reach: torch.Tensor) -> Patches:
        """normal: in the frame of the rays (x, y, 1), changed here."""
        (u, v, z), (normal_u, normal_v, normal_z) = position, normal
        facing = (u * normal_u).add_(v * normal_v).add_(normal_z).add_(1e-30)  # never 0: edge-on, its ends decide
        least = torch.maximum(z - reach, z / 16)  # a patch through the camera's own plane would be behind it
        weight = (facing < -_EDGE_ON).to(z.dtype).mul_(_FROM_BEHIND - 1).add_(1)
        return Patches(u, v, z, normal_u / facing, normal_v / facing, z / (z + reach), z / least, weight)

    def __getitem__(self, chosen: torch.Tensor) -> Patches:
        return Patches(*(value.index_select(0, chosen) for value in vars(self).values()))

    def ratio(self, step_u: torch.Tensor, step_v: torch.Tensor) -> torch.Tensor:
        """[m] the ratio at (u + step_u, v + step_v), also where the patch does not reach."""
        return (step_u * self.tilt_u).add_(step_v * self.tilt_v).add_(1)

    def depth(self, ratio: torch.Tensor) -> torch.Tensor:
        """[m] depth where the plane has this ratio, or where the patch ends before."""
        return self.z / torch.minimum(torch.maximum(ratio, self.low), self.high)


def is_hit(patches: Patches, sides: Vector, step_u: torch.Tensor, step_v: torch.Tensor) -> torch.Tensor:
    """[m] bool, whether the ray through (u + step_u, v + step_v) meets the patch.

    The ray through x meets the patch's plane where u z + a ax + b bx = x (z + a az + b bz), or a p + b q = e with
    p = ax - x az, q = bx - x bz, e = (x - u) z; and the same for y with r, s and f.
    """
    ax, ay, az, bx, by, bz = sides
    x, y = patches.u + step_u, patches.v + step_v
    p, q, e = ax - x * az, bx - x * bz, step_u * patches.z
    r, s, f = ay - y * az, by - y * bz, step_v * patches.z
    determinant = (p * s).sub_(q * r)
    bound = determinant.abs_().mul(HALF_SIDE)
    is_hit = (e * s).sub_(q * f).abs_() <= bound
    return is_hit.logical_and_((p * f).sub_(e * r).abs_() <= bound).logical_and_(determinant > 0)
