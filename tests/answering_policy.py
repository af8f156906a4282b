"""A tiny policy that also learns to answer questions about pictures with one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from tiny_policy import TinyConfig, TinyPolicy
from torch import Tensor, nn

from visuomotor.policies.base import Loss, Term
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.words import hash_words
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Observation, Sample, Spec, Stats, Tokens

BUCKETS, LONGEST = 64, 12


@dataclass(frozen=True)
class AskAndAnswer:
    """Adds the words of the instruction and, behind them, that of the answer, which alone is trained on."""

    def apply(self, sample: Sample) -> Sample:
        asked = hash_words(sample.instruction, BUCKETS)[: LONGEST - 1]
        answer = hash_words(sample.answer or "", BUCKETS)[:1]
        ids, attend, loss = np.zeros(LONGEST, np.int64), np.zeros(LONGEST, bool), np.zeros(LONGEST, bool)
        ids[: len(asked)], ids[LONGEST - 1 :][: len(answer)] = asked, answer
        attend[: len(asked)], loss[LONGEST - 1] = True, bool(len(answer))
        return replace(sample, tokens=Tokens(ids=ids, attend=attend, loss=loss, segment=np.zeros_like(ids)))

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        return actions


class AnsweringPolicy(TinyPolicy):
    """`TinyPolicy` with a word to say: a linear reader of the colors and of the words of the question."""

    Config = TinyConfig
    config: TinyConfig

    def __init__(self, config: TinyConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.words = nn.Embedding(BUCKETS, 8)
        self.say = nn.Linear(8 + 3 * len(self.cameras), BUCKETS)

    @property
    def learns_answers(self) -> bool:
        return True

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        return Pipeline((*super().transforms(key, stats, sentences).transforms, AskAndAnswer()))

    def answer(self, batch: Batch) -> Tensor:
        """Scores of each word (batch word)."""
        assert batch.tokens is not None
        seen = [
            (batch.images[name][:, -1].float().mean(dim=(1, 2)) / 128 - 1) * batch.image_mask[name][:, -1:]
            for name in self.cameras
        ]
        attend = batch.tokens.attend[..., None].float()
        asked = (self.words(batch.tokens.ids) * attend).sum(1) / attend.sum(1).clamp(min=1)
        return self.say(torch.cat([asked, *seen], dim=1))

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        assert batch.tokens is not None
        asked = batch.tokens.loss[:, -1]
        each = nn.functional.cross_entropy(self.answer(batch), batch.tokens.ids[:, -1], reduction="none")
        said = Term((each * asked).sum(), asked.sum().float())
        return Loss({**super().loss(batch, generator=generator).terms, "answer": said})
