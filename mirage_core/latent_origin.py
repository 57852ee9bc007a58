"""Which VAE latents came from. Two VAEs of as many channels do not say the same by the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

_ALIKE = 0.02  # share by which the same weights differ in other precisions, with room to spare
_MAX_NAME, _MAX_WEIGHTS = 80, 64


@dataclass(frozen=True)
class LatentOrigin:
    """Where latents came from, as far as that is known.

    latent_format: the host's name of how they are normalised, such as "Wan22"; "" where it is not known.
    vae: mean sizes of some of the VAE's weights, which tell it from others in every precision; () where not known.
    """

    latent_format: str = ""
    vae: tuple[float, ...] = ()

    def is_other_than(self, other: LatentOrigin) -> bool:
        """True where it is known that one's latents are noise to the other's VAE."""
        if self.latent_format and other.latent_format and self.latent_format != other.latent_format:
            return True
        if not self.vae or not other.vae:
            return False
        pairs = zip(self.vae, other.vae, strict=False)
        return len(self.vae) != len(other.vae) or any(abs(a - b) > _ALIKE * max(a, b) for a, b in pairs)


UNKNOWN = LatentOrigin()


def checked_origin(latent_format: object, vae: object) -> LatentOrigin:
    """What a file tells of its latents' origin.  Raises ValueError, a clause without a full stop, for what is none."""
    is_name = isinstance(latent_format, str) and len(latent_format) <= _MAX_NAME
    sizes = vae if isinstance(vae, (list, tuple)) and len(vae) <= _MAX_WEIGHTS else None
    if not is_name or sizes is None or not all(type(one) in (int, float) and 0 <= one < 1e9 for one in sizes):
        raise ValueError("the origin of its latents is not a name and a row of numbers")
    return LatentOrigin(str(latent_format), tuple(map(float, sizes)))
