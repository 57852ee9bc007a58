"""The scene words while they are learned: a table that is trained with the nano base."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mirage_core.scene_words import SceneWords

from .worlds import World
from .worlds.palettes import PALETTES

VOCABULARY = ("room", "plaza", "movers", *(palette.name for palette in PALETTES))


def words_of(world: World, *, has_movers: bool) -> tuple[str, ...]:
    """What is said about a film: the kind of its world, the palette, and whether anything is seen to move."""
    return (world.kind, world.palette.name, *(("movers",) if has_movers else ()))


class WordTable(nn.Module):
    """Learned vectors. words: those of a file, or None for the whole vocabulary with random vectors."""

    def __init__(self, text_dim: int, words: SceneWords | None = None, *, seed: int = 0):
        super().__init__()
        self.vocabulary = VOCABULARY if words is None else words.words
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(1 + len(self.vocabulary), text_dim, generator=generator)
        self.vectors = nn.Parameter(vectors if words is None else words.vectors.clone())

    def forward(self, texts: Sequence[Sequence[str] | None]) -> torch.Tensor:
        """[batch SLOTS text_dim]; None says nothing, as no words do. Raises ValueError for an unknown word."""
        words = self.scene_words
        return self.vectors[torch.tensor([words.rows(text or ()) for text in texts], device=self.vectors.device)]

    @property
    def scene_words(self) -> SceneWords:
        """What goes into the base's file."""
        return SceneWords(self.vocabulary, self.vectors.detach())
