"""Depth as the host's MoGe node gives it when it is told the field of view: without a host, for the closed loop."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

from .moge import MoGe, view_plane

_LOOKS = 64  # rows and columns of points that the shift is found from
_ROUNDS = 12


def load_depth_model(path: Path, device: torch.device | str = "cpu") -> MoGe:
    """A file of training.depth, in float32."""
    model = MoGe()
    model.load_state_dict({name: one.float() for name, one in load_file(path).items()})
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def seen_depth(model: MoGe, pictures: torch.Tensor, fov_degrees: float) -> torch.Tensor:
    """[n H W] z-depth of pictures [n H W 3] in [0, 1] with this horizontal field of view; 0 where there is sky.

    Source: ComfyUI v0.30.0 comfy/ldm/moge/model.py MoGeModel.infer at resolution level 0: the depth that the network
    says is shifted so that its points lie on the rays of that field of view.
    """
    device = next(model.parameters()).device
    found = []
    for picture in pictures.movedim(-1, 1).to(device):
        points, mask = model(picture[None])
        z, is_surface = points[0, 2].exp(), mask[0] > 0.5
        height, width = z.shape
        focal = (width / height) / math.hypot(1, width / height) / math.tan(math.radians(fov_degrees) / 2)
        plane = view_plane((height, width), width / height, z)
        z = z + _shift(points[0, :2] * z, z, plane, is_surface, focal)
        found.append(torch.where(is_surface & (z > 0), z, 0.0))
    return torch.stack(found).cpu()


def _shift(xy: torch.Tensor, z: torch.Tensor, plane: torch.Tensor, is_surface: torch.Tensor, focal: float) -> float:
    """What to add to z [H W] so that focal * xy / z comes nearest to plane [2 H W], in least squares."""
    fields = torch.cat([xy, z[None], plane, is_surface[None].to(z)])
    x, y, z, u, v, weight = functional.interpolate(fields[None], (_LOOKS, _LOOKS))[0].double()
    chosen = weight > 0
    if int(chosen.sum()) < 2:
        return 0.0
    xy, plane, z = torch.stack([x, y])[:, chosen], torch.stack([u, v])[:, chosen], z[chosen]
    shift, least = 0.0, -0.9 * float(z.min())  # no point may come behind the camera
    for _ in range(_ROUNDS):  # Gauss-Newton
        made = focal * xy / (z + shift)
        slope = -made / (z + shift)
        step = -float(((made - plane) * slope).sum() / slope.square().sum())
        shift = max(shift + step, least)
    return shift
