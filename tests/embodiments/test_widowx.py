"""The WidowX 250 has the kinematics and limits that its maker publishes."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.widowx import WIDOWX
from visuomotor.envs.tabletop.control import Kinematics

(ARM,) = WIDOWX.arms

# Product of exponentials of the documentation "WidowX-250 6DOF": home pose of ee_gripper_link and the
# screw axis (turning, moving) of each joint, both in the frame of the base.
HOME = np.array([0.458325, 0.0, 0.36065])
SCREWS = np.array(
    [
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, -0.11065, 0.0, 0.0],
        [0.0, 1.0, 0.0, -0.36065, 0.0, 0.04975],
        [1.0, 0.0, 0.0, 0.0, 0.36065, 0.0],
        [0.0, 1.0, 0.0, -0.36065, 0.0, 0.29975],
        [1.0, 0.0, 0.0, 0.0, 0.36065, 0.0],
    ]
)
# ee_gripper_link looks along x; our hand along z, with y against its y.
LINK_TO_HAND = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])


def exponential(screw: np.ndarray, angle: float) -> np.ndarray:
    """Pose (4, 4) after a turn about a screw axis."""
    x, y, z = screw[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    way = np.eye(3) * angle + (1 - np.cos(angle)) * cross + (angle - np.sin(angle)) * cross @ cross
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, way @ screw[3:]
    return pose


def published(joints: np.ndarray) -> np.ndarray:
    """Pose (4, 4) of ee_gripper_link."""
    pose = np.eye(4)
    for screw, angle in zip(SCREWS, joints, strict=True):
        pose = pose @ exponential(screw, angle)
    home = np.eye(4)
    home[:3, 3] = HOME
    return pose @ home


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    world = mujoco.MjSpec()
    world.compiler.degree = False
    ARM.build(world)
    return world.compile()


def test_hand_pose_equals_the_published_kinematics() -> None:
    kinematics = Kinematics(ARM)
    generator = np.random.default_rng(0)
    for _ in range(50):
        joints = generator.uniform(ARM.low, ARM.high)
        position, quat = kinematics.forward(joints)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, quat)
        expected = published(joints)
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(rotation.reshape(3, 3), expected[:3, :3] @ LINK_TO_HAND, atol=1e-9)


def test_limits_are_the_published_ones(model: mujoco.MjModel) -> None:
    published_deg = [(-180, 180), (-108, 114), (-123, 92), (-180, 180), (-100, 123), (-180, 180)]
    # The maker's file ends full turns 0.00001 rad before half a turn.
    np.testing.assert_allclose(
        [model.joint(name).range for name in ARM.joints], np.radians(published_deg), atol=1.1e-5
    )
    assert ARM.speed == (np.pi,) * 6
    np.testing.assert_allclose(
        [model.actuator(name).forcerange[1] for name in ARM.joints], [10, 20, 15, 2, 5, 1]
    )


def test_gripper_opens_as_published(model: mujoco.MjModel) -> None:
    """Carriages go from 30 to 74 mm apart; the faces of the fingers stand 9 mm further in."""
    data = mujoco.MjData(model)
    for travel, carriages in ((0.0, 0.030), (0.022, 0.074)):
        for name in ARM.fingers:
            data.joint(name).qpos[0] = travel
        mujoco.mj_kinematics(model, data)
        left, right = (data.body(name).xpos for name in ARM.fingers)
        assert np.linalg.norm(left - right) == pytest.approx(carriages - 2 * 0.009)
    np.testing.assert_allclose([model.joint(name).range for name in ARM.fingers], [(0, 0.022)] * 2)
