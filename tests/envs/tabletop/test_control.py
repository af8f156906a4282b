"""The controller stays near the hand, within every limit, and where it is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop.control import LEAD, TURN_LEAD, Controller, Kinematics, rotation_vector

STEPS = 25
ARM = FRANKA.arms[0]
DOWN = np.array(ARM.down)


def controller(control: str = "ee_delta") -> Controller:
    return Controller(ARM, control, 10.0)  # type: ignore[arg-type]


def delta(*move: float, turn: tuple[float, float, float] = (0, 0, 0), grip: float = 0.0) -> np.ndarray:
    return np.array([*move, *turn, grip])


def follow(commands: Controller, action: np.ndarray) -> np.ndarray:
    """One tick of a perfect arm, which is where it was commanded to be."""
    position, quat = Kinematics(ARM).forward(commands.joints)
    return commands.command(action, position, quat, STEPS)


def test_a_delta_is_added_to_the_commanded_pose() -> None:
    commands = controller()
    before = commands.pose()
    follow(commands, delta(0.02, -0.01, -0.03, turn=(0, 0, 0.1)))
    np.testing.assert_allclose(commands.pose() - before, [0.02, -0.01, -0.03, 0, 0, 0.1], atol=1e-6)


def test_joints_reach_the_commanded_pose() -> None:
    commands = controller()
    for _ in range(4):
        follow(commands, delta(0.02, 0.03, -0.03, turn=(0, 0, 0.1)))
    position, quat = Kinematics(ARM).forward(commands.joints)
    np.testing.assert_allclose(position, commands.position, atol=1e-3)
    np.testing.assert_allclose(np.abs(quat @ commands.quat), 1.0, atol=1e-6)


def test_command_runs_at_most_five_centimeters_ahead_of_a_blocked_hand() -> None:
    commands = controller()
    position, quat = commands.position.copy(), commands.quat.copy()
    for _ in range(20):
        commands.command(delta(0.05, 0.05, 0.0, turn=(0.2, 0.0, 0.2)), position, quat, STEPS)
    assert np.linalg.norm(commands.position - position) <= LEAD + 1e-9
    angle = 2 * np.arccos(min(1.0, abs(float(commands.quat @ quat))))
    assert angle <= TURN_LEAD + 1e-6


def test_hand_cannot_be_commanded_into_the_table_or_out_of_reach() -> None:
    for direction in ([0, 0, -1], [0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [1, 1, 0]):
        commands = controller()
        for _ in range(60):
            follow(commands, delta(*(0.05 * np.array(direction))))
        low, high = np.array(ARM.reach)
        assert np.all(commands.position >= low - 1e-9)
        assert np.all(commands.position <= high + 1e-9)
        assert np.hypot(*commands.position[:2]) <= ARM.span + 1e-9


moves = st.lists(st.lists(st.floats(-1, 1), min_size=6, max_size=6), min_size=5, max_size=25)


@given(moves)
def test_joints_stay_within_position_and_velocity_limits(actions: list[list[float]]) -> None:
    commands = controller()
    for action in actions:
        before = commands.joints.copy()
        targets = follow(commands, np.append(action, 0.5))
        assert targets.shape == (STEPS, 7)
        assert np.all(commands.joints >= ARM.low)
        assert np.all(commands.joints <= ARM.high)
        assert np.all(np.abs(commands.joints - before) <= np.array(ARM.speed) / 10 + 1e-9)


def test_a_command_beyond_the_limits_is_clipped() -> None:
    wild, clipped = controller(), controller()
    follow(wild, delta(5.0, -5.0, 0.0, turn=(0, 0, 9.0), grip=7.0))
    limit, turn = ARM.move_limit / 10, ARM.turn_limit / 10
    follow(clipped, delta(limit, -limit, 0.0, turn=(0, 0, turn), grip=1.0))
    np.testing.assert_array_equal(wild.pose(), clipped.pose())
    assert wild.grip == 1.0


def test_hand_comes_back_from_the_end_of_the_joints() -> None:
    """Driven into a corner with the hand turned, it still finds the way to look down again."""
    commands = controller()
    for _ in range(25):
        follow(commands, delta(0.03, 0.05, 0.04, turn=(0.2, -0.2, -0.2)))
    for _ in range(60):
        target = np.array([0.45, 0.0, 0.2])
        way = np.clip(target - commands.position, -0.04, 0.04)
        follow(commands, delta(*way, turn=tuple(np.clip(commands.way_to_yaw(0.0), -0.25, 0.25))))
    position, quat = Kinematics(ARM).forward(commands.joints)
    np.testing.assert_allclose(position, [0.45, 0.0, 0.2], atol=2e-3)
    assert abs(float(quat @ DOWN)) == pytest.approx(1.0, abs=1e-4)


def test_targets_end_where_commanded_and_do_not_jump() -> None:
    """The servos' targets lead by their damping; without that lead, the way between ticks is smooth."""
    commands = controller()
    lead = np.array(ARM.damping) / np.array(ARM.stiffness)
    way = [commands.joints.copy()]
    velocity = [commands.velocity.copy()]
    for action in (
        delta(0.05, 0, 0),
        delta(0.05, 0, 0),
        delta(-0.03, 0.02, 0),
        delta(0, 0, 0),
        delta(0, 0, 0),
    ):
        targets = follow(commands, action)
        way.append(commands.joints.copy())
        velocity.append(commands.velocity.copy())
        last = commands.joints + (lead - 0.1 * 0.5 / STEPS) * commands.velocity
        np.testing.assert_allclose(targets[-1], last, atol=1e-9)
    assert np.abs(velocity[-1]).max() < np.abs(velocity[-2]).max()


def test_joint_control_goes_to_the_target_at_the_speed_of_the_joints() -> None:
    commands = controller("joint")
    target = np.add(ARM.home, [0.5, 0.1, 0, 0, 0, 0, 0])
    first = follow_joint(commands, target)
    assert first[0] == pytest.approx(0.2175)
    for _ in range(5):
        follow_joint(commands, target)
    np.testing.assert_allclose(commands.joints, target, atol=1e-9)
    np.testing.assert_allclose(commands.position, Kinematics(ARM).forward(target)[0])


def follow_joint(commands: Controller, target: np.ndarray) -> np.ndarray:
    """Way of the joints in one tick."""
    before = commands.joints.copy()
    commands.command(np.append(target, 0.0), commands.position, commands.quat, STEPS)
    return commands.joints - before


def test_preview_changes_nothing_and_tells_what_command_does() -> None:
    commands = controller()
    action = delta(0.03, 0.02, -0.04, turn=(0, 0, 0.2), grip=1.0)
    before = commands.snapshot()
    foretold = commands.preview(action, commands.position, commands.quat)
    assert commands.snapshot() == before
    commands.command(action, commands.position, commands.quat, STEPS)
    np.testing.assert_array_equal(foretold, commands.joints)


def test_snapshot_brings_everything_back() -> None:
    commands, other = controller(), controller()
    for _ in range(3):
        follow(commands, delta(0.03, 0.02, -0.04, turn=(0, 0, 0.2), grip=1.0))
    other.restore(commands.snapshot())
    assert other.snapshot() == commands.snapshot()
    action = delta(0.01, 0.01, 0.01)
    np.testing.assert_array_equal(follow(commands, action), follow(other, action))


def test_rotation_vector_is_axis_times_angle() -> None:
    quat = np.array([np.cos(0.3), 0.0, np.sin(0.3), 0.0])
    np.testing.assert_allclose(rotation_vector(quat), [0.0, 0.6, 0.0], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(-quat), [0.0, 0.6, 0.0], atol=1e-12)
