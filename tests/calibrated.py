"""Bodies with calibrated cameras, for tests of what sees through them, and batches for policies of theirs."""

from __future__ import annotations

from dataclasses import replace

from visuomotor.data.collate import collate
from visuomotor.policies.base import Policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Batch, Camera, Dimension, Spec


def body(name: str, state: int = 3, action: int = 3) -> Spec:
    return Spec(
        embodiment=name,
        cameras=(
            Camera(name="front", height=24, width=32, projection=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.2, 1)),
            Camera(name="wrist", height=16, width=16),
        ),
        state=tuple(Dimension(name=f"s{i}") for i in range(state)),
        action=tuple(Dimension(name=f"a{i}", unit="m", kind="ee_delta") for i in range(action)),
        rate=10.0,
    )


def armed_body() -> Spec:
    """A body that tells where its hand is, with a calibrated camera at its base and one on the hand."""
    overhead = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.2, 1)
    return replace(
        body("arm"),
        cameras=(
            Camera(name="front", height=24, width=32, projection=overhead),
            Camera(name="wrist", height=16, width=16, projection=overhead, mount="hand"),
        ),
        state=(
            *(Dimension(name=axis, unit="m", kind="ee") for axis in "xyz"),
            *(Dimension(name=f"r{axis}", unit="rad", kind="ee") for axis in "xyz"),
            Dimension(name="gripper", kind="gripper"),
        ),
    )


def random_batch(policy: Policy, count: int = 4) -> Batch:
    """Random samples of the policy's first body, through its pipeline."""
    key, spec = next(iter(policy.bodies.items()))
    pipeline = policy.transforms(key, random_stats(spec))
    samples = [pipeline.apply(random_sample(spec, policy.window, key, number)) for number in range(count)]
    return collate(samples, policy.embodiments)
