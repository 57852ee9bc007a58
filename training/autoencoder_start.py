"""What an autoencoder's training starts from: principal components to encode, nearly linear filters to decode."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .taehv import Autoencoder, MemBlock, TGrow


def start(model: Autoencoder, pictures: torch.Tensor) -> None:
    """Weights to start from: the encoder does what principal components of 16 x 16 pixels do, the decoder is random.

    Latents then say all they can from the first step on, and the decoder, the harder half, has something to learn from.
    pictures: [n 1 3 H W] to find the components of.
    """
    torch.manual_seed(0)
    for layer in (*model.encoder, *model.decoder):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    first, last = model.encoder[0], model.encoder[-1]
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    assert first.bias is not None and last.bias is not None
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
        first.weight[range(12), range(12), 1, 1] = 1
        features = functional.relu(first(functional.pixel_unshuffle(pictures.flatten(0, 1), 2)))
        for place in (3, 8, 13):
            features = _compress(model.encoder[place], model.encoder[place + 1], features)
        values = features.transpose(0, 1).flatten(1)[:48]
        gain = model.get_buffer("std").flatten() / values.std(1).clamp_min(1e-3)
        last.weight.zero_()
        last.weight[range(48), range(48), 1, 1] = gain
        last.bias.copy_(model.get_buffer("mean").flatten() - gain * values.mean(1))
        _start_decoder(model.decoder, last(features), values.std(1))


def _start_decoder(decoder: nn.Sequential, x: torch.Tensor, sizes: torch.Tensor) -> None:
    """Random filters that start out nearly linear: what goes into a ReLU is above 0.

    x: raw latents [n 48 rows columns].  sizes: [48] what each latent channel is worth in the picture.
    """
    first, painted = decoder[1], decoder[-1]
    assert isinstance(first, nn.Conv2d) and isinstance(painted, nn.Conv2d)
    assert first.bias is not None and painted.bias is not None
    first.weight *= (sizes / sizes.max())[:, None, None]
    is_first_of_stage = True
    for layer in decoder:
        if isinstance(layer, nn.Conv2d):
            made = layer(x) if layer.bias is None else layer(x) - layer.bias[:, None, None]
            if layer is painted:
                layer.weight *= 0.1 / made.std()
                painted.bias.copy_(0.5 - 0.1 * made.mean((0, 2, 3)) / made.std())
                return
            layer.weight *= 0.3 / made.std((0, 2, 3)).clamp_min(1e-3)[:, None, None, None]
            made = functional.conv2d(x, layer.weight, padding=1)
            is_first_of_stage = True
            if layer.bias is not None:
                layer.bias.copy_(1 - made.mean((0, 2, 3)))
                made = made + layer.bias[:, None, None]
            x = made
        elif isinstance(layer, MemBlock):
            if is_first_of_stage:
                last = layer.conv[4]
                assert isinstance(last, nn.Conv2d) and last.bias is not None
                last.bias.copy_(1 - x.mean((0, 2, 3)))
            is_first_of_stage = False
            x = layer.bare(x)
        elif isinstance(layer, TGrow):
            continue  # starts as copies
        else:
            x = layer(x)


def _compress(halving: nn.Module, block: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Make a halving convolution find the 64 main components of 2 x 2 features; its outputs, shifted above 0."""
    assert isinstance(halving, nn.Conv2d) and isinstance(block, MemBlock)
    channels = features.shape[1]
    squares = functional.unfold(features, 2, stride=2).transpose(0, 1).flatten(1)  # [channels*4, places]
    _, vectors = torch.linalg.eigh(torch.cov(squares))
    halving.weight.zero_()
    halving.weight[:, :, 1:, 1:] = vectors[:, -64:].flip(1).T.reshape(64, channels, 2, 2)
    made = halving(features)
    shift = 0.2 - made.amin(dim=(0, 2, 3))  # the block ends with a ReLU
    last = block.conv[4]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.bias.copy_(shift)
    return functional.relu(made + shift[:, None, None])
