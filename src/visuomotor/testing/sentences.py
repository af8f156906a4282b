"""A sentence encoder without weights, for tests."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from visuomotor.text.words import split_words

__all__ = ["RandomSentenceEncoder"]


class RandomSentenceEncoder:
    """Gives each word a fixed random state, the same on every machine; knows no order and no meaning.

    The empty sentence has one token, as encoders with special tokens have.

    Args:
        width: Size of the state of one token.
    """

    def __init__(self, width: int = 384) -> None:
        self.width = width
        self.hash = f"random-{width}"

    def encode(self, sentences: Sequence[str]) -> list[Float32[np.ndarray, "token width"]]:
        """One state a word, after one for the start."""
        return [
            np.stack([self._state(word) for word in ["", *split_words(sentence)]]) for sentence in sentences
        ]

    def _state(self, word: str) -> Float32[np.ndarray, " width"]:
        generator = np.random.default_rng(zlib.crc32(word.encode()))
        return generator.standard_normal(self.width, dtype=np.float32)
