"""No command breaks a limit, whatever an executor says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.errors import DataError
from visuomotor.executors import Box, Latency, SafetyFilter, SafetyLimits, make_executor
from visuomotor.registry import names
from visuomotor.session import Session
from visuomotor.types import Chunk, Dimension, Observation, Spec, Window

RATE = 10.0
JOINTS = Spec(
    embodiment="arm",
    cameras=(),
    state=(Dimension(name="a", kind="joint"), Dimension(name="b", kind="joint"), Dimension(name="grip")),
    action=(
        Dimension(name="a", unit="rad", kind="joint", low=-1.0, high=2.1),
        Dimension(name="b", unit="rad", kind="joint"),
        Dimension(name="grip", kind="gripper", low=0.0, high=1.0),
    ),
    rate=RATE,
)
HAND = Spec(
    embodiment="hand",
    cameras=(),
    state=tuple(
        Dimension(name=f"measured_{axis}", unit="m", kind="ee", low=-0.7, high=0.7) for axis in "xyz"
    ),
    action=tuple(Dimension(name=axis, unit="m", kind="ee_delta", low=-0.08, high=0.06) for axis in "xyz"),
    rate=RATE,
)
PLACES = replace(HAND, action=tuple(replace(d, name=d.name[-1]) for d in HAND.state))
BOX = Box((-0.1, -0.2, -0.3), (0.2, 0.1, 0.25))
EXACT = 1e-6
"""Commands are float32; speeds and their changes are checked to its precision at numbers around 1."""

numbers = st.one_of(st.floats(-3, 3), st.floats(allow_nan=True, allow_infinity=True, width=32))
says = st.lists(st.one_of(st.none(), st.tuples(numbers, numbers, numbers)), min_size=1, max_size=40)
limit = st.one_of(st.none(), st.floats(0.02, 30))


def standing(spec: Spec, state: tuple[float, ...]) -> Observation:
    return Observation(
        images={}, state=np.array([state], np.float32), instruction="", embodiment=spec.embodiment
    )


def play(
    spec: Spec, limits: SafetyLimits, state: tuple[float, ...], asked: list[tuple[float, ...] | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (tick, action), the start first, and steps, rested before the start."""
    safety = SafetyFilter(spec, limits)
    safety.begin(standing(spec, state))
    start = safety._position
    commands = [safety.command(None if action is None else np.array(action, np.float32)) for action in asked]
    assert all(command.dtype == np.float32 and np.isfinite(command).all() for command in commands)
    rows = np.array(commands, np.float64)
    delta = spec.action[0].kind.endswith("_delta")
    positions = start + np.cumsum(rows, axis=0) if delta else rows
    positions = np.concatenate([start[None], positions])
    return positions, np.diff(positions, axis=0, prepend=positions[:1])


def check(positions: np.ndarray, steps: np.ndarray, spec: Spec, limits: SafetyLimits, low, high) -> None:
    assert (positions[1:] >= np.asarray(low)).all()
    assert (positions[1:] <= np.asarray(high)).all()
    for speed in limits.speed.values():
        assert np.abs(steps).max() <= speed / RATE + EXACT
    for acceleration in limits.acceleration.values():
        assert np.abs(np.diff(steps, axis=0)).max() <= acceleration / RATE**2 + EXACT


def everything(speed: float | None, acceleration: float | None, **rest: object) -> SafetyLimits:
    return SafetyLimits(
        speed={} if speed is None else {"*": speed},
        acceleration={} if acceleration is None else {"*": acceleration},
        **rest,  # type: ignore[arg-type]
    )


@settings(max_examples=150, deadline=None)
@given(limit, limit, st.floats(-1.5, 2.5), says)
def test_absolute_commands_keep_every_limit(speed, acceleration, start, asked) -> None:
    limits = everything(speed, acceleration, position={"b": (-0.5, 0.4)})
    positions, steps = play(JOINTS, limits, (start, 0.0, 0.5), asked)
    check(positions, steps, JOINTS, limits, [-1.0, -0.5, 0.0], [2.1, 0.4, 1.0])


@settings(max_examples=150, deadline=None)
@given(limit, limit, st.tuples(*[st.floats(-0.6875, 0.6875, width=32)] * 3), says)
def test_deltas_keep_every_limit(speed, acceleration, start, asked) -> None:
    limits = everything(speed, acceleration)
    positions, steps = play(HAND, limits, start, asked)
    check(positions, steps, HAND, limits, -0.7, 0.7)
    assert steps.min() >= -0.08 - 1e-8
    assert steps.max() <= 0.06 + 1e-8


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([HAND, PLACES]),
    limit,
    limit,
    st.tuples(*[st.floats(-0.6875, 0.6875, width=32)] * 3),
    says,
)
def test_hands_keep_out_of_boxes_on_the_way_too(spec, speed, acceleration, start, asked) -> None:
    limits = everything(speed, acceleration, keep_out=(BOX, Box((0.3, 0.3, -1), (0.4, 0.5, 1))))
    for box in limits.keep_out:
        if np.all((np.array(start) > box.low) & (np.array(start) < box.high)):
            start = (-0.5, *start[1:])
    positions, steps = play(spec, limits, start, asked)
    check(positions, steps, spec, limits, -0.7, 0.7)
    shares = np.linspace(0, 1, 21)[:, None, None]
    way = positions[:-1] + shares * np.diff(positions, axis=0)
    for box in limits.keep_out:
        inside = (way > np.array(box.low) + 1e-9) & (way < np.array(box.high) - 1e-9)
        assert not inside.all(axis=-1).any()


