"""ALOHA's numbers as the released policies of the pi family know them, and back.

These policies were trained with arms of their own, whose second and third joint turn the other way, and
whose grippers are told by the angle of the motor. ALOHA's software tells how far the fingers are apart,
0 to 1, and takes a command for an angle between those of its own leader. So state and action have
different grippers on the robot, and one for the policy.

    seen = replace(observation, state=released_state(observation.state))
    actions = robot_actions(agent.act(seen, ...).actions)

Numbers are those of two arms: six joints in radians and a gripper of the left, then of the right one.

Source: openpi, `policies/aloha_policy.py`, whose constants these are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from visuomotor.errors import DataError

__all__ = ["released_actions", "released_state", "robot_actions"]

Numbers = Float[np.ndarray, "*ticks number"]

SIGNS = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
GRIPPERS = [6, 13]
FINGERS = (0.01844, 0.05800)  # meters from the motor's axis at 0 and 1
HORN, ROD = 0.022, 0.036  # meters: what turns, and what joins it to the fingers
ANGLES = (0.5476, 1.6296)  # radians of the motor at the policy's 0 and 1
COMMANDS = (-0.6213, 1.4910)  # radians at 0 and 1 of a command


def released_state(state: Numbers) -> Numbers:
    """What the policy wants to be told of a state that the robot tells.

    Raises:
        DataError: There are not 14 numbers.
    """
    return _turned(state, _angle)


def robot_actions(actions: Numbers) -> Numbers:
    """Commands for the robot, from absolute actions of the policy.

    The policy's 1 is about 0.56 of a command: the released actions are radians above the lowest angle, and
    not shares of the range, as in the state.

    Raises:
        DataError: There are not 14 numbers.
    """
    return _turned(actions, lambda gripper: _share(gripper + ANGLES[0], COMMANDS))


def released_actions(actions: Numbers) -> Numbers:
    """The inverse of `robot_actions`: recorded commands as the policy is to learn them.

    Raises:
        DataError: There are not 14 numbers.
    """
    low, high = COMMANDS
    return _turned(actions, lambda gripper: gripper * (high - low) + low - ANGLES[0])


def _turned(numbers: Numbers, gripper: Callable[[np.ndarray], np.ndarray]) -> Numbers:
    """Other signs, and other grippers."""
    if numbers.shape[-1:] != (14,):
        raise DataError(
            f"ALOHA: expected 14 numbers, six joints and a gripper of each arm, got shape {numbers.shape}."
        )
    found = numbers.astype(np.float64) * SIGNS
    found[..., GRIPPERS] = gripper(found[..., GRIPPERS])
    return found.astype(numbers.dtype)


def _angle(apart: np.ndarray) -> np.ndarray:
    """Share of the motor's range, from a share of the fingers': the law of cosines of horn and rod."""
    low, high = FINGERS
    far = apart * (high - low) + low
    sine = (HORN**2 + far**2 - ROD**2) / (2 * HORN * far)
    return _share(np.arcsin(sine.clip(-1, 1)), ANGLES)


def _share(value: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    low, high = ends
    return (value - low) / (high - low)
