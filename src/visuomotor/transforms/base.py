"""The way between a raw sample and model space, and back for actions.

A transform is pure: it never writes into its arguments and keeps nothing between calls. `invert`
is given the raw observation, so that relative actions need no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from visuomotor.types import Observation, Sample

__all__ = ["Pipeline", "Transform"]


@runtime_checkable
class Transform(Protocol):
    """One step between robot units and model space."""

    def apply(self, sample: Sample) -> Sample:
        """The sample one step closer to the model."""
        ...

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Actions (horizon, action) one step closer to the robot."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """Transforms in order: forwards for samples, backwards for actions."""

    transforms: Sequence[Transform] = ()

    def apply(self, sample: Sample) -> Sample:
        """Every transform in turn."""
        for transform in self.transforms:
            sample = transform.apply(sample)
        return sample

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Every inverse in reverse turn; `observation` is the raw one."""
        for transform in reversed(self.transforms):
            actions = transform.invert(actions, observation)
        return actions
