"""A transform that leaks, for a worker to import; without torch, which it would take seconds to import."""

from __future__ import annotations

import numpy as np

from visuomotor.types import Observation, Sample


class Keeps:
    """Keeps the pictures of every sample."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def apply(self, sample: Sample) -> Sample:
        self.kept.append(sample.images["front"].copy())
        return sample

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        return actions