def test_what_keeps_the_limits_goes_through_bit_by_bit() -> None:
    limits = everything(1.0, 8.0)
    safety = SafetyFilter(JOINTS, limits)
    safety.begin(standing(JOINTS, (0.0, 0.0, 0.5)))
    for tick in range(1, 40):
        wave = 0.3 * (1 - np.cos(0.2 * tick))  # at most 0.6 rad/s and 1.2 rad/s^2
        action = np.array([wave, -wave, 0.5], np.float32)
        assert np.array_equal(safety.command(action), action)
    assert safety.changed == safety.stops == 0


def test_a_far_target_is_reached_without_swinging_around_it() -> None:
    positions, steps = play(JOINTS, everything(2.0, 3.0), (0.0, 0.0, 0.5), [(1.0, -2.0, 0.5)] * 40)
    assert positions[-1] == pytest.approx([1.0, -2.0, 0.5], abs=1e-4)
    assert positions[:, 0].max() <= 1.0 + 1e-6
    assert steps[:, 0].min() >= -EXACT


def test_silence_bad_numbers_and_old_observations_bring_it_to_rest() -> None:
    limits = everything(1.0, 4.0, stale_after=0.5)
    for bad, age in (
        (None, 0.0),
        ((np.nan, 0.0, 0.0), 0.0),
        ((np.inf, 0.0, 0.0), 0.0),
        ((2.0, 0.0, 0.0), 0.6),
    ):
        safety = SafetyFilter(JOINTS, limits)
        safety.begin(standing(JOINTS, (0.0, 0.0, 0.5)))
        for tick in range(1, 6):
            safety.command(np.array([0.02 * tick * (tick + 1), 0.0, 0.5], np.float32), age=0.5)
        assert safety.stops == 0
        action = None if bad is None else np.array(bad, np.float32)
        rows = np.array([safety.command(action, age=age) for _ in range(6)])
        assert safety.stops == 6
        assert np.diff(rows[:, 0])[0] > 0.01  # not at once: braking keeps the acceleration, too
        assert (np.diff(rows[-3:], axis=0) == 0).all()


def test_a_hand_goes_along_a_box_and_not_through_it() -> None:
    limits = everything(2.0, None, keep_out=(BOX,))
    asked = [(0.05, 0.02, 0.0)] * 30
    positions, _ = play(HAND, limits, (-0.5, -0.05, 0.0), asked)
    assert positions[-1, 1] > 0.4  # it slid along the face that it met
    assert positions[-1, 0] > 0.2  # and passed when the box was behind it


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SafetyFilter(JOINTS, SafetyLimits(speed={"elbow*": 1.0})), r"safety limit 'elbow\*'"),
        (lambda: SafetyFilter(JOINTS, SafetyLimits(keep_out=(BOX,))), "Limit its joints instead"),
        (lambda: SafetyFilter(replace(HAND, state=()), SafetyLimits(position={"x": (0, 1)})), "'x' changes"),
        (lambda: SafetyFilter(JOINTS, SafetyLimits(position={"a": (3.0, 4.0)})), "nothing between"),
        (lambda: SafetyLimits(speed={"a": 0.0}), "positive speed"),
        (lambda: SafetyLimits(position={"a": (1.0, 0.0)}), "below the highest"),
        (lambda: SafetyLimits(stale_after=0.0), "stale_after"),
        (lambda: Box((0, 0, 0), (1, 1, 0)), "low below high"),
        (lambda: SafetyFilter(JOINTS).command(None), "call begin"),
    ],
)
def test_bad_limits_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_relative_actions_and_a_hand_within_a_box_are_refused() -> None:
    relative = replace(JOINTS, action=(replace(JOINTS.action[0], kind="joint_relative"),))
    with pytest.raises(ValueError, match="measured from the state at chunk start"):
        SafetyFilter(relative)
    safety = SafetyFilter(HAND, SafetyLimits(keep_out=(BOX,)))
    with pytest.raises(ValueError, match="within a box"):
        safety.begin(standing(HAND, (0.0, 0.0, 0.0)))


