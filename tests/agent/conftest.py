"""A body, statistics and observations small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_policy import TinyConfig, TinyPolicy

from visuomotor.data.synthetic import SPEC
from visuomotor.training.run import build_policy
from visuomotor.types import Observation, Spec, Stats, Summary


def summary(generator: np.random.Generator, width: int) -> Summary:
    low, high = -generator.uniform(0.5, 1, width), generator.uniform(0.5, 1, width)
    return Summary(
        mean=(low + high) / 2, std=(high - low) / 4, min=low, max=high, q01=low * 0.9, q99=high * 0.9, count=9
    )


@pytest.fixture
def spec() -> Spec:
    return SPEC


@pytest.fixture
def stats() -> Stats:
    generator = np.random.default_rng(0)
    return Stats(source="made up", features={"state": summary(generator, 3), "action": summary(generator, 3)})


@pytest.fixture
def policy() -> TinyPolicy:
    policy = build_policy("tiny_policy:TinyPolicy", TinyConfig(), {"set": SPEC}, seed=0)
    assert isinstance(policy, TinyPolicy)
    return policy


@pytest.fixture
def observation() -> Observation:
    generator = np.random.default_rng(1)
    return Observation(
        images={
            c.name: generator.integers(0, 255, (1, c.height, c.width, 3), np.uint8) for c in SPEC.cameras
        },
        state=generator.uniform(0, 1, (1, 3)).astype(np.float32),
        instruction="move to the red square",
        embodiment="cursor",
        time=0.7,
    )
