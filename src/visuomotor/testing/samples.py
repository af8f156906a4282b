"""Random samples that fit a body, for checks that need data but no data set."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from visuomotor.transforms.relative import RELATIVE
from visuomotor.types import Dimension, Observation, Sample, Spec, Stats, Summary, Window

__all__ = ["SENTENCES", "SUBTASKS", "random_observation", "random_sample", "random_stats", "random_values"]

SENTENCES = (
    "lift the red cube",
    "put the blue ball in the red bowl",
    "please stack the green bar on the yellow cube, slowly",
    "stop",
)

SUBTASKS = ("pick up the red cube", "put the blue ball in the red bowl", "pick up the green bar")


def random_values(dimensions: Sequence[Dimension], ticks: int, generator: np.random.Generator) -> np.ndarray:
    """float32 (tick, dimension): standard normal, kept within the limits."""
    low = np.array([dimension.low for dimension in dimensions])
    high = np.array([dimension.high for dimension in dimensions])
    return np.clip(generator.standard_normal((ticks, len(dimensions))), low, high).astype(np.float32)


def random_observation(
    spec: Spec, generator: np.random.Generator, *, history: int = 1, instruction: str = SENTENCES[0]
) -> Observation:
    """What such a body might see: noise in every picture."""
    return Observation(
        images={
            camera.name: generator.integers(0, 256, (history, camera.height, camera.width, 3), dtype=np.uint8)
            for camera in spec.cameras
        },
        state=random_values(spec.state, history, generator),
        instruction=instruction,
        embodiment=spec.embodiment,
    )


def random_sample(spec: Spec, window: Window, key: str, number: int, *, seed: int = 0) -> Sample:
    """Sample `number` of an endless random data set, in raw units; the sentence changes with the number."""
    generator = np.random.default_rng([seed, number, zlib.crc32(key.encode())])
    observation = random_observation(
        spec, generator, history=len(window.history), instruction=SENTENCES[number % len(SENTENCES)]
    )
    ticks = np.ones(len(window.history), dtype=bool)
    return Sample(
        images=observation.images,
        image_mask=dict.fromkeys(observation.images, ticks),
        state=observation.state,
        history_mask=ticks,
        state_mask=np.ones(len(spec.state), dtype=bool),
        instruction=observation.instruction,
        embodiment=spec.embodiment,
        key=key,
        actions=random_values(spec.action, window.horizon, generator),
        horizon_mask=np.ones(window.horizon, dtype=bool),
        action_mask=np.ones(len(spec.action), dtype=bool),
        keypoints=generator.uniform(-0.5, 0.5, (2, 3)).astype(np.float32),
        keypoint_mask=np.ones(2, dtype=bool),
        subtask=SUBTASKS[number % len(SUBTASKS)],
    )


def random_stats(spec: Spec, *, seed: int = 0) -> Stats:
    """Statistics of what `random_values` draws; those of relative actions are as if they were absolute."""
    generator = np.random.default_rng(seed)

    def summarize(dimensions: Sequence[Dimension]) -> Summary:
        values = random_values(dimensions, 1000, generator).astype(np.float64)
        return Summary(
            mean=values.mean(0),
            std=values.std(0),
            min=values.min(0),
            max=values.max(0),
            q01=np.quantile(values, 0.01, axis=0),
            q99=np.quantile(values, 0.99, axis=0),
            count=len(values),
        )

    state, action = summarize(spec.state), summarize(spec.action)
    return Stats(source="random", features={"state": state, "action": action, RELATIVE: action})
