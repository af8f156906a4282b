from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visuomotor.generative import flow
from visuomotor.nn.attention import Attention
from visuomotor.nn.embedding import embed_time
from visuomotor.policies.base import Acted, Loss, Policy, Term
from visuomotor.testing import RandomSentenceEncoder, check_policy
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.pad import PadDimensions
from visuomotor.transforms.sentence import EncodeSentence, HashWords
from visuomotor.types import Batch, Camera, Dimension, Spec, Stats, Window

ARM = Spec(
    embodiment="arm",
    cameras=(Camera(name="front", height=6, width=6), Camera(name="wrist", height=4, width=4)),
    state=tuple(Dimension(name=f"s{i}") for i in range(3)),
    action=tuple(Dimension(name=f"a{i}", kind="ee_delta") for i in range(2)),
    rate=10.0,
)
CACHE = SentenceCache(RandomSentenceEncoder(width=6))
WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """What is broken in this toy, if anything."""

    bug: str = ""
    hashed: bool = False


class Toy(Policy):
    """The smallest policy that keeps the contract, and one place to break each rule of it."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.bug = config.bug
        self.eyes = nn.ModuleDict({c.name: nn.Linear(c.height * c.width * 3, WIDTH) for c in ARM.cameras})
        self.words = nn.Embedding(32, 6)
        self.read = Attention(WIDTH, 2, context_width=6)
        self.state = nn.Linear(2 * 4, WIDTH)
        self.body = nn.Embedding(1, WIDTH)
        self.leave = nn.Sequential(nn.Linear(4 * 3 + WIDTH + 8, 128), nn.GELU(), nn.Linear(128, 4 * 3))
        if self.bug == "silent weight":
            self.forgotten = nn.Linear(2, 2)
        self.calls = 0
        self.hidden = torch.zeros(1)
        if self.bug == "state":
            self.register_buffer("last", torch.zeros(1))
        if self.bug == "unsaved":
            self.factor = 1 + torch.rand(1)
        if self.bug == "unseeded weights":
            self.body.weight.data.copy_(torch.from_numpy(np.random.default_rng().normal(size=(1, WIDTH))))

    @property
    def window(self) -> Window:
        return Window(history=(-1, 0), horizon=4)

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        if self.bug != "any key":
            self.check_key(key)
        if self.bug == "optional statistics" and "state" not in stats.features:
            return Pipeline()
        text = HashWords(32, 16) if self.config.hashed else EncodeSentence(sentences, 16)
        steps = [text, Normalize.from_stats(stats), PadDimensions(ARM, 4, 3)]
        if self.bug == "in place":
            steps.insert(0, InPlace())
        return Pipeline(tuple(steps))

    def observe(self, batch: Batch) -> Tensor:
        state = batch.state
        if self.bug != "leak state dimension":
            state = state * batch.state_mask[:, None]
        if self.bug != "leak history":
            state = state * batch.history_mask[:, :, None]
        seen = self.state(state.flatten(1)) + self.body(batch.embodiment)
        for name, eye in self.eyes.items():
            pixels = eye(batch.images[name][:, -1].flatten(1).float() / 127.5 - 1)
            seen = seen + (pixels if self.bug == "leak camera" else pixels * batch.image_mask[name][:, -1:])
        words, mask = batch.sentence, batch.sentence_mask
        if self.config.hashed:
            words, mask = self.words(batch.tokens.ids), batch.tokens.attend
        told = self.read(seen[:, None], words, None if self.bug == "leak tokens" else mask)[:, 0]
        seen = torch.tanh(seen + told)
        return seen - seen.mean(0) if self.bug == "company" else seen

    def velocity(self, observation: Tensor, real: Tensor) -> flow.Velocity:
        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            given = (chunk * real).flatten(1)
            inputs = torch.cat([given, observation, embed_time(time, 8)], dim=-1)
            answer = self.leave(inputs).unflatten(1, (4, 3))
            return answer * self.factor if self.bug == "unsaved" else answer

        return velocity

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        if self.bug == "global noise":
            generator = None
        mask = batch.has_actions[:, None, None] & batch.horizon_mask[:, :, None] & batch.action_mask[:, None]
        if self.bug == "leak ticks":
            mask = batch.has_actions[:, None, None] & batch.action_mask[:, None]
        if self.bug == "leak dimension":
            mask = batch.has_actions[:, None, None] & batch.horizon_mask[:, :, None]
        if self.bug == "counts absent actions":
            mask = batch.horizon_mask[:, :, None] & batch.action_mask[:, None]
        if self.bug == "state":
            self.last += 1
        clean = torch.zeros_like(batch.actions) if self.bug == "learns nothing" else batch.actions
        velocity = self.velocity(self.observe(batch), batch.action_mask[:, None])
        if self.bug == "graph break":
            assert float(clean.sum()) != 0
        total, count = flow.loss(velocity, clean, generator=generator, mask=mask.expand_as(clean))
        return Loss({"flow": Term(total, count)})

    def act(self, batch: Batch, *, generator=None, noise=None, context=None, prefix=None, held=None) -> Acted:
        if noise is None:
            noise = flow.sample_noise((len(batch), 4, 3), generator=generator)
        if self.bug == "memory":
            self.calls += 1
            noise = noise + self.calls
        if self.bug == "peeks" and batch.actions is not None:
            return Acted(actions=batch.actions)
        if self.bug == "wrong shape":
            return Acted(actions=noise[:, :2])
        real = torch.tensor([True, True, False])
        velocity = self.velocity(self.observe(batch), real)
        if prefix is not None and self.bug != "forgets prefix":
            held = torch.ones(prefix.shape[:2]) if held is None or self.bug == "holds all" else held
            velocity = flow.guide(velocity, prefix, held)
        return Acted(actions=flow.integrate(velocity, noise, 4))


class InPlace:
    def apply(self, sample):
        sample.state[:] = 0
        return sample

    def invert(self, actions, observation):
        return actions


def toy(bug: str = "", *, hashed: bool = False):
    return lambda: Toy(ToyConfig(bug=bug, hashed=hashed), {"set": ARM})


def test_a_policy_that_keeps_the_contract_passes() -> None:
    check_policy(toy(), sentences=CACHE, without_gradient={"words.weight": "reads encoded sentences instead"})


def test_a_policy_with_hashed_words_passes_too() -> None:
    check_policy(toy(hashed=True), compiles=False)


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("any key", "unknown data-set key"),
        ("optional statistics", "without 'state'"),
        ("in place", "writes into the sample"),
        ("wrong shape", r"actions \(4, 2, 3\), expected \(4, 4, 3\)"),
        ("peeks", "looks at the actions"),
        ("memory", "depends on what was asked before"),
        ("forgets prefix", "does not continue a prefix"),
        ("holds all", "changes by .* held with 0"),
        ("global noise", "differs for equal seeds|global random generator"),
        ("unseeded weights", "different weights"),
        ("state", r"change \['last'\]"),
        ("leak ticks", "padded ticks change"),
        ("leak dimension", "padded action dimensions change"),
        ("leak state dimension", "padded state dimensions change"),
        ("leak history", "ticks before the start of the episode change"),
        ("leak camera", "pictures of the masked camera 'front' change"),
        ("leak tokens", "padded tokens of the sentence change"),
        ("counts absent actions", "actions of a sample that has none change|still counted"),
        ("company", "alone and in a batch differ"),
        ("unsaved", "not in the state dict|different weights"),
        ("silent weight", r"never got gradient.*forgotten\.bias"),
        ("learns nothing", "off by"),
        ("graph break", r"loss\(\) does not compile"),
    ],
)
def test_each_broken_rule_is_found(bug: str, message: str) -> None:
    reasons = {"words.weight": "reads encoded sentences instead"}
    late = bug in ("silent weight", "learns nothing")
    with pytest.raises(AssertionError, match=message):
        check_policy(
            toy(bug),
            sentences=CACHE,
            without_gradient=reasons,
            compiles=bug == "graph break",
            steps=60 if late else 300,
        )


def test_a_reason_for_a_weight_that_does_get_gradient_is_stale() -> None:
    reasons = {"words.weight": "reads encoded sentences instead", "body.weight": "wrong"}
    with pytest.raises(AssertionError, match=r"\['body.weight'\], which do get gradient"):
        check_policy(toy(), sentences=CACHE, without_gradient=reasons, compiles=False, steps=5)


def test_leaking_hashed_words_are_found() -> None:
    with pytest.raises(AssertionError, match="padded tokens of the instruction change"):
        check_policy(toy("leak tokens", hashed=True), compiles=False)
