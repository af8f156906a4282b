"""Where the hand is, in meters, beside a state that is normalized and padded for the network.

A body tells it by state dimensions of kind "ee": the first three in meters are the measured position
and the first three in radians the rotation vector (axis times angle), both in the frame of the body.
What the rotation is measured from is the body's own choice; the frame of the hand, in which a camera
mounted on it is calibrated, is the frame of the body turned by that rotation and moved to that position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from visuomotor.types import Observation, Sample, Spec

__all__ = ["LocateHand", "find_hand", "hand_pose"]

_SMALL = 1e-9  # radians; no axis can be told below it


def find_hand(spec: Spec) -> tuple[list[int], list[int]] | None:
    """Indices in the state of the measured position and rotation vector, or None if the body has none.

    A body with a position alone has an empty rotation. With several grippers there is no one hand: None.
    """
    if sum(dimension.kind == "gripper" for dimension in spec.action) > 1:
        return None
    kinds = {
        unit: [i for i, d in enumerate(spec.state) if d.kind == "ee" and d.unit == unit][:3]
        for unit in ("m", "rad")
    }
    if len(kinds["m"]) != 3 or len(kinds["rad"]) not in (0, 3):
        return None
    return kinds["m"], kinds["rad"]


def hand_pose(position: np.ndarray, turn: np.ndarray) -> Float32[np.ndarray, "3 4"]:
    """Rotation matrix and position beside it, from a position (3,) and a rotation vector (3,) or (0,)."""
    pose = np.zeros((3, 4), np.float32)
    pose[:, 3] = position
    pose[:, :3] = _rotation(turn) if len(turn) else np.eye(3)
    return pose


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector (Rodrigues 1840)."""
    x, y, z = vector.tolist()
    angle = float(np.sqrt(x * x + y * y + z * z))
    if angle < _SMALL:
        return np.eye(3)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) / angle
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@dataclass(frozen=True)
class LocateHand:
    """Adds `Sample.hand` from the raw state of the current tick; belongs before `Normalize`.

    Attributes:
        spec: The body; for one that does not tell its hand nothing is added.
    """

    spec: Spec
    _found: tuple[list[int], list[int]] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_found", find_hand(self.spec))

    def apply(self, sample: Sample) -> Sample:
        """The sample with its hand; where the state is masked, as that of a question, nobody tells it."""
        if self._found is None or not sample.state_mask.any():
            return sample
        position, turn = self._found
        state = sample.state[-1]
        return replace(sample, hand=hand_pose(state[position], state[turn]))

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Actions as they are."""
        return actions
