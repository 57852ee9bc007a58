"""Films decoded in tiles: no seam where two pieces meet, as in a decode of all latents in the same tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from host import film_fixtures
from host.film_stage import to_host

autoencoder = film_fixtures.autoencoder
films = film_fixtures.films
memory_of = film_fixtures.memory_of
wan22 = film_fixtures.wan22
TILE = 32  # pixels: three tiles beside each other


def tiled(vae, memory) -> torch.Tensor:
    """The whole film in the very tiles that a piece is decoded in."""
    with torch.inference_mode():
        return vae.decode_tiled(to_host(torch.cat(memory.latents, dim=1)), tile_x=2, tile_y=2, overlap=1)[0]


def pieces(films, memory, vae, first: int, **settings) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(films["film_decoding"].decoded_pieces(memory, vae, first, **settings)))


@pytest.fixture(scope="module")
def vaes(autoencoder, wan22):
    return {"TAEHV": autoencoder, "Wan2.2": wan22}


@pytest.mark.parametrize("name", ["TAEHV", "Wan2.2"])
def test_pieces_in_tiles_are_the_frames_of_the_whole_film_in_tiles(films, memory_of, vaes, name):
    memory = memory_of(12, seeds=range(12), planned=12)  # 49 latents: more than either decoder sees back
    truth = tiled(vaes[name], memory)
    made = pieces(films, memory, vaes[name], 10, tile_size=TILE)
    assert truth.std() > 0.02 and made.shape == (48, *truth.shape[1:])
    assert (made - truth[-48:]).abs().max() < 1e-5


def test_seams_between_tiled_pieces_are_no_rougher_than_the_rest_of_the_film(films, memory_of, wan22, monkeypatch):
    """In a film that hardly moves, where a seam shows most: energy at joins within 5 % of that elsewhere."""
    memory = memory_of(12, seeds=range(12), planned=12)
    start = memory.latents[0]
    memory = replace(memory, latents=tuple(start + 0.1 * (latents - start) for latents in memory.latents))
    truth, first, wrong = tiled(wan22, memory), 10, []
    joins = [16 * piece - 15 for piece in range(first, 13)]
    for context in (films["film_decoding"].WAN22_CONTEXT, 8):
        monkeypatch.setattr(films["film_decoding"], "WAN22_CONTEXT", context)
        made = torch.cat([truth[: joins[0]], pieces(films, memory, wan22, first, tile_size=TILE)])
        at_joins, elsewhere = films["film"].seam_energy(made, joins)
        wrong.append(float((made - truth).abs().max()))
        print(f"{context} latents: energy at joins {at_joins / elsewhere:.4f} of elsewhere, off by {wrong[-1]:.1e}")
        assert abs(at_joins / elsewhere - 1) < 0.05
    assert wrong[0] < 1e-5 and wrong[1] > 0.01, "eight latents before a piece are not enough"


@pytest.mark.parametrize("name", ["TAEHV", "Wan2.2"])
def test_when_the_host_tiles_because_memory_is_short_the_frames_are_right(
    films, memory_of, vaes, pack, name, monkeypatch
):
    """The host then lays out frames by the VAE's own word; its one tile here holds the whole picture."""
    memory = memory_of(4)
    plain = pieces(films, memory, vaes[name], 2)
    kind = pack("film_taehv").TaehvEnd if name == "TAEHV" else pack("film_wan22").EndOnly
    decode, tries = kind.decode, []

    def short_of_memory(self, latents):
        tries.append(latents.shape)
        if len(tries) % 2:
            raise torch.cuda.OutOfMemoryError("too large")
        return decode(self, latents)

    monkeypatch.setattr(kind, "decode", short_of_memory)
    assert (pieces(films, memory, vaes[name], 2) - plain).abs().max() < 1e-6 and len(tries) == 6
