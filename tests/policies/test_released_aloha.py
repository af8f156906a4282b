"""ALOHA's numbers against openpi's rule, written out for one number at a time, and against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from visuomotor.errors import DataError
from visuomotor.policies.released.aloha import released_actions, released_state, robot_actions

numbers = arrays(np.float32, (3, 14), elements=st.floats(-3, 3, width=32))


@given(numbers)
def test_commands_come_back(actions: np.ndarray) -> None:
    found = robot_actions(released_actions(actions))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, actions, atol=1e-6)
    np.testing.assert_allclose(released_actions(robot_actions(actions)), actions, atol=1e-6)


@given(numbers)
def test_second_and_third_joints_turn_the_other_way(numbers: np.ndarray) -> None:
    before = numbers.copy()
    others = [joint for joint in range(14) if joint not in (1, 2, 8, 9, 6, 13)]
    for found in (released_state(numbers), robot_actions(numbers), released_actions(numbers)):
        np.testing.assert_array_equal(found[:, [1, 2, 8, 9]], -numbers[:, [1, 2, 8, 9]])
        np.testing.assert_array_equal(found[:, others], numbers[:, others])
    np.testing.assert_array_equal(numbers, before)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_angle_of_a_gripper_closes_the_triangle_of_horn_and_rod(share: float) -> None:
    """With the motor at this angle a rod of 36 mm ends where the fingers are."""
    state = np.zeros(14)
    state[[6, 13]] = share
    left, right = released_state(state)[[6, 13]]
    assert left == right
    angle = 0.5476 + (1.6296 - 0.5476) * left
    across, along = 0.022 * math.cos(angle), 0.022 * math.sin(angle)
    fingers = 0.01844 + share * (0.05800 - 0.01844)
    reached = along + math.sqrt(0.036**2 - across**2)
    back = along - math.sqrt(0.036**2 - across**2)
    # Where the fingers are farther than horn and rod together reach, by 0.02 mm, the angle is the last one.
    assert min(abs(reached - fingers), abs(back - fingers)) < 2.5e-5


def test_commands_of_a_gripper_are_radians_above_the_lowest_angle() -> None:
    actions = np.zeros((2, 14))
    actions[1, [6, 13]] = 1.0
    found = robot_actions(actions)[:, 6]
    np.testing.assert_allclose(found, [(0.5476 + 0.6213) / 2.1123, (1.5476 + 0.6213) / 2.1123])


def test_one_arm_is_refused() -> None:
    with pytest.raises(DataError, match="expected 14 numbers"):
        released_state(np.zeros(7))
