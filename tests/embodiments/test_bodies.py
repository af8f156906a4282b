"""What every body keeps: it looks down at home, is told what its numbers mean, and is cheap to draw."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.base import Arm
from visuomotor.envs.tabletop.control import Controller, Kinematics
from visuomotor.registry import lookup, names
from visuomotor.types import Spec

BODIES = names("embodiment")
STEPS = 25


@pytest.fixture(params=BODIES)
def arm(request: pytest.FixtureRequest) -> Arm:
    return lookup("embodiment", request.param)


def built(arm: Arm) -> mujoco.MjModel:
    world = mujoco.MjSpec()
    world.compiler.degree = False
    arm.build(world)
    return world.compile()


def test_home_looks_straight_down_at_the_same_place_of_a_layout(arm: Arm) -> None:
    position, quat = Kinematics(arm).forward(np.array(arm.home))
    for pointing in (quat, np.array(arm.down)):
        axis = np.empty(3)
        mujoco.mju_rotVecQuat(axis, np.array([0.0, 0.0, 1.0]), pointing)
        np.testing.assert_allclose(axis, [0.0, 0.0, -1.0], atol=1e-6)
    place = (position - [*arm.origin, 0.0]) / arm.scale
    np.testing.assert_allclose(place[:2], [0.4, 0.0], atol=1e-5)
    assert 0.16 < place[2] < 0.23
    assert np.all(np.array(arm.home) > arm.low)
    assert np.all(np.array(arm.home) < arm.high)


def test_body_has_few_geoms_and_no_meshes(arm: Arm) -> None:
    model = built(arm)
    assert model.ngeom <= 16
    assert model.nmesh == 0
    assert model.ntex == 0
    assert {model.actuator(name).name for name in (*arm.joints, *arm.fingers)} == {
        model.actuator(number).name for number in range(model.nu)
    }


def test_limits_of_the_model_are_those_of_the_spec(arm: Arm) -> None:
    model = built(arm)
    spec = arm.spec(control="joint", cameras={}, rate=arm.rate)
    assert [d.name for d in spec.action] == [*arm.joints, "gripper"]
    for name in arm.joints:
        dimension = next(d for d in spec.action if d.name == name)
        np.testing.assert_allclose(model.joint(name).range, [dimension.low, dimension.high])
        assert dimension.unit == "rad"


def test_spec_of_end_effector_control(arm: Arm) -> None:
    spec = arm.spec(control="ee_delta", cameras={"front": 96, arm.wrist: 64}, rate=arm.rate)
    assert [d.name for d in spec.action] == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    assert [d.unit for d in spec.action] == ["m"] * 3 + ["rad"] * 3 + ["1"]
    assert len(spec.state) == len(arm.joints) + 1 + 6 + 6
    assert spec.action[0].high == pytest.approx(arm.move_limit / arm.rate)
    assert Spec.from_json(spec.to_json()) == spec


def test_fingers_close_to_their_gap(arm: Arm) -> None:
    model = built(arm)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    left, right = (data.body(name).xpos for name in arm.fingers)
    assert np.linalg.norm(left - right) == pytest.approx(arm.gap)
    assert arm.grip(np.full(len(arm.fingers), arm.finger_travel)) == 0.0
    assert arm.grip(np.zeros(len(arm.fingers))) == 1.0


def test_the_whole_workspace_is_reached_looking_down_with_any_yaw(arm: Arm) -> None:
    """From the lowest grasp to the height of lifting; 2 mm and 2 degrees are forgiven."""
    kinematics = Kinematics(arm)
    for x, y, z in ((0.34, -0.27, 0.03), (0.66, 0.27, 0.03), (0.34, 0.0, 0.12), (0.66, -0.27, 0.12)):
        target = np.array([*arm.origin, 0.0]) + arm.scale * np.array([x, y, z])
        for yaw in (-1.5, 0.0, 1.5):
            commands = Controller(arm, "ee_delta", 10.0)
            for _ in range(60):
                position, quat = kinematics.forward(commands.joints)
                turn = np.clip(commands.way_to_yaw(yaw), -0.2, 0.2)
                move = np.clip(target - commands.position, -0.03, 0.03)
                commands.command(np.concatenate([move, turn, [0.0]]), position, quat, STEPS)
            position, quat = kinematics.forward(commands.joints)
            assert np.linalg.norm(position - target) < 0.002, f"{x, y, z}, yaw {yaw}: {position - target}"
            assert np.abs(commands.way_to_yaw(yaw)).max() < 0.035
