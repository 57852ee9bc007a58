"""Depth models of random weights in the formats of MoGe 1, MoGe 2 and Depth Anything 3. No host code is imported.

Their depth means nothing (a bumpy wall about one unit away, seen by a camera of about 70 degrees); they let tests run
the host's own loaders and inference nodes on small files.
"""

from __future__ import annotations

import torch

Weights = dict[str, torch.Tensor]


class _Random:
    """Collects named random layers; biases and weights are small, norms are the identity."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}

    def layer(self, name: str, shape: tuple[int, ...], *, bias: int | None = None) -> None:
        """A weight of `shape` and a bias as long as the first axis, or as `bias` says (0: no bias)."""
        fan_in = max(1, torch.Size(shape[1:]).numel())
        self.weights[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * fan_in**-0.5
        length = shape[0] if bias is None else bias
        if length:
            self.weights[f"{name}.bias"] = torch.randn(length, generator=self.generator) * 0.02

    def norm(self, name: str, width: int) -> None:
        self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    def plain(self, name: str, shape: tuple[int, ...], scale: float = 0.02) -> None:
        self.weights[name] = torch.randn(shape, generator=self.generator) * scale


def random_moge1(seed: int = 0) -> Weights:
    """A MoGe 1 state dict of 0.5 M parameters (points and mask)."""
    made, width = _Random(seed), 16
    _write_image_statistics(made, "")
    _write_vit(made, "backbone", width=64, layers=4, mask_token=True)
    for index in range(4):
        made.layer(f"head.projects.{index}", (512, 64, 1, 1))
    for index, inputs in enumerate((512, width, width)):
        block = f"head.upsample_blocks.{index}"
        made.layer(f"{block}.0.0", (inputs + 2, width, 2, 2), bias=width)
        made.layer(f"{block}.0.1", (width, width, 3, 3))
        _write_residual_block(made, f"{block}.1", width)
    for index, outputs in enumerate((3, 1)):
        made.layer(f"head.output_block.{index}.0", (32, width + 2, 3, 3))
        made.layer(f"head.output_block.{index}.2", (outputs, 32, 1, 1))
    _face_a_wall_moge1(made.weights)
    return made.weights


def random_moge2(seed: int = 0) -> Weights:
    """A MoGe 2 state dict of 0.44 M parameters (points, mask and metric scale)."""
    made, width = _Random(seed), 16
    _write_image_statistics(made, "encoder.")
    _write_vit(made, "encoder.backbone", width=64, layers=4, mask_token=True)
    for index in range(4):
        made.layer(f"encoder.output_projections.{index}", (width, 64, 1, 1))
    _write_conv_stack(made, "neck", (width + 2, 2, 2, 2, 2), width)
    for head, outputs in (("points_head", 3), ("mask_head", 1)):
        _write_conv_stack(made, head, (width,) * 5, width)
        made.layer(f"{head}.output_blocks.4", (outputs, width, 1, 1))
    made.layer("scale_head.0", (width, 64))
    made.layer("scale_head.2", (1, width))
    _face_a_wall_moge2(made.weights)
    return made.weights


def random_depth_anything(seed: int = 0) -> Weights:
    """A Depth Anything 3 state dict (mono, with a sky head); 22 M parameters, the loader fixes its backbone."""
    made, width = _Random(seed), 16
    _write_vit(made, "backbone", width=384, layers=12, mask_token=False)
    for index in range(4):
        made.layer(f"head.projects.{index}", (width, 384, 1, 1))
        made.layer(f"head.scratch.layer{index + 1}_rn", (width, width, 3, 3), bias=0)
        fusion = f"head.scratch.refinenet{index + 1}"
        for unit in ("resConfUnit1", "resConfUnit2") if index < 3 else ("resConfUnit2",):
            made.layer(f"{fusion}.{unit}.conv1", (width, width, 3, 3))
            made.layer(f"{fusion}.{unit}.conv2", (width, width, 3, 3))
        made.layer(f"{fusion}.out_conv", (width, width, 1, 1))
    for index, size in ((0, 4), (1, 2), (3, 3)):
        made.layer(f"head.resize_layers.{index}", (width, width, size, size))
    made.layer("head.scratch.output_conv1", (width // 2, width, 3, 3))
    for head in ("output_conv2", "sky_output_conv2"):
        made.layer(f"head.scratch.{head}.0", (32, width // 2, 3, 3))
        made.layer(f"head.scratch.{head}.2", (1, 32, 1, 1))
    made.weights["head.scratch.output_conv2.2.weight"] *= _BUMPS  # nearly a wall, so that latent cells have a surface
    made.weights["head.scratch.sky_output_conv2.2.bias"] -= 5  # no sky anywhere
    return made.weights


_BUMPS = 0.01  # how much of the random network is left in the logarithm of the depth


def _face_a_wall_moge1(weights: Weights) -> None:
    """Make x and y the view plane coordinates that the head is given as its last two channels, and all of it valid."""
    first, last = weights["head.output_block.0.0.weight"], weights["head.output_block.0.2.weight"]
    first[:4], last[:2], last[2] = 0, 0, _BUMPS * last[2]
    weights["head.output_block.0.0.bias"][:4] = 0
    weights["head.output_block.0.2.bias"][:] = 0
    for axis in range(2):
        first[2 * axis, -2 + axis, 1, 1], first[2 * axis + 1, -2 + axis, 1, 1] = 1, -1
        last[axis, 2 * axis], last[axis, 2 * axis + 1] = 1, -1
    weights["head.output_block.1.2.bias"] += 5


def _face_a_wall_moge2(weights: Weights) -> None:
    """The same through neck and head: their first two channels carry the view plane at the finest level only."""
    for stack in ("neck", "points_head"):
        for layer in ("resamplers.3.1", "res_blocks.4.0.layers.5", "input_blocks.4"):
            weights[f"{stack}.{layer}.weight"][:2] = 0
            weights[f"{stack}.{layer}.bias"][:2] = 0
        weights[f"{stack}.input_blocks.4.weight"][:2, :2, 0, 0] = torch.eye(2)
    last = weights["points_head.output_blocks.4.weight"]
    last[:2], last[2] = 0, _BUMPS * last[2]
    last[:2, :2, 0, 0] = torch.eye(2)
    weights["points_head.output_blocks.4.bias"][:] = 0
    weights["mask_head.output_blocks.4.bias"] += 5
    weights["scale_head.2.weight"] *= _BUMPS


def _write_image_statistics(made: _Random, prefix: str) -> None:
    made.weights[f"{prefix}image_mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    made.weights[f"{prefix}image_std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def _write_vit(made: _Random, prefix: str, *, width: int, layers: int, mask_token: bool) -> None:
    """A DINOv2 backbone with the host's names, for images of 518 pixels in patches of 14."""
    made.plain(f"{prefix}.embeddings.position_embeddings", (1, 37 * 37 + 1, width))
    made.plain(f"{prefix}.embeddings.cls_token", (1, 1, width))
    if mask_token:
        made.plain(f"{prefix}.embeddings.mask_token", (1, width))
    made.layer(f"{prefix}.embeddings.patch_embeddings.projection", (width, 3, 14, 14))
    for index in range(layers):
        layer = f"{prefix}.encoder.layer.{index}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            made.layer(f"{layer}.attention.{part}", (width, width))
        made.layer(f"{layer}.mlp.fc1", (4 * width, width))
        made.layer(f"{layer}.mlp.fc2", (width, 4 * width))
        for which in "12":
            made.weights[f"{layer}.layer_scale{which}.lambda1"] = torch.full((width,), 0.3)
            made.norm(f"{layer}.norm{which}", width)
    made.norm(f"{prefix}.layernorm", width)


def _write_residual_block(made: _Random, name: str, width: int) -> None:
    for norm, convolution in ((0, 2), (3, 5)):
        made.norm(f"{name}.layers.{norm}", width)
        made.layer(f"{name}.layers.{convolution}", (width, width, 3, 3))


def _write_conv_stack(made: _Random, prefix: str, inputs: tuple[int, ...], width: int) -> None:
    for index, channels in enumerate(inputs):
        made.layer(f"{prefix}.input_blocks.{index}", (width, channels, 1, 1))
        _write_residual_block(made, f"{prefix}.res_blocks.{index}.0", width)
    for index in range(4):
        if index < 2:
            made.layer(f"{prefix}.resamplers.{index}.0", (width, width, 2, 2))
        made.layer(f"{prefix}.resamplers.{index}.1", (width, width, 3, 3))
