"""The few words that the nano base understands: vectors in its file's metadata, in place of a text encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

SLOTS = 4  # rows of a text; those without a word hold the null vector
_ENTRY = "mirage.scene_words"


@dataclass(frozen=True)
class SceneWords:
    """words: in the order of the rows from 1 on.  vectors: [1 + words text_dim]; row 0 is the null word."""

    words: tuple[str, ...]
    vectors: torch.Tensor

    def rows(self, text: Sequence[str]) -> list[int]:
        """Rows of `vectors` for a text of up to SLOTS words, in any order; an empty text says nothing.

        Raises ValueError for a word that is not known, or too many words.
        """
        unknown = [word for word in text if word not in self.words]
        if unknown or len(text) > SLOTS:
            what = f"does not know {unknown[0]!r}" if unknown else f"takes at most {SLOTS} words, not {len(text)}"
            raise ValueError(f"The nano base {what}. Its words: {', '.join(self.words)}.")
        return [1 + self.words.index(word) for word in text] + [0] * (SLOTS - len(text))

    def context(self, text: Sequence[str]) -> torch.Tensor:
        """[SLOTS text_dim] what the model reads. Raises ValueError as rows()."""
        return self.vectors[self.rows(text)]

    def to_metadata(self) -> dict[str, str]:
        """The words as an entry of safetensors metadata; the inverse of scene_words_in."""
        vectors = [[round(value, 5) for value in row] for row in self.vectors.detach().float().cpu().tolist()]
        return {_ENTRY: json.dumps({"words": self.words, "vectors": vectors})}


def scene_words_in(metadata: Mapping[str, str], file: str) -> SceneWords:
    """The words of a base's file.

    Raises ValueError when it has none, or they are damaged.
    """
    if _ENTRY not in metadata:
        raise ValueError(
            f"{file} has no scene words: it is no nano base. Real Wan2.2 takes its text from CLIP Text Encode."
        )
    try:
        entry = json.loads(metadata[_ENTRY])
        words, vectors = tuple(map(str, entry["words"])), torch.tensor(entry["vectors"], dtype=torch.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"The scene words of {file} are damaged ({error}). Get the file again.") from error
    if vectors.ndim != 2 or len(vectors) != 1 + len(words) or not torch.isfinite(vectors).all():
        raise ValueError(
            f"The scene words of {file} are damaged: {len(words)} words, vectors {list(vectors.shape)}. Get it again."
        )
    return SceneWords(words, vectors)
