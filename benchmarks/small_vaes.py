"""The host's own video VAE classes, small and with random weights: quick, and looking back in time as far as any."""

from __future__ import annotations

from typing import Any

import torch

from training.stand_in.vae import stand_in_vae


def narrow_taehv(*, seed: int, width: int = 8):
    """The host's TAEHV with a decoder of the same layers, `width` channels wide instead of 256 to 64."""
    import comfy.sd
    import comfy.taesd.taehv

    taehv: Any = comfy.taesd.taehv
    act = torch.nn.ReLU()
    layers: list[torch.nn.Module] = [taehv.Clamp(), taehv.conv(48, width), act]
    for stride in (1, 2, 2):
        layers += [taehv.MemBlock(width, width, act) for _ in range(3)]
        layers += [torch.nn.Upsample(scale_factor=2), taehv.TGrow(width, stride), taehv.conv(width, width, bias=False)]
    head = taehv.conv(width, 12)
    vae: Any = comfy.sd.VAE(sd=stand_in_vae())
    vae.first_stage_model.decoder = torch.nn.Sequential(*layers, act, head)
    generator = torch.Generator().manual_seed(seed)
    for tensor in vae.first_stage_model.decoder.parameters():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
        tensor.data = torch.randn(tensor.shape, generator=generator) * fan_in**-0.5
    head.weight.data *= 0.3
    head.bias.data = torch.full((12,), 0.5)
    return vae


def small_wan22(*, seed: int, width: int = 8):
    """The class of the real Wan2.2 VAE at a thousandth of its size; decodes only."""
    import comfy.sd
    from comfy.ldm.wan.vae2_2 import WanVAE

    generator = torch.Generator().manual_seed(seed)
    model = WanVAE(dim=width, dec_dim=width, z_dim=48, temperal_downsample=[False, True, True])
    for name, tensor in model.named_parameters():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
        tensor.data = torch.randn(tensor.shape, generator=generator) * fan_in**-0.5
        if name.endswith("gamma"):
            tensor.data = torch.ones(tensor.shape)
    vae: Any = comfy.sd.VAE(sd=stand_in_vae())
    vae.first_stage_model = model.eval()
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    return vae
