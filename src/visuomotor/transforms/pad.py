"""States, actions and views of different bodies in arrays of one shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from visuomotor.types import Camera, Observation, Sample, Spec

__all__ = ["PadCameras", "PadDimensions"]


@dataclass(frozen=True)
class PadDimensions:
    """Zeros behind the real dimensions, with masks; cut off again on the way back.

    Attributes:
        spec: The body, which decides how many dimensions are real.
        state: Padded width of the state.
        action: Padded width of the action.
    """

    spec: Spec
    state: int
    action: int

    def __post_init__(self) -> None:
        for feature in ("state", "action"):
            real, padded = len(getattr(self.spec, feature)), getattr(self, feature)
            if real > padded:
                raise ValueError(
                    f"padding of {self.spec.embodiment!r}: its {feature} has {real} numbers, "
                    f"the padded one only {padded}. Choose a larger padded {feature} in the config."
                )

    def apply(self, sample: Sample) -> Sample:
        """The sample with padded state and, if there are any, actions; `action_mask` is always set."""
        real = (
            np.ones(len(self.spec.action), dtype=bool) if sample.action_mask is None else sample.action_mask
        )
        return replace(
            sample,
            state=_pad(sample.state, self.state),
            state_mask=_pad(sample.state_mask, self.state),
            actions=None if sample.actions is None else _pad(sample.actions, self.action),
            executed=None if sample.executed is None else _pad(sample.executed, self.action),
            action_mask=_pad(real, self.action),
        )

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The real dimensions of actions (horizon, padded action)."""
        return actions[..., : len(self.spec.action)]


@dataclass(frozen=True)
class PadCameras:
    """Black pictures with mask `False` where a body lacks a camera that another one has.

    A blind sample, which has no picture at all, stays as it is.

    Attributes:
        cameras: Those of all bodies.
    """

    cameras: tuple[Camera, ...]

    def apply(self, sample: Sample) -> Sample:
        """The sample with every camera, in their order."""
        missing = [camera for camera in self.cameras if camera.name not in sample.images]
        if not sample.images or not missing:
            return sample
        ticks = len(sample.history_mask)
        images = {c.name: np.zeros((ticks, c.height, c.width, 3), np.uint8) for c in missing}
        masks = {camera.name: np.zeros(ticks, bool) for camera in missing}
        return replace(sample, images={**sample.images, **images}, image_mask={**sample.image_mask, **masks})

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Actions as they are."""
        return actions


def _pad(values: np.ndarray, width: int) -> np.ndarray:
    padded = np.zeros((*values.shape[:-1], width), dtype=values.dtype)
    padded[..., : values.shape[-1]] = values
    return padded
