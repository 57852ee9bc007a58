"""The first MoGe model in plain torch, with the names and sums of ComfyUI's own (comfy/ldm/moge), made small.

Pictures in, points and a mask out: points [.. 3] as (x z, y z, z) of which the network gives x, y and log z; the mask
is above 1/2 where there is a surface, below where there is sky. Sizes come from the arguments; the host reads them off
the file. Source: ComfyUI v0.30.0 comfy/ldm/moge/model.py, modules.py and comfy/image_encoders/dino2.py.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

PATCH = 14
_POSITIONS = 37  # per side, fixed by the format


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({part: nn.Linear(width, width) for part in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.attention[part](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        return self.output["dense"](functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((width,), 0.5))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.layer_scale1, self.layer_scale2 = LayerScale(width), LayerScale(width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x)) * self.layer_scale1.lambda1
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x)))) * self.layer_scale2.lambda1


class Embeddings(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.randn(1, _POSITIONS**2 + 1, width) * 0.02)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the format; never used
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, PATCH, stride=PATCH)})

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings["projection"](picture)
        rows, columns = patches.shape[-2:]
        positions = self.position_embeddings[:, 1:].unflatten(1, (_POSITIONS, _POSITIONS)).movedim(-1, 1)
        if (rows, columns) != (_POSITIONS, _POSITIONS):
            factors = [(rows + 0.1) / _POSITIONS, (columns + 0.1) / _POSITIONS]  # + 0.1 as DINOv2 rounds
            positions = functional.interpolate(positions.float(), scale_factor=factors, mode="bicubic")
        tokens = (patches + positions).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.position_embeddings[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([first.to(tokens), tokens], dim=1)


class Backbone(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(width, heads) for _ in range(4))})
        self.layernorm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """Tokens after each of the four layers, [pictures width rows columns]."""
        size = (picture.shape[-2] // PATCH, picture.shape[-1] // PATCH)
        x, found = self.embeddings(picture), []
        for layer in self.encoder["layer"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x)
            found.append(self.layernorm(x)[:, 1:].transpose(1, 2).unflatten(2, size).contiguous())
        return found


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width), nn.ReLU(), _conv(width, width),
            nn.GroupNorm(max(width // 32, 1), width), nn.ReLU(), _conv(width, width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x


class Head(nn.Module):
    def __init__(self, tokens: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(tokens, 512, 1) for _ in range(4))
        inputs = (512, *widths[:2])
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.ConvTranspose2d(into + 2, out, 2, stride=2), _conv(out, out)), ResidualBlock(out)
            )
            for into, out in zip(inputs, widths, strict=True)
        )
        self.output_block = nn.ModuleList(
            nn.Sequential(_conv(widths[-1] + 2, 32), nn.ReLU(), nn.Conv2d(32, out, 1)) for out in (3, 1)
        )
        for block in self.output_block:
            _keep_center(block[0])  # pyright: ignore[reportIndexIssue, reportArgumentType]

    def forward(
        self, features: list[torch.Tensor], size: tuple[int, int], aspect: float, *, coarse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([project(one) for project, one in zip(self.projects, features, strict=True)]).sum(0)
        for block in self.upsample_blocks:
            x = block(_with_places(x, aspect))
        if coarse:  # a quarter of the size, and only the centre of the filters: the others are zero
            size = (size[0] // 4, size[1] // 4)
            x = functional.interpolate(x, size, mode="area")
            points, mask = (_centers(block, _with_places(x, aspect)) for block in self.output_block)
        else:
            x = functional.interpolate(x, size, mode="bilinear")
            points, mask = (block(_with_places(x, aspect)) for block in self.output_block)
        return points, mask


class MoGe(nn.Module):
    """widths: of the three upsampling stages.  width: of the tokens; one head of attention per 64."""

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(self, width: int = 96, widths: tuple[int, int, int] = (32, 24, 16)) -> None:
        super().__init__()
        self.backbone = Backbone(width, width // 64)
        self.head = Head(width, widths)
        self.register_buffer("image_mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(
        self, pictures: torch.Tensor, *, tokens: int = 1200, coarse: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, y and log z [pictures 3 H W] and mask [pictures H W] of pictures [pictures 3 H W] in [0, 1].

        tokens: the host's 1200 at resolution level 0.  coarse: a quarter of the size and much faster, for training.
        """
        height, width = pictures.shape[-2:]
        scale = math.sqrt(tokens * PATCH**2 / (height * width))
        size = (int(height * scale), int(width * scale))
        large = functional.interpolate(pictures, size, mode="bicubic", antialias=True)
        large = (large - self.image_mean) / self.image_std
        whole = (size[0] // PATCH * PATCH, size[1] // PATCH * PATCH)
        features = self.backbone(functional.interpolate(large, whole, mode="bilinear", antialias=True))
        points, mask = self.head(features, size, size[1] / size[0], coarse=coarse)
        if not coarse:
            points, mask = (
                functional.interpolate(one.float(), (height, width), mode="bilinear") for one in (points, mask)
            )
        return points.float(), mask.float().squeeze(1)


def view_plane(size: tuple[int, int], aspect: float, like: torch.Tensor) -> torch.Tensor:
    """[2 H W] x and y of pixel centres, the picture's half diagonal being 1."""
    diagonal = math.sqrt(1 + aspect**2)
    axes = []
    for length, span in ((size[1], aspect / diagonal), (size[0], 1 / diagonal)):
        end = span * (length - 1) / length
        axes.append(torch.linspace(-end, end, length, device=like.device, dtype=like.dtype))
    x, y = torch.meshgrid(*axes, indexing="xy")
    return torch.stack([x, y])


def _with_places(x: torch.Tensor, aspect: float) -> torch.Tensor:
    places = view_plane((x.shape[-2], x.shape[-1]), aspect, x)
    return torch.cat([x, places.expand(len(x), -1, -1, -1)], dim=1)


def _centers(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    first, _, last = block.children()
    assert isinstance(first, nn.Conv2d)
    return last(functional.relu(functional.conv2d(x, first.weight[:, :, 1:2, 1:2], first.bias)))


def _keep_center(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        center = layer.weight[:, :, 1, 1].clone() * 3
        layer.weight.zero_()
        layer.weight[:, :, 1, 1] = center


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")
