"""What every body keeps: it looks down at home, is told what its numbers mean, and is cheap to draw."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.base import Body
from visuomotor.envs.tabletop.control import Controller, Kinematics
from visuomotor.registry import lookup, names
from visuomotor.types import Spec

BODIES = names("embodiment")
STEPS = 25


@pytest.fixture(params=BODIES)
def body(request: pytest.FixtureRequest) -> Body:
    return lookup("embodiment", request.param)


def built(body: Body) -> mujoco.MjModel:
    world = mujoco.MjSpec()
    world.compiler.degree = False
    body.build(world)
    return world.compile()


def single(body: Body) -> bool:
    return len(body.arms) == 1


def test_home_looks_straight_down_over_the_table(body: Body) -> None:
    for arm in body.arms:
        position, quat = Kinematics(arm).forward(np.array(arm.home))
        for pointing in (quat, np.array(arm.down)):
            axis = np.empty(3)
            mujoco.mju_rotVecQuat(axis, np.array([0.0, 0.0, 1.0]), pointing)
            np.testing.assert_allclose(axis, [0.0, 0.0, -1.0], atol=1e-6)
        place = (position - [*body.origin, 0.0]) / body.scale
        side = {"": 0.0, "left": 0.33, "right": -0.33}[arm.name]
        np.testing.assert_allclose(place[:2], [0.4 if single(body) else 0.5, side], atol=1e-5)
        assert 0.16 < place[2] < 0.23
        assert np.all(np.array(arm.home) > arm.low)
        assert np.all(np.array(arm.home) < arm.high)


def test_body_has_few_geoms_and_no_meshes(body: Body) -> None:
    model = built(body)
    assert model.ngeom <= 16 * len(body.arms)
    assert model.nmesh == 0
    assert model.ntex == 0
    names = {name for arm in body.arms for name in (*arm.joints, *arm.fingers)}
    assert names == {model.actuator(number).name for number in range(model.nu)}
    assert len(names) == sum(len(arm.joints) + len(arm.fingers) for arm in body.arms)


def test_limits_of_the_model_are_those_of_the_spec(body: Body) -> None:
    model = built(body)
    spec = body.spec(control="joint", cameras={}, rate=body.rate)
    expected = [name for arm in body.arms for name in (*arm.joints, f"{arm.prefix}gripper")]
    assert [d.name for d in spec.action] == expected
    for name in (name for arm in body.arms for name in arm.joints):
        dimension = next(d for d in spec.action if d.name == name)
        np.testing.assert_allclose(model.joint(name).range, [dimension.low, dimension.high])
        assert dimension.unit == "rad"


def test_spec_of_end_effector_control(body: Body) -> None:
    spec = body.spec(control="ee_delta", cameras=body.views(), rate=body.rate)
    numbers = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    assert [d.name for d in spec.action] == [arm.prefix + name for arm in body.arms for name in numbers]
    assert [d.unit for d in spec.action] == (["m"] * 3 + ["rad"] * 3 + ["1"]) * len(body.arms)
    assert len(spec.state) == sum(len(arm.joints) + 1 + 6 + 6 for arm in body.arms)
    assert spec.action[0].high == pytest.approx(body.arms[0].move_limit / body.rate)
    assert Spec.from_json(spec.to_json()) == spec


def test_fingers_close_to_their_gap(body: Body) -> None:
    model = built(body)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    for arm in body.arms:
        left, right = (data.body(name).xpos for name in arm.fingers)
        assert np.linalg.norm(left - right) == pytest.approx(arm.gap)
        assert arm.grip(np.full(len(arm.fingers), arm.finger_travel)) == 0.0
        assert arm.grip(np.zeros(len(arm.fingers))) == 1.0


PLACES = ((0.34, -0.27, 0.03), (0.66, 0.27, 0.03), (0.34, 0.0, 0.12), (0.66, -0.27, 0.12))


def test_the_whole_workspace_is_reached_looking_down_with_any_yaw(body: Body) -> None:
    """From the lowest grasp to the height of lifting; 2 mm and 2 degrees are forgiven.

    With two arms each reaches its half and a little more.
    """
    for arm in body.arms:
        kinematics = Kinematics(arm)
        for x, y, z in PLACES:
            y = max(y, -0.05) if arm.name == "left" else min(y, 0.05) if arm.name == "right" else y
            target = np.array([*body.origin, 0.0]) + body.scale * np.array([x, y, z])
            target[2] = max(target[2], arm.reach[0][2])
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


def test_a_body_of_several_arms_names_them() -> None:
    (arm,) = lookup("embodiment", "franka").arms
    with pytest.raises(ValueError, match="several with names of their own"):
        Body(name="twins", arms=(arm, arm))
    with pytest.raises(ValueError, match="one arm without a name"):
        Body(name="lefty", arms=(replace(arm, name="left"),))
