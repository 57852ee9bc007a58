"""Scene words: what a nano base's file says, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from mirage_core.scene_words import SLOTS, SceneWords, scene_words_in

WORDS = SceneWords(("room", "blue hour"), torch.arange(12.0).reshape(3, 4) / 8)


def test_words_survive_the_metadata():
    read = scene_words_in(WORDS.to_metadata(), "nano.safetensors")
    assert read.words == WORDS.words and torch.equal(read.vectors, WORDS.vectors)


def test_slots_without_a_word_hold_the_null_word():
    context = WORDS.context(["blue hour"])
    assert context.shape == (SLOTS, 4)
    assert torch.equal(context[0], WORDS.vectors[2])
    assert (context[1:] == WORDS.vectors[0]).all()


def test_an_empty_text_says_nothing():
    assert (WORDS.context([]) == WORDS.vectors[0]).all()


@pytest.mark.parametrize(("text", "reason"), [(["cellar"], "'cellar'"), (["room"] * 5, "at most 4")])
def test_texts_that_the_base_cannot_read_are_refused(text, reason):
    with pytest.raises(ValueError, match=f"{reason}.*room, blue hour"):
        WORDS.rows(text)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [("{", "damaged"), (json.dumps({"words": ["a"], "vectors": [[1.0]]}), "1 words, vectors"), ("[]", "damaged")],
)
def test_damaged_words_are_refused(entry, reason):
    with pytest.raises(ValueError, match=reason):
        scene_words_in({"mirage.scene_words": entry}, "nano.safetensors")


def test_a_file_without_words_is_no_nano_base():
    with pytest.raises(ValueError, match="no nano base"):
        scene_words_in({}, "wan2.2.safetensors")
