"""Chunks as tokens that a language model learns to write behind its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int

from visuomotor.codecs.base import Codec
from visuomotor.types import Batch, Observation, Sample, Tokens

__all__ = ["ANNOUNCED", "WRITTEN", "ActionTokens", "announced", "behind", "with_tokens", "written_ids"]

ANNOUNCED, WRITTEN = 1, 2
"""Segments of tokens behind a prompt, which is segment 0."""


def written_ids(tokens: np.ndarray, last: int | None) -> np.ndarray:
    """Ids in the model's vocabulary of a codec's tokens: the same, or counted down from `last`; and back."""
    return tokens if last is None else last - tokens


def with_tokens(sample: Sample, own: Tokens) -> Sample:
    """The sample with tokens behind those that it has."""
    if sample.tokens is None:
        return replace(sample, tokens=own)
    pairs = {name: (getattr(sample.tokens, name), getattr(own, name)) for name in vars(own)}
    return replace(sample, tokens=Tokens(**{name: np.concatenate(pair) for name, pair in pairs.items()}))


def behind(
    batch: Batch, width: int
) -> tuple[Int[torch.Tensor, "row token"], Bool[torch.Tensor, "row token"]]:
    """Ids behind the first `width` columns of a batch's tokens, of its blind samples too, and which are real.

    What is masked is 0.

    Raises:
        ValueError: The batch has no tokens.
    """
    parts = [batch] if batch.blind is None or batch.blind.actions is None else [batch, batch.blind]
    if any(part.tokens is None for part in parts):
        raise ValueError("tokens: the batch has none. Run the policy's transforms first.")
    ids = [part.tokens.ids[:, width:] for part in parts]  # type: ignore[union-attr]
    real = [part.tokens.attend[:, width:] for part in parts]  # type: ignore[union-attr]
    longest = max(part.shape[1] for part in ids)
    padded = [[F.pad(part, (0, longest - part.shape[1])) for part in side] for side in (ids, real)]
    every = torch.cat(padded[1])
    return torch.cat(padded[0]).masked_fill(~every, 0), every


def announced(batch: Batch, width: int) -> Int[torch.Tensor, "row token"]:
    """Ids from which a model goes on while acting: those that announce a chunk, never a chunk itself.

    Raises:
        ValueError: The batch has no tokens.
    """
    if batch.tokens is None:
        raise ValueError("tokens: the batch has none. Run the policy's transforms first.")
    count = int((batch.tokens.segment[:, width:] == ANNOUNCED).sum(1).max())
    ids, real = (part[:, width : width + count] for part in (batch.tokens.ids, batch.tokens.attend))
    return ids.masked_fill(~real, 0)


@dataclass(frozen=True)
class ActionTokens:
    """Adds to `tokens`, behind what is there: `before`, the ids of the chunk, and `after`.

    While acting there is no chunk, and `before` alone, segment 1, is what the model goes on from. The chunk
    and what ends it are segment 2. All of it but the first id that announces is trained on.

    Attributes:
        codec: Normalized, padded actions to tokens.
        last: Id of the codec's token 0, from which ids are counted down; None if they are the tokens.
        before: Ids that announce actions; none if the prompt ends in them.
        after: Ids that end them.
    """

    codec: Codec
    last: int | None
    before: Sequence[int]
    after: Sequence[int] = ()

    def apply(self, sample: Sample) -> Sample:
        """The sample with its chunk written behind its prompt."""
        ids = np.asarray(self.before, np.int64)
        if sample.actions is not None:
            actions = sample.actions
            if sample.horizon_mask is not None:  # beyond the end the last action is repeated, as published
                reached = max(int(sample.horizon_mask.sum()), 1)
                actions = np.concatenate(
                    [actions[:reached], np.repeat(actions[reached - 1 : reached], len(actions) - reached, 0)]
                )
            chunk = written_ids(self.codec.encode(actions), self.last)
            ids = np.concatenate([ids, chunk, np.asarray(self.after, np.int64)])
        real, learned = np.ones(len(ids), bool), np.arange(len(ids)) >= min(len(self.before), 1)
        segment = np.where(np.arange(len(ids)) < len(self.before), ANNOUNCED, WRITTEN)
        own = Tokens(ids=ids, attend=real, loss=learned, segment=segment)
        return with_tokens(sample, own)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions as they are: the policy has decoded them."""
        return actions