def test_limits_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    content = {
        "speed": {"*": 0.5},
        "position": {"x": [-0.2, 0.3]},
        "keep_out": [[BOX.low, BOX.high]],
        "stale_after": 0.5,
    }
    path.write_text(json.dumps(content))
    expected = SafetyLimits(speed={"*": 0.5}, position={"x": (-0.2, 0.3)}, keep_out=(BOX,), stale_after=0.5)
    assert SafetyLimits.load(path) == expected
    path.write_text(json.dumps({"velocity": {}}))
    with pytest.raises(DataError, match="velocity"):
        SafetyLimits.load(path)
    with pytest.raises(DataError, match=r"nowhere\.json"):
        SafetyLimits.load(tmp_path / "nowhere.json")


# ---- whatever executor acts, however late its chunks are ----

HORIZON, TICKS = 6, 30
LATENCIES = (0.0, 0.1, 0.35, Latency((0.0, 0.2, 0.5), (2, 1, 1)))


class Erratic:
    """Answers anything: far targets, no opinion about later ticks, failures."""

    window = Window(horizon=HORIZON)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def think(self, observation: Observation, **more: Any) -> None:
        return None

    def act(self, observation: Observation, *, generator: np.random.Generator, **more: Any) -> Chunk:
        size = 10.0 ** generator.uniform(-2, 1)
        actions = size * generator.standard_normal((HORIZON, len(self.spec.action)))
        return Chunk(
            actions=actions.astype(np.float32),
            rate=self.spec.rate,
            time=observation.time,
            mask=np.arange(HORIZON) < generator.integers(1, HORIZON + 1),
            failure="lost" if generator.random() < 0.1 else None,
        )


def act_out(session: Session, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (tick, action) that were commanded, the start first, and steps."""
    session.reset(seed)
    spec = session.spec
    delta = spec.action[0].kind.endswith("_delta")
    positions = [np.array([0.0, 0.0, 0.5])]
    for _ in range(TICKS):
        command = session.tick(lambda: standing(spec, tuple(positions[-1])))
        positions.append(positions[-1] + command if delta else command.astype(np.float64))
    found = np.array(positions)
    return found, np.diff(found, axis=0, prepend=found[:1])


@pytest.mark.parametrize("name", names("executor"))
@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from([JOINTS, HAND]),
    latency=st.sampled_from(LATENCIES),
    stale_after=st.sampled_from([None, 0.05, 0.15, 0.3, 0.6]),
    speed=st.one_of(st.none(), st.floats(0.05, 10)),
    acceleration=st.one_of(st.none(), st.floats(0.05, 30)),
    seed=st.integers(0, 1000),
)
def test_no_command_of_a_session_breaks_a_limit(
    name, spec, latency, stale_after, speed, acceleration, seed
) -> None:
    position = {"b": (-0.5, 0.4)} if spec is JOINTS else {}
    limits = everything(speed, acceleration, position=position, stale_after=stale_after)
    safety = SafetyFilter(spec, limits)
    session = Session(Erratic(spec), make_executor(name, horizon=HORIZON), latency=latency, safety=safety)
    positions, steps = act_out(session, seed)
    low, high = ([-1.0, -0.5, 0.0], [2.1, 0.4, 1.0]) if spec is JOINTS else (-0.7, 0.7)
    check(positions, steps, spec, limits, low, high)
    if stale_after is not None and isinstance(latency, float) and latency > stale_after:
        assert safety.stops == TICKS  # each action is too old when it arrives
        assert (positions == positions[0]).all()


@pytest.mark.parametrize("name", names("executor"))
def test_an_action_that_grows_old_is_braked(name: str) -> None:
    """After its only chunk the agent fails: a long chunk is followed until its observation is too old."""

    class Once(Erratic):
        def act(self, observation: Observation, **more: Any) -> Chunk:
            first = not self.asked
            self.asked = True
            ways = np.linspace(0.02, 0.02 * HORIZON, HORIZON)[:, None] * [1.0, 0.0, 0.0] + [0.0, 0.0, 0.5]
            failure = None if first else "gone"
            return Chunk(actions=ways.astype(np.float32), rate=self.spec.rate, failure=failure)

        asked = False

    limits = SafetyLimits(speed={"*": 1.0}, acceleration={"*": 2.0}, stale_after=0.25)
    safety = SafetyFilter(JOINTS, limits)
    positions, steps = act_out(Session(Once(JOINTS), make_executor(name, horizon=HORIZON), safety=safety), 0)
    assert steps[1:4, 0] == pytest.approx(0.02, abs=1e-6)  # of the observation and up to 0.2 s after it
    assert safety.stops == TICKS - 3
    assert np.abs(steps[6:]).max() == 0
    check(positions, steps, JOINTS, limits, [-1.0, -np.inf, 0.0], [2.1, np.inf, 1.0])
