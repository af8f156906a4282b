"""The hand is found in a state by kind and unit, and its pose is a rotation matrix and a place."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.transforms.hand import LocateHand, find_hand, hand_pose
from visuomotor.types import Dimension, Sample, Spec


def spec(*state: Dimension) -> Spec:
    return Spec(embodiment="arm", cameras=(), state=state, action=(Dimension(name="a"),), rate=10)


def pose(name: str, unit: str) -> list[Dimension]:
    return [Dimension(name=f"{name}_{axis}", unit=unit, kind="ee") for axis in "xyz"]


def test_the_measured_pose_comes_before_the_commanded_one() -> None:
    state = [Dimension(name="joint"), *pose("at", "m"), *pose("turn", "rad"), *pose("to", "m")]
    assert find_hand(spec(*state)) == ([1, 2, 3], [4, 5, 6])


def test_a_position_alone_is_a_hand_that_does_not_turn() -> None:
    assert find_hand(spec(*pose("at", "m"))) == ([0, 1, 2], [])
    np.testing.assert_array_equal(
        hand_pose(np.array([1.0, 2.0, 3.0]), np.zeros(0)), [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]]
    )


def test_a_body_without_position_has_no_hand() -> None:
    assert find_hand(spec(Dimension(name="joint"), *pose("turn", "rad"))) is None
    assert find_hand(spec(Dimension(name="x", unit="m", kind="ee"))) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_rotation_is_that_of_an_independent_library(seed: int) -> None:
    turn = np.random.default_rng(seed).normal(size=3)
    angle = float(np.linalg.norm(turn))
    quat, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quat, turn / angle, angle)
    mujoco.mju_quat2Mat(matrix, quat)
    np.testing.assert_allclose(hand_pose(np.zeros(3), turn)[:, :3], matrix.reshape(3, 3), atol=1e-6)
    np.testing.assert_array_equal(hand_pose(np.zeros(3), np.zeros(3))[:, :3], np.eye(3))


def test_the_transform_adds_the_pose_of_the_current_tick_and_leaves_the_rest() -> None:
    env = TabletopEnv(cameras={"front": 8})
    observation = env.reset(seed=0)
    sample = Sample.from_observation(observation)
    found = LocateHand(env.spec).apply(sample)
    assert sample.hand is None
    assert found.hand is not None
    np.testing.assert_allclose(found.hand[:, 3], env.scene.hand_pose()[0], atol=1e-6)
    assert found.state is sample.state
    blind = LocateHand(spec(Dimension(name="joint")))
    assert blind.apply(sample) is sample
