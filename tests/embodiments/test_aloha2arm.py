"""The arms of aloha2arm have the kinematics and limits that their maker publishes, and face each other."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.aloha2arm import ALOHA2ARM
from visuomotor.embodiments.base import Arm
from visuomotor.envs.tabletop.control import Controller, Kinematics

# Product of exponentials of the documentation "ViperX-300 6DOF": home pose of ee_gripper_link and the
# screw axis (turning, moving) of each joint, both in the frame of the base of the arm.
HOME = np.array([0.536494, 0.0, 0.42705])
SCREWS = np.array(
    [
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, -0.12705, 0.0, 0.0],
        [0.0, 1.0, 0.0, -0.42705, 0.0, 0.05955],
        [1.0, 0.0, 0.0, 0.0, 0.42705, 0.0],
        [0.0, 1.0, 0.0, -0.42705, 0.0, 0.35955],
        [1.0, 0.0, 0.0, 0.0, 0.42705, 0.0],
    ]
)
# ee_gripper_link looks along x; our hand along z, with y against its y.
LINK_TO_HAND = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
APART = 0.469  # meters from the middle to each base
STEPS = 25


def exponential(screw: np.ndarray, angle: float) -> np.ndarray:
    """Pose (4, 4) after a turn about a screw axis."""
    x, y, z = screw[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    way = np.eye(3) * angle + (1 - np.cos(angle)) * cross + (angle - np.sin(angle)) * cross @ cross
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, way @ screw[3:]
    return pose


def published(joints: np.ndarray, side: float) -> np.ndarray:
    """Pose (4, 4) of ee_gripper_link in the frame of the body; the left arm (side 1) looks along -y."""
    pose = np.eye(4)
    pose[:3, :3] = [[0.0, side, 0.0], [-side, 0.0, 0.0], [0.0, 0.0, 1.0]]
    pose[1, 3] = side * APART
    for screw, angle in zip(SCREWS, joints, strict=True):
        pose = pose @ exponential(screw, angle)
    home = np.eye(4)
    home[:3, 3] = HOME
    return pose @ home


@pytest.fixture(params=[0, 1], ids=["left", "right"])
def arm(request: pytest.FixtureRequest) -> Arm:
    return ALOHA2ARM.arms[request.param]


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    world = mujoco.MjSpec()
    world.compiler.degree = False
    ALOHA2ARM.build(world)
    return world.compile()


def test_hand_pose_equals_the_published_kinematics(arm: Arm) -> None:
    kinematics, generator = Kinematics(arm), np.random.default_rng(0)
    for _ in range(50):
        joints = generator.uniform(arm.low, arm.high)
        position, quat = kinematics.forward(joints)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, quat)
        expected = published(joints, {"left": 1.0, "right": -1.0}[arm.name])
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(rotation.reshape(3, 3), expected[:3, :3] @ LINK_TO_HAND, atol=1e-9)


def test_limits_are_the_published_ones(model: mujoco.MjModel, arm: Arm) -> None:
    published_deg = [(-180, 180), (-101, 101), (-101, 92), (-180, 180), (-107, 130), (-180, 180)]
    # The maker's file ends full turns 0.00001 rad before half a turn.
    np.testing.assert_allclose(
        [model.joint(name).range for name in arm.joints], np.radians(published_deg), atol=1.1e-5
    )
    assert arm.speed == (np.pi,) * 6
    np.testing.assert_allclose(
        [model.actuator(name).forcerange[1] for name in arm.joints], [10, 20, 15, 2, 5, 1]
    )


def test_gripper_opens_as_published(model: mujoco.MjModel, arm: Arm) -> None:
    """Carriages go from 42 to 114 mm apart; the faces of the fingers stand 13.5 mm further in."""
    data = mujoco.MjData(model)
    for travel, carriages in ((0.0, 0.042), (0.036, 0.114)):
        for name in arm.fingers:
            data.joint(name).qpos[0] = travel
        mujoco.mj_kinematics(model, data)
        one, other = (data.body(name).xpos for name in arm.fingers)
        assert np.linalg.norm(one - other) == pytest.approx(carriages - 2 * 0.0135)


def test_arms_meet_each_other_but_not_themselves(model: mujoco.MjModel) -> None:
    """Stretched out at each other they touch; one arm never touches its own links."""
    data = mujoco.MjData(model)
    touched = set()
    for bend in np.linspace(-1.0, 1.0, 21):
        for name in ("left", "right"):
            data.joint(f"{name}_shoulder").qpos[0] = 0.3
            data.joint(f"{name}_elbow").qpos[0] = 0.3 * bend
        mujoco.mj_forward(model, data)
        for pair in data.contact.geom:
            touched.add(tuple(model.body(model.geom_bodyid[geom]).name.split("_")[0] for geom in pair))
    assert touched
    assert touched <= {("left", "right"), ("right", "left")}


def test_a_hand_stays_on_its_side_of_the_table(arm: Arm) -> None:
    """However long it is told to go to the other side, it ends 5 cm beyond the middle."""
    commands, kinematics = Controller(arm, "ee_delta", 10.0), Kinematics(arm)
    side = {"left": 1.0, "right": -1.0}[arm.name]
    for _ in range(40):
        position, quat = kinematics.forward(commands.joints)
        commands.command(np.array([0.0, -side, 0.0, 0.0, 0.0, 0.0, 0.0]), position, quat, STEPS)
    assert side * commands.position[1] == pytest.approx(-0.05)
    assert np.hypot(*(commands.position[:2] - arm.at)) <= arm.span + 1e-9


def test_numbers_are_named_after_their_hands() -> None:
    spec = ALOHA2ARM.spec(control="joint", cameras=ALOHA2ARM.views(), rate=50.0)
    assert len(spec.action) == 14
    assert [d.name for d in spec.action][:2] == ["left_waist", "left_shoulder"]
    assert [d.name for d in spec.action if d.kind == "gripper"] == ["left_gripper", "right_gripper"]
    assert [d.name for d in spec.state][19:21] == ["right_waist", "right_shoulder"]
    assert [camera.name for camera in spec.cameras] == ["front", "left_wrist", "right_wrist"]
