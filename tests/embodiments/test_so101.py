"""The SO-101 has the published kinematics and limits, and gives up what five joints cannot do."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.so101 import SO101
from visuomotor.envs.tabletop.control import Controller, Kinematics

(ARM,) = SO101.arms

# so101_new_calib.urdf of TheRobotStudio/SO-ARM100: origin (xyz, roll pitch yaw) of each joint, which turns
# about its own z axis, and of gripperframe on the last link. The file rounds quarter turns to 1.5708.
QUARTER = np.pi / 2
JOINTS = (
    ((0.0388353, 0.0, 0.0624), (np.pi, 0.0, -np.pi)),
    ((-0.0303992, -0.0182778, -0.0542), (-QUARTER, -QUARTER, 0.0)),
    ((-0.11257, -0.028, 0.0), (0.0, 0.0, QUARTER)),
    ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -QUARTER)),
    ((0.0, -0.0611, 0.0181), (QUARTER, 0.0486795, np.pi)),
)
GRIPPER_FRAME = (-0.0079, -0.000218121, -0.0981274)
STEPS = 25


def transform(xyz: tuple[float, float, float], rpy: tuple[float, float, float]) -> np.ndarray:
    """Pose (4, 4) of a URDF origin: roll about x, then pitch about y, then yaw about z, all fixed axes."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    pose = np.eye(4)
    pose[:3, :3] = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    pose[:3, 3] = xyz
    return pose


def published(joints: np.ndarray) -> np.ndarray:
    """Pose (4, 4) of the gripper link, moved to gripperframe."""
    pose = np.eye(4)
    for (xyz, rpy), angle in zip(JOINTS, joints, strict=True):
        pose = pose @ transform(xyz, rpy) @ transform((0.0, 0.0, 0.0), (0.0, 0.0, angle))
    return pose @ transform(GRIPPER_FRAME, (0.0, 0.0, 0.0))


def follow(commands: Controller, kinematics: Kinematics, turn: list[float]) -> np.ndarray:
    """One tick of a perfect arm that is told to turn; returns the joints."""
    commands.command(np.array([0.0, 0.0, 0.0, *turn, 0.0]), *kinematics.forward(commands.joints), STEPS)
    return commands.joints


def test_hand_pose_equals_the_published_kinematics() -> None:
    kinematics = Kinematics(ARM)
    generator = np.random.default_rng(0)
    for _ in range(50):
        joints = generator.uniform(ARM.low, ARM.high)
        position, quat = kinematics.forward(joints)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, quat)
        expected = published(joints)
        # The published lateral offsets agree to 1e-8 m.
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-7)
        # The gripper link looks along -z and its jaws open along x; our hand looks along z, closes along y.
        across, along, out = rotation.reshape(3, 3).T[[1, 0, 2]]
        np.testing.assert_allclose(np.stack([across, along, -out], axis=1), expected[:3, :3], atol=1e-7)


def test_limits_are_the_published_ones() -> None:
    published_limits = [
        (-1.91986, 1.91986),
        (-1.74533, 1.74533),
        (-1.69, 1.69),
        (-1.65806, 1.65806),
        (-2.74385, 2.84121),
    ]
    np.testing.assert_allclose(np.transpose([ARM.low, ARM.high]), published_limits)
    np.testing.assert_allclose(ARM.speed, 45 * 2 * np.pi / 60, atol=0.003)  # 45 revolutions a minute


def test_a_lean_to_the_side_is_given_up_and_leaves_the_position_alone() -> None:
    kinematics = Kinematics(ARM)
    commands = Controller(ARM, "ee_delta", 10.0)
    start = commands.position.copy()
    for _ in range(30):
        follow(commands, kinematics, [0.15, 0.0, 0.0])
        position, quat = kinematics.forward(commands.joints)
        assert np.linalg.norm(position - start) < 0.004
        # What is commanded stays what can be had, so that nothing piles up.
        assert 2 * np.arccos(min(1.0, abs(float(quat @ commands.quat)))) < 0.15
    for _ in range(30):
        follow(commands, kinematics, list(np.clip(commands.way_to_yaw(0.0), -0.25, 0.25)))
    assert np.abs(commands.way_to_yaw(0.0)).max() < 0.02


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_a_yaw_beyond_the_wrist_comes_to_rest(direction: float) -> None:
    kinematics = Kinematics(ARM)
    commands = Controller(replace(ARM, turn=3.1), "ee_delta", 10.0)
    start = commands.position.copy()
    for _ in range(60):
        follow(commands, kinematics, [0.0, 0.0, 0.2 * direction])
    before = commands.joints.copy()
    for _ in range(10):
        joints = follow(commands, kinematics, [0.0, 0.0, 0.2 * direction])
        np.testing.assert_allclose(joints, before, atol=5e-3)
    np.testing.assert_allclose(kinematics.forward(joints)[0], start, atol=2e-3)
    assert min(abs(joints[-1] - ARM.low[-1]), abs(joints[-1] - ARM.high[-1])) < 0.1
