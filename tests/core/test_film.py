"""Pieces of a film: their names, what they are decoded with, and how abrupt their joins are."""

from __future__ import annotations

import pytest
import torch

from mirage_core.film import piece_key, seam_energy, shared_prefix, window


def pieces(*lengths: int) -> list[torch.Tensor]:
    film = torch.arange(sum(lengths), dtype=torch.float32).expand(48, 2, 3, -1).movedim(-1, 1)
    return list(film.split(list(lengths), dim=1))


def keys(latents: list[torch.Tensor]) -> list[str]:
    made = [""]
    for one in latents:
        made.append(piece_key(made[-1], one))
    return made[1:]


def test_a_changed_piece_renames_itself_and_all_after_it():
    film = pieces(1, 8, 8, 8)
    changed = [one.clone() for one in film]
    changed[2][0, 0, 0, 0] += 1e-3
    assert shared_prefix(keys(film), keys(changed)) == 2
    assert len(set(keys(film)) | set(keys(changed))) == 6


@pytest.mark.parametrize("other", [lambda one: one.double(), lambda one: one.reshape(48, 8, 3, 2)])
def test_the_same_numbers_in_another_type_or_shape_have_another_name(other):
    one = pieces(8)[0]
    assert piece_key("", one) != piece_key("", other(one))


def test_a_name_does_not_depend_on_how_the_numbers_lie_in_memory():
    one = pieces(8)[0]
    assert piece_key("", one) == piece_key("", one.contiguous()) == piece_key("", one.clone())


@pytest.mark.parametrize("context", [0, 1, 8, 9, 100])
def test_a_window_is_the_end_of_the_film_up_to_its_piece(context):
    film = pieces(1, 8, 3, 8, 8)
    joined = torch.cat(film[:4], dim=1)
    assert torch.equal(window(film, 3, context), joined[:, max(0, 12 - context) :])


def test_lists_share_what_they_begin_with():
    assert shared_prefix("abc", "abd") == 2
    assert shared_prefix("abc", "ab") == 2
    assert shared_prefix("", "ab") == 0


def test_a_jump_at_joins_shows_and_one_elsewhere_does_too():
    generator = torch.Generator().manual_seed(0)
    frames = 0.1 * torch.rand(65, 2, 3, 3, generator=generator)
    joins = [17, 33, 49]
    at, elsewhere = seam_energy(frames, joins)
    assert 0.5 < at / elsewhere < 2
    broken = frames.clone()
    for join in joins:
        broken[join:] += 0.5
    worse, same = seam_energy(broken, joins)
    assert worse > 20 * at and same == pytest.approx(elsewhere, rel=1e-3)
