"""Texts as tokens that a language model learns to write behind its prompt: a subtask, or an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from visuomotor.errors import DataError
from visuomotor.transforms.action_tokens import ANNOUNCED, WRITTEN, with_tokens
from visuomotor.types import Batch, Observation, Sample, Tokens

__all__ = ["Spelling", "Text", "WrittenText", "text_of", "trimmed"]


@dataclass(frozen=True)
class Spelling:
    """How a language model spells texts.

    Attributes:
        subtask: Ids that announce what is to be done now.
        answer: Ids that announce the answer to a question.
        end: Id that ends a text; no id below it is ever in one.
        encode: Text to ids.
        decode: Ids to text.
    """

    subtask: tuple[int, ...]
    answer: tuple[int, ...]
    end: int
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]


class Text(NamedTuple):
    """Texts of a batch as tokens: what announces each, its ids, and its end.

    Attributes:
        ids: int64; 0 where nothing is.
        real: Which of them are there.
        learned: Which are to be written: all but those that announce.
    """

    ids: Int[torch.Tensor, "row token"]
    real: Bool[torch.Tensor, "row token"]
    learned: Bool[torch.Tensor, "row token"]


def text_of(parts: Sequence[Batch], start: int, width: int) -> Text:
    """The texts in columns `start` to `start + width` of the tokens of some batches, one behind the other.

    Columns that are empty in all rows are left out.

    Raises:
        ValueError: A batch has no tokens.
    """
    found = []
    for part in parts:
        if part.tokens is None:
            raise ValueError("text: the batch has no tokens. Run the policy's transforms first.")
        found.append((part.tokens.ids, part.tokens.attend, part.tokens.loss))
    ids, real, learned = (torch.cat([one[:, start : start + width] for one in some]) for some in zip(*found))
    return trimmed(Text(ids.masked_fill(~real, 0), real, learned & real))


def trimmed(text: Text) -> Text:
    """Without the last columns, as far as they are empty in all rows; all of them in a compiled graph."""
    if torch.compiler.is_compiling():
        return text
    used = text.real.any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return Text(*(part[:, :width] for part in text))


@dataclass(frozen=True)
class WrittenText:
    """Adds exactly `width` columns to `tokens`, behind what is there: a text with what announces and ends it.

    The text is the answer of a sample that has one, else its subtask. While acting there is none, and what
    announces a subtask is what the model goes on from; an answer that is empty is likewise to be written.

    Attributes:
        spelling: Of the language model.
        width: Columns.
        subtasks: Whether subtasks are texts; without, only answers are.
    """

    spelling: Spelling
    width: int
    subtasks: bool = True

    def apply(self, sample: Sample) -> Sample:
        """The sample with its text.

        Raises:
            DataError: The text is too long, or has a word that cannot be spelled.
        """
        how = self.spelling
        before, text = how.answer, sample.answer
        if text is None:
            before, text = how.subtask, sample.subtask if self.subtasks else None
        ids = [*before, *how.encode(text), how.end] if text else [*before]
        if len(ids) > self.width:
            raise DataError(
                f"text {text!r}: {len(ids)} tokens with what announces and ends it, and this policy writes "
                f"at most {self.width}. Use shorter texts, or train with more text_tokens."
            )
        places = np.arange(self.width)
        row: np.ndarray = np.zeros(self.width, np.int64)
        row[: len(ids)] = ids
        real = places < len(ids)
        own = Tokens(
            ids=row,
            attend=real,
            loss=real & (places >= len(before)),
            segment=np.where(places < len(before), ANNOUNCED, WRITTEN),
        )
        return with_tokens(sample, own)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions as they are."""
        return actions
