"""How a policy reads its instruction: token states of a frozen encoder, words learned from scratch, or not.

The encoder itself never sits in a policy: its token states come with each sample (`EncodeSentence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.errors import unknown_name
from visuomotor.nn.attention import Attention
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Transform
from visuomotor.transforms.sentence import EncodeSentence, HashWords
from visuomotor.types import Batch

__all__ = ["Language", "LanguageConfig", "Reader", "SentenceReader", "WordTable"]

Reader = Literal["minilm", "scratch", "smollm2", "none"]


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """How the instruction is read."""

    reader: Reader = "minilm"
    """Frozen MiniLM token states, hashed words with an embedding learned from scratch, rows of SmolLM2's
    table for a trunk that reads them itself (`SightTrunkConfig.smollm2`), or nothing at all."""
    width: int = 384
    """Width of a token state; 384 for MiniLM, 576 for SmolLM2."""
    max_tokens: int = 32
    """Longer sentences are refused."""
    buckets: int = 4096
    """Rows of the word table when `reader="scratch"`."""

    def __post_init__(self) -> None:
        if self.reader not in get_args(Reader):
            raise unknown_name("reader", self.reader, get_args(Reader))
        if min(self.width, self.max_tokens, self.buckets) < 1:
            raise ValueError(f"language: sizes must be at least 1, got {self}.")

    @classmethod
    def tiny(cls) -> LanguageConfig:
        """Hashed words, for tests: nothing has to be installed."""
        return cls(reader="scratch", buckets=64, max_tokens=16)

    @classmethod
    def none(cls) -> LanguageConfig:
        """No language: the published form of families that had none."""
        return cls(reader="none")


class WordTable(nn.Module):
    """Hashed words to token states, learned from scratch; a convolution tells which words are neighbors."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.buckets, config.width)
        self.position = nn.Parameter(torch.randn(config.max_tokens, config.width) * 0.02)
        self.neighbors = nn.Conv1d(config.width, config.width, kernel_size=5, padding=2)

    def forward(
        self, ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token feature"]:
        """Token states; padding stays where it is."""
        words = (self.table(ids) + self.position[: ids.shape[1]]) * mask[:, :, None]
        mixed = self.neighbors(words.transpose(1, 2)).transpose(
            1, 2
        )  # batch feature token -> batch token feature
        return words + F.gelu(mixed)


class Language(nn.Module):
    """Token states of each sample's instruction.

    Args:
        config: How it is read.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.words = WordTable(config) if config.reader == "scratch" else None

    @property
    def encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs: "minilm", "smollm2", or None."""
        return self.config.reader if self.config.reader in ("minilm", "smollm2") else None

    @property
    def tokens_width(self) -> int:
        """Columns of a batch's tokens that hold words."""
        return self.config.max_tokens if self.config.reader == "scratch" else 0

    def transform(self, sentences: SentenceCache | None) -> tuple[Transform, ...]:
        """What prepares a sample: nothing or one transform.

        Raises:
            ValueError: A frozen encoder is needed, and no sentences are given.
        """
        config = self.config
        if config.reader == "none":
            return ()
        if config.reader == "scratch":
            return (HashWords(buckets=config.buckets, max_tokens=config.max_tokens),)
        if sentences is None:
            raise ValueError(
                f"language: reader={config.reader!r} needs encoded sentences. Pass "
                "sentences=SentenceCache(...)."
            )
        return (EncodeSentence(sentences, max_tokens=config.max_tokens),)

    def forward(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch token feature"], Bool[Tensor, "batch token"]]:
        """Token states, and which of them are real; one that is not for a policy without language."""
        if self.config.reader == "none":
            states = batch.state.new_zeros(len(batch), 1, self.config.width)
            return states, states.new_zeros(states.shape[:2], dtype=torch.bool)
        if self.words is None:
            if batch.sentence is None or batch.sentence_mask is None:
                raise ValueError("language: the batch has no sentences. Run the policy's transforms first.")
            return batch.sentence, batch.sentence_mask
        if batch.tokens is None:
            raise ValueError("language: the batch has no hashed words. Run the policy's transforms first.")
        most = self.config.max_tokens  # what a family writes behind the words is its own
        ids, attend = batch.tokens.ids[:, :most], batch.tokens.attend[:, :most]
        return self.words(ids, attend), attend


class SentenceReader(nn.Module):
    """Token states of a sentence to slots: learned queries attend over the words.

    Args:
        words: Width of a token state.
        slots: Number of queries.
        width: Of a slot.
    """

    def __init__(self, words: int, *, slots: int, width: int) -> None:
        super().__init__()
        self.words = nn.Sequential(nn.LayerNorm(words), nn.Linear(words, width))
        self.queries = nn.Parameter(torch.randn(slots, width) * width**-0.5)
        self.attention = Attention(width, heads=4)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, sentence: Float[Tensor, "batch token feature"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch slot width"]:
        """Slots; of a sentence without words, what the queries are by themselves."""
        words = self.words(sentence)
        queries = self.queries.expand(len(words), -1, -1)
        slots = queries + self.attention(queries, words, mask)
        return self.norm(slots + self.mlp(slots))
