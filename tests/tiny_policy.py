"""A policy of a few thousand weights for tests of everything around policies: flow matching on an MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from visuomotor.generative import flow
from visuomotor.policies.base import Acted, Context, Loss, Policy, Term
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.sentence import EncodeSentence
from visuomotor.types import Batch, Spec, Stats, Window

WORDS = 5


class LetterEncoder:
    """A frozen encoder: each word becomes numbers made of its first letters."""

    width = WORDS

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.hash = scale, f"letters-{scale}"

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        return [
            np.array(
                [[ord(c) / 128 * self.scale for c in word.ljust(WORDS)[:WORDS]] for word in s.split()],
                np.float32,
            )
            for s in sentences
        ]


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    width: int = 32
    horizon: int = 4
    history: tuple[int, ...] = (0,)
    dropout: float = 0.0
    smoothness: bool = False
    reads: bool = False


class TinyPolicy(Policy):
    """Looks at the state and the mean color of each picture; reads the words if its config says so."""

    Config = TinyConfig
    config: TinyConfig

    def __init__(self, config: TinyConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        spec = next(iter(self.bodies.values()))
        self.cameras = [camera.name for camera in spec.cameras]
        history, self.action = len(config.history), len(spec.action)
        seen = history * (len(spec.state) + 3 * len(self.cameras)) + (WORDS if config.reads else 0)
        self.see = nn.Sequential(nn.Linear(seen, config.width), nn.LayerNorm(config.width), nn.GELU())
        self.drop = nn.Dropout(config.dropout)
        self.flow = nn.Linear(config.width + config.horizon * self.action + 1, config.width)
        self.leave = nn.Linear(config.width, config.horizon * self.action)
        self.register_buffer("fixed", torch.ones(1), persistent=False)

    @property
    def window(self) -> Window:
        return Window(history=self.config.history, horizon=self.config.horizon)

    @property
    def sentence_encoder(self) -> str | None:
        return "minilm" if self.config.reads else None

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        self.check_key(key)
        if self.config.reads:
            assert sentences is not None
            return Pipeline((EncodeSentence(sentences, 16), Normalize.from_stats(stats)))
        return Pipeline((Normalize.from_stats(stats),))

    def observe(self, batch: Batch) -> Tensor:
        colors = [batch.images[name].float().mean(dim=(2, 3)) / 128 - 1 for name in self.cameras]
        words = [] if batch.sentence is None else [batch.sentence.mean(dim=1)]
        return self.drop(
            self.see(torch.cat([part.flatten(1) for part in [batch.state, *colors, *words]], dim=1))
        )

    def velocity(self, observation: Tensor) -> flow.Velocity:
        def at(chunk: Tensor, time: Tensor) -> Tensor:
            hidden = self.flow(torch.cat([observation, chunk.flatten(1), time[:, None]], dim=1))
            return self.leave(torch.nn.functional.gelu(hidden)).reshape(chunk.shape)

        return at

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        mask = batch.horizon_mask[:, :, None]
        found = self.velocity(self.observe(batch))
        total, count = flow.loss(found, batch.actions, mask=mask, generator=generator)
        terms = {"flow": Term(total, count)}
        if self.config.smoothness:  # a second term with a count of its own: only every other sample has it
            half = self.leave(self.observe(batch)[::2])
            terms["small"] = Term(half.square().sum(), torch.tensor(float(half.numel())), 0.1)
        return Loss(terms)

    def act(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        context: Context | None = None,
        prefix: Tensor | None = None,
        held: Tensor | None = None,
    ) -> Acted:
        observation = self.observe(batch)
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action)
            noise = torch.randn(shape, generator=generator, device=observation.device)
        found = self.velocity(observation)
        if prefix is not None:
            found = flow.guide(found, prefix, torch.ones(prefix.shape[:2]) if held is None else held)
        return Acted(actions=flow.integrate(found, noise, steps=5))
