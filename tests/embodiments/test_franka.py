"""The Panda has its published kinematics and limits, and its spec says what its numbers mean."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.franka import FRANKA
from visuomotor.registry import lookup
from visuomotor.types import Spec

(ARM,) = FRANKA.arms

# Modified Denavit-Hartenberg parameters (Craig) of the Franka documentation: a, d, alpha of each joint.
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
FLANGE, HAND_TO_TIP = 0.107, 0.1034


def craig(a: float, d: float, alpha: float, theta: float) -> np.ndarray:
    ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    return np.array(
        [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -sa * d], [st * sa, ct * sa, ca, ca * d], [0, 0, 0, 1]]
    )


def published(joints: np.ndarray) -> np.ndarray:
    """Pose (4, 4) of the point between the fingers by the published parameters."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(DH, joints, strict=True):
        pose = pose @ craig(a, d, alpha, theta)
    turned = craig(0.0, FLANGE, 0.0, -np.pi / 4)  # the hand sits on the flange turned by -45 degrees
    return pose @ turned @ craig(0.0, HAND_TO_TIP, 0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    world = mujoco.MjSpec()
    world.compiler.degree = False
    ARM.build(world)
    return world.compile()


def test_hand_pose_equals_the_published_kinematics(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    generator = np.random.default_rng(0)
    for _ in range(50):
        joints = generator.uniform(ARM.low, ARM.high)
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        expected = published(joints)
        np.testing.assert_allclose(data.site("hand").xpos, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(data.site("hand").xmat.reshape(3, 3), expected[:3, :3], atol=1e-9)


def test_limits_are_the_published_ones(model: mujoco.MjModel) -> None:
    limits = [model.joint(name).range for name in ARM.joints]
    published_limits = [
        (-2.8973, 2.8973),
        (-1.7628, 1.7628),
        (-2.8973, 2.8973),
        (-3.0718, -0.0698),
        (-2.8973, 2.8973),
        (-0.0175, 3.7525),
        (-2.8973, 2.8973),
    ]
    np.testing.assert_allclose(limits, published_limits)
    np.testing.assert_allclose(ARM.speed, [2.175] * 4 + [2.61] * 3)
    np.testing.assert_allclose([model.joint(name).range for name in ARM.fingers], [(0, 0.04)] * 2)


def test_home_looks_straight_down(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    data.qpos[:7] = ARM.home
    mujoco.mj_kinematics(model, data)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, data.site("hand").xmat)
    assert abs(quat @ np.array(ARM.down)) == pytest.approx(1.0, abs=1e-9)
    assert np.all(ARM.home > np.array(ARM.low))
    assert np.all(ARM.home < np.array(ARM.high))


def test_body_has_few_geoms_and_no_meshes(model: mujoco.MjModel) -> None:
    assert model.ngeom <= 16
    assert model.nmesh == 0
    assert model.ntex == 0


def test_gripper_numbers_go_from_open_to_closed() -> None:
    assert ARM.grip(np.array([0.04, 0.04])) == 0.0
    assert ARM.grip(np.array([0.0, 0.0])) == 1.0
    assert ARM.finger_target(0.25) == pytest.approx(0.03)


def test_spec_of_end_effector_control() -> None:
    spec = FRANKA.spec(control="ee_delta", cameras={"front": 96, "wrist": (48, 64)}, rate=10.0)
    assert [d.name for d in spec.action] == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    assert [d.kind for d in spec.action] == ["ee_delta"] * 6 + ["gripper"]
    assert len(spec.state) == 7 + 1 + 6 + 6
    assert (spec.camera("wrist").height, spec.camera("wrist").width) == (48, 64)
    assert spec.action[0].high == pytest.approx(ARM.move_limit / 10)
    assert Spec.from_json(spec.to_json()) == spec
    np.testing.assert_array_equal(spec.hold(np.full(7, 0.5)), [0, 0, 0, 0, 0, 0, 0.5])


def test_spec_of_joint_control() -> None:
    spec = FRANKA.spec(control="joint", cameras={}, rate=10.0)
    assert [d.kind for d in spec.action] == ["joint"] * 7 + ["gripper"]
    assert spec.action[3].low == pytest.approx(-3.0718)
    assert len(spec.hold(np.zeros(8))) == 8


def test_unknown_control_answers_with_the_closest() -> None:
    with pytest.raises(ValueError, match="ee_delta"):
        FRANKA.spec(control="ee-delta", cameras={}, rate=10.0)  # type: ignore[arg-type]


def test_registry_finds_the_body() -> None:
    assert lookup("embodiment", "franka") is FRANKA
