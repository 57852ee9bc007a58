"""Between the host's pictures and latents and the core's: sizes, crops, normalisation.

The host's LATENT holds raw VAE latents [1 channels frames rows columns]; the core works in the model's normalised
latent space, where an unknown cell is exactly 0. Every conversion happens once, here.
"""

from __future__ import annotations

import comfy.latent_formats
import comfy.utils
import torch

from ..mirage_core.latent_grid import WAN22, LatentGrid

_WAN22_FORMAT = comfy.latent_formats.Wan22()
LATENT_FORMAT = "Wan22"  # what all latents in the core are normalised as


def to_normalised(samples: torch.Tensor, grid: LatentGrid = WAN22) -> torch.Tensor:
    """Host samples [1 channels frames rows columns] -> normalised latents [channels frames rows columns], float32.

    Raises ValueError for another channel count, several batch entries, NaN.
    """
    if samples.ndim == 4:  # an image VAE: name the channels, that is what the user can mend
        samples = samples.unsqueeze(2)
    if samples.ndim != 5 or samples.shape[0] != 1:
        raise ValueError(
            f"This is a batch of shape {list(samples.shape)}; Mirage films one video at a time. Use batch size 1."
        )
    grid.check_latents(samples[0])
    return _WAN22_FORMAT.process_in(samples.float())[0]


def to_host(latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents [channels frames rows columns] -> host samples [1 channels frames rows columns]."""
    return _WAN22_FORMAT.process_out(latents[None])


def latent_preview(latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents [channels frames rows columns] -> rough RGB [frames rows columns 3] in [0, 1]; no VAE."""
    factors = torch.tensor(_WAN22_FORMAT.latent_rgb_factors)
    bias = torch.tensor(_WAN22_FORMAT.latent_rgb_factors_bias)
    rgb = torch.einsum("cfhw,ck->fhwk", latents.float().cpu(), factors) + bias
    return ((rgb + 1) / 2).clamp(0, 1)


def encode_picture(vae, image: torch.Tensor) -> torch.Tensor:
    """One picture [1 height width 3] in [0, 1] -> normalised latents [channels 1 rows columns].

    Raises ValueError when the VAE is not the Wan2.2 one, or the picture has NaN.
    """
    if not torch.isfinite(image).all():
        raise ValueError(
            "The image contains NaN or infinite pixels. Save it and load it again, or mend the node that made it."
        )
    return to_normalised(vae.encode(image[..., :3]))


def fit_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the middle part of `size` that has the aspect of `target`; all (height, width)."""
    height, width = size
    if width * target[0] > height * target[1]:
        new = max(1, round(height * target[1] / target[0]))
        return 0, (width - new) // 2, height, new
    new = max(1, round(width * target[0] / target[1]))
    return (height - new) // 2, 0, new, width


def fit_maps(maps: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """Cut maps [frames height width ...] to the aspect of `target` around the middle, without resampling."""
    top, left, height, width = fit_box((maps.shape[1], maps.shape[2]), target)
    return maps[:, top : top + height, left : left + width]


def fit_image(image: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """Pictures [frames height width 3] cut to the aspect of `target` and resized to it."""
    cut = fit_maps(image[..., :3], target)
    if tuple(cut.shape[1:3]) == target:
        return cut
    method = "area" if cut.shape[1] > target[0] else "bicubic"
    resized = comfy.utils.common_upscale(cut.movedim(-1, 1), target[1], target[0], method, "disabled")
    return resized.movedim(1, -1).clamp(0, 1)
