"""Actions measured from the state in which a chunk begins, and back.

Source: the released code of pi0 (Black et al. 2024), in which joints are relative and grippers absolute.
The whole chunk is measured from one state, that of the current tick, and not each action from the one
before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from visuomotor.errors import DataError
from visuomotor.types import Observation, Sample, Spec

__all__ = ["RELATIVE", "RelativeActions", "relative_joints", "with_relative_joints"]

RELATIVE = "relative_action"
"""Feature of statistics: those of all actions of all chunks, measured as `RelativeActions` has them."""


@dataclass(frozen=True, kw_only=True)
class RelativeActions:
    """Subtracts the current state from some numbers of each action; belongs before `Normalize`.

    Statistics of what comes out are those of `RELATIVE`, not of the actions themselves.

    Attributes:
        action: Indices of the actions' numbers that are measured from the state.
        state: For each of them the index of the state's number that it is measured from.
    """

    action: tuple[int, ...]
    state: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.action) != len(self.state) or len(set(self.action)) != len(self.action):
            raise ValueError(
                "relative actions: expected one number of the state for each number of the action, once, "
                f"got {self.action} from {self.state}."
            )

    def apply(self, sample: Sample) -> Sample:
        """The sample with relative actions, if there are any.

        Raises:
            DataError: The state, or the action, lacks a number.
        """
        if sample.actions is None:
            return sample
        state = np.where(sample.state_mask, sample.state[-1], np.nan)  # what is masked tells nothing
        executed = None if sample.executed is None else self._moved(sample.executed, state, -1)
        return replace(sample, actions=self._moved(sample.actions, state, -1), executed=executed)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Absolute actions (horizon, action); they are relative to the current state of the observation.

        Raises:
            DataError: The state lacks a number, or has one that is not finite.
        """
        return self._moved(actions, observation.state[-1], 1)

    def _moved(
        self, actions: Float32[np.ndarray, "horizon action"], state: np.ndarray, sign: int
    ) -> Float32[np.ndarray, "horizon action"]:
        """Actions with a multiple of the state added to those that are measured from it."""
        for what, values, wanted in (("state", state, self.state), ("action", actions, self.action)):
            if wanted and max(wanted) >= values.shape[-1]:
                raise DataError(
                    f"relative actions: the {what} has {values.shape[-1]} numbers, number {max(wanted)} is "
                    f"needed. Give the {what} that the spec of the body describes, not a part of it."
                )
        origin = state[list(self.state)]
        if not np.isfinite(origin).all():
            raise DataError(
                f"relative actions: the state that they are measured from is {origin.tolist()}. Wait until "
                "the robot tells where it is; leave samples that do not tell it out of training."
            )
        moved = np.array(actions, np.float32)
        moved[:, list(self.action)] += sign * origin.astype(np.float32)
        return moved


def relative_joints(spec: Spec) -> RelativeActions:
    """The transform that measures every commanded joint from the number of the state with its name.

    A gripper stays absolute, and so does what is relative or a step already.

    Raises:
        ValueError: The body has no commanded joints, or a joint has no number in the state.
    """
    joints = [n for n, dimension in enumerate(spec.action) if dimension.kind == "joint"]
    if not joints:
        kinds = sorted({dimension.kind for dimension in spec.action})
        raise ValueError(
            f"relative joints of {spec.embodiment!r}: no number of its action is of kind 'joint', only "
            f"{', '.join(kinds)}. Use absolute actions, or say in the spec which numbers are joints."
        )
    places = {d.name: n for n, d in enumerate(spec.state) if d.kind == "joint"}
    for dimension in (spec.action[n] for n in joints):
        told = spec.state[places[dimension.name]] if dimension.name in places else None
        if told is None or told.unit != dimension.unit:
            found = ", ".join(f"{name} ({spec.state[n].unit})" for name, n in places.items()) or "none"
            raise ValueError(
                f"relative joints of {spec.embodiment!r}: joint {dimension.name!r} ({dimension.unit}) has no "
                f"number in the state to be measured from; its joints are {found}. Name them alike in the "
                "spec, in equal units."
            )
    return RelativeActions(action=tuple(joints), state=tuple(places[spec.action[n].name] for n in joints))


def with_relative_joints(spec: Spec) -> Spec:
    """The body as the model sees it behind `relative_joints`: joints are relative, and without limits."""
    infinite = float("inf")
    action = [
        replace(d, kind="joint_relative", low=-infinite, high=infinite) if d.kind == "joint" else d
        for d in spec.action
    ]
    return replace(spec, action=tuple(action))
