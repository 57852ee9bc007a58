"""Which VAE latents came from: told from others in every precision, and nothing is claimed that is not known."""

from __future__ import annotations

import pytest

from mirage_core.latent_origin import LatentOrigin, checked_origin

WAN = LatentOrigin("Wan22", (0.0312, 0.5, 0.0))


def test_one_vae_in_two_precisions_is_the_same():
    assert not WAN.is_other_than(LatentOrigin("Wan22", (0.0313, 0.499, 0.0)))


@pytest.mark.parametrize(
    "other",
    [LatentOrigin("Wan21"), LatentOrigin("Wan22", (0.05, 0.5, 0.0)), LatentOrigin("Wan22", (0.0312, 0.5))],
)
def test_another_format_or_other_weights_are_another_vae_both_ways(other):
    assert WAN.is_other_than(other) and other.is_other_than(WAN)


@pytest.mark.parametrize("other", [LatentOrigin(), LatentOrigin("Wan22"), LatentOrigin("", WAN.vae)])
def test_what_is_not_known_is_no_other_vae(other):
    assert not WAN.is_other_than(other) and not other.is_other_than(WAN)


@pytest.mark.parametrize(
    ("name", "vae"),
    [(7, []), ("x" * 81, []), ("Wan22", "abc"), ("Wan22", [0.1] * 65), ("Wan22", ["a"]), ("Wan22", [float("nan")]),
     ("Wan22", [True]), ("Wan22", [-1.0]), ("Wan22", [10**400]), ("Wan22", None)],
)  # fmt: skip
def test_an_origin_that_is_none_is_refused(name, vae):
    with pytest.raises(ValueError, match="origin of its latents"):
        checked_origin(name, vae)
