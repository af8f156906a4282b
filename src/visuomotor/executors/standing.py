"""Where the robot stands, read from its state, in the terms of its actions."""

from __future__ import annotations

import numpy as np

from visuomotor.types import Dimension, Observation, Spec

__all__ = ["find_position", "standing"]


def standing(spec: Spec, observation: Observation) -> np.ndarray:
    """Where the robot stands, as an action (action,): absolute dimensions read from the state, deltas 0.

    A dimension is found in the state by its name, else by its place among those of its kind.

    Raises:
        ValueError: The state does not tell the present value of an absolute dimension.
    """
    state = observation.state[-1]
    names = [dimension.name for dimension in spec.state]
    action = np.zeros(len(spec.action), np.float32)
    for index, dimension in enumerate(spec.action):
        if dimension.kind.endswith("_delta"):
            continue
        same_kind = [place for place, other in enumerate(spec.state) if other.kind == dimension.kind]
        peers = [other.name for other in spec.action if other.kind == dimension.kind]
        if dimension.name in names:
            action[index] = state[names.index(dimension.name)]
        elif len(same_kind) == len(peers):
            action[index] = state[same_kind[peers.index(dimension.name)]]
        else:
            raise ValueError(
                f"embodiment {spec.embodiment!r}: cannot hold before the first action, because the state "
                f"does not tell the present value of {dimension.name!r}. Name a state dimension like it, "
                "or set latency to 0."
            )
    return action


def find_position(spec: Spec, delta: Dimension) -> int | None:
    """Index in the state of the position that `delta` of an action changes; None if the state has none.

    It is the first state dimension of the same kind (without "_delta") and unit whose name has every
    word of the delta's name: "left_measured_x" for "left_x".
    """
    words = set(delta.name.split("_"))
    for place, other in enumerate(spec.state):
        alike = other.kind == delta.kind.removesuffix("_delta") and other.unit == delta.unit
        if alike and words <= set(other.name.split("_")):
            return place
    return None
