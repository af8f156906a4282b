from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from grid_world import GridWorld, Walker, grid_spec

from visuomotor.executors import (
    Asynchronous,
    Latency,
    OpenLoop,
    RealTime,
    RecedingHorizon,
    SafetyFilter,
    SafetyLimits,
    TemporalEnsemble,
    trained_real_time,
)
from visuomotor.session import Session
from visuomotor.types import Chunk, Dimension, Observation, Spec, Window

SPEC = replace(grid_spec(), cameras=())


class Counting:
    """Answers with the number of the call and of the action; keeps what it was shown."""

    def __init__(self, spec: Spec = SPEC, *, horizon: int = 4, history: tuple[int, ...] = (0,)) -> None:
        self.spec = spec
        self.window = Window(horizon=horizon, history=history)
        self.seen: list[Observation] = []
        self.delays: list[int] = []
        self.prefixes: list[Any] = []
        self.contexts: list[Any] = []
        self.thoughts = 0
        self.answers: dict[int, Chunk] = {}

    def think(self, observation: Observation, *, generator: np.random.Generator | None = None) -> Any:
        self.thoughts += 1
        return self.thoughts

    def act(self, observation, *, generator=None, context=None, prefix=None, delay=0) -> Chunk:
        call = len(self.seen)
        self.seen.append(observation)
        self.delays.append(delay)
        self.prefixes.append(None if prefix is None else prefix[:, 0].tolist())
        self.contexts.append(context)
        if call in self.answers:
            return self.answers[call]
        actions = np.zeros((self.window.horizon, len(self.spec.action)), np.float32)
        actions[:, 0] = 100 * call + np.arange(self.window.horizon) + 1
        return Chunk(actions=actions, rate=self.spec.rate, time=observation.time)


class Looker:
    """Gives one observation a tick and counts."""

    def __init__(self, spec: Spec = SPEC, state: tuple[float, ...] = (3.0, 4.0, 0.5)) -> None:
        self.spec, self.state = spec, state
        self.looks = 0

    def __call__(self) -> Observation:
        self.looks += 1
        state = np.array([self.state], np.float32) + np.float32(self.looks)
        return Observation(images={}, state=state, instruction="go", embodiment=self.spec.embodiment)


def first(session: Session, look: Looker, count: int) -> list[float]:
    return [float(session.tick(look)[0]) for _ in range(count)]


def test_a_session_looks_only_when_it_plans() -> None:
    agent, look = Counting(), Looker()
    session = Session(agent, RecedingHorizon(3))
    assert first(session, look, 7) == [1, 2, 3, 101, 102, 103, 201]
    assert look.looks == len(agent.seen) == len(session.inference_ms) == 3
    assert session.holds == 0


def test_latency_is_bridged_by_the_old_chunk_and_passed_actions_are_skipped() -> None:
    agent = Counting()
    session = Session(agent, RecedingHorizon(2), latency=0.21)  # 5 hertz: 2 ticks
    actions = first(session, Looker(), 9)
    # Two held ticks use up nothing of the first chunk. It was asked for at tick 0 and begins at tick 2;
    # the second is asked for at tick 4, arrives at tick 6 and begins with its third action.
    assert actions == [0, 0, 1, 2, 3, 4, 103, 104, 203]
    assert agent.delays == [2, 2, 2, 2]
    assert session.holds == 2


def test_a_latency_longer_than_the_chunk_stops_and_goes() -> None:
    session = Session(Counting(), OpenLoop(), latency=1.0)  # 5 ticks, chunk of 4
    assert first(session, Looker(), 18) == [0] * 5 + [1, 2, 3, 4] + [0] * 5 + [101, 102, 103, 104]


def test_without_latency_every_executor_acts_at_once() -> None:
    for executor in (OpenLoop(), RecedingHorizon(1), TemporalEnsemble()):
        session = Session(Counting(), executor)
        assert first(session, Looker(), 1) == [1]


def test_history_is_spaced_and_padded_with_a_false_mask() -> None:
    agent, look = Counting(history=(-4, -2, 0)), Looker(state=(0.0, 0.0, 0.0))
    session = Session(agent, RecedingHorizon(1))
    for _ in range(6):
        session.tick(look)
    assert look.looks == 6
    states = [observation.state[:, 0].tolist() for observation in agent.seen]
    masks = [observation.history_mask.tolist() for observation in agent.seen]
    assert states == [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 4], [1, 3, 5], [2, 4, 6]]
    assert masks[0] == masks[1] == [False, False, True]
    assert masks[2] == masks[3] == [False, True, True]
    assert masks[4] == masks[5] == [True, True, True]
    session.reset(0)
    session.tick(look)
    assert agent.seen[-1].history_mask.tolist() == [False, False, True]


def test_the_slow_part_is_asked_less_often_and_its_thought_is_kept() -> None:
    agent = Counting()
    session = Session(agent, RecedingHorizon(1), think_every=3)
    first(session, Looker(), 7)
    assert agent.contexts == [1, 1, 1, 2, 2, 2, 3]
    session.reset(0)
    first(session, Looker(), 1)
    assert agent.contexts[-1] == 4


def test_equal_seeds_give_equal_actions_and_other_seeds_do_not() -> None:
    env = GridWorld()
    env.reset(seed=3)
    session = Session(Walker(env), RecedingHorizon(2))

    def play(seed: int) -> np.ndarray:
        session.reset(seed)
        return np.array([session.tick(env.observe) for _ in range(4)])

    one, two, three = play(1), play(2), play(1)
    assert (one == three).all()
    assert (one != two).any()


def test_a_failed_answer_is_recorded_and_the_robot_holds() -> None:
    agent = Counting()
    agent.answers[1] = Chunk(actions=np.zeros((0, 3), np.float32), rate=5.0, failure="no plan found")
    session = Session(agent, RecedingHorizon(4))
    actions = np.array([session.tick(Looker()) for _ in range(6)])
    assert actions[:, 0].tolist() == [1, 2, 3, 4, 0, 201]  # deltas rest at 0
    assert session.failures == ["no plan found"]
    assert session.holds == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"actions": np.full((4, 3), np.nan, np.float32)}, "not finite in dx, dy, horn"),
        ({"actions": np.zeros((4, 2), np.float32)}, r"expected actions \(horizon, 3\)"),
        ({"actions": np.zeros((0, 3), np.float32)}, r"expected actions \(horizon, 3\)"),
        ({"rate": 50.0}, "expected 5.0 Hz, got 50.0 Hz"),
        ({"mask": np.ones(3, bool)}, r"mask of shape \(4,\)"),
    ],
)
def test_a_broken_chunk_raises(wrong: dict[str, Any], message: str) -> None:
    agent = Counting()
    agent.answers[0] = replace(Chunk(actions=np.zeros((4, 3), np.float32), rate=5.0), **wrong)
    with pytest.raises(ValueError, match=message):
        Session(agent, OpenLoop()).tick(Looker())


def test_numbers_behind_a_false_mask_need_not_be_finite() -> None:
    agent = Counting()
    actions = np.array([[1, 0, 0], [np.nan, 0, 0]], np.float32)
    agent.answers[0] = Chunk(actions=actions, rate=5.0, mask=np.array([True, False]))
    assert first(Session(agent, OpenLoop()), Looker(), 2) == [1, 101]


def test_before_the_first_action_the_robot_holds_where_it_stands() -> None:
    joints = (Dimension(name="wrist", kind="joint"), Dimension(name="elbow", kind="joint"))
    action = (
        Dimension(name="joint_a", kind="joint"),  # found by its place among the joints
        Dimension(name="joint_b", kind="joint"),
        Dimension(name="grip", kind="gripper"),  # found by its name
        Dimension(name="slide", kind="ee_delta"),
    )
    spec = replace(SPEC, state=(*joints, Dimension(name="grip")), action=action)
    session = Session(Counting(spec), OpenLoop(), latency=0.2)
    assert session.tick(Looker(spec, (1.0, 2.0, 0.25))).tolist() == [2.0, 3.0, 1.25, 0.0]
    lost = replace(spec, state=joints[:1])
    with pytest.raises(ValueError, match="present value of 'joint_a'"):
        Session(Counting(lost), OpenLoop(), latency=0.2).tick(Looker(lost, (1.0,)))


def test_absolute_actions_hold_the_last_command() -> None:
    session = Session(Counting(horizon=1), OpenLoop(), latency=0.2)
    agent = session.agent
    agent.answers[0] = Chunk(actions=np.array([[0.3, 0.2, 0.9]], np.float32), rate=5.0)
    rows = np.array([session.tick(Looker()) for _ in range(3)])
    assert rows[0, 2] == pytest.approx(1.5)  # the state of the horn at the first look
    assert rows[1].tolist() == pytest.approx([0.3, 0.2, 0.9])
    assert rows[2].tolist() == pytest.approx([0, 0, 0.9])


def test_bad_settings_and_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="latency"):
        Session(Counting(), OpenLoop(), latency=float("nan"))
    with pytest.raises(ValueError, match="think_every"):
        Session(Counting(), OpenLoop(), think_every=0)
    long = Observation(images={}, state=np.zeros((2, 3), np.float32), instruction="", embodiment="walker")
    with pytest.raises(ValueError, match="History is the session's work"):
        Session(Counting(), OpenLoop()).tick(lambda: long)


def test_real_time_chunks_are_asked_to_continue_what_will_have_run() -> None:
    agent = Counting(horizon=8)
    session = Session(agent, RealTime(3), latency=0.4)  # 2 ticks
    actions = first(session, Looker(), 12)
    # Two held ticks move the first chunk; the second is asked for at tick 5, three ticks after its start.
    assert actions == [0, 0, 1, 2, 3, 4, 5, 103, 104, 105, 203, 204]
    assert agent.prefixes == [None, [4, 5, 6, 7, 8], [104, 105, 106, 107, 108], [204, 205, 206, 207, 208]]
    assert agent.delays == [2, 2, 2, 2]
    assert session.delays == [2, 2, 2]
    assert session.holds == 2
    assert session.stale == 5  # ticks 5, 6, 8, 9 and 11 wait for a newer chunk


def test_a_policy_trained_to_continue_is_given_the_executed_ticks_only() -> None:
    agent = Counting(horizon=8)
    first(Session(agent, trained_real_time(3), latency=0.4), Looker(), 9)
    assert agent.prefixes == [None, [4, 5], [104, 105]]


def test_an_asynchronous_session_plays_without_a_stop() -> None:
    session = Session(Counting(horizon=10), Asynchronous(0.7, "latest_only"), latency=0.4)
    actions = first(session, Looker(), 20)
    assert session.holds == 2
    assert 0 not in actions[2:]


def test_drawn_delays_are_those_of_the_seed_and_leave_the_agent_its_numbers() -> None:
    law = Latency((0.0, 0.2, 0.6), (1, 1, 1))

    def play(seed: int, law: Latency | float) -> tuple[list[int], np.ndarray]:
        env = GridWorld()
        env.reset(seed=3)
        session = Session(Walker(env), RecedingHorizon(2), latency=law)
        session.reset(seed)
        rows = np.array([session.tick(env.observe) for _ in range(30)])
        return session.delays, rows

    one, again, other = play(1, law), play(1, law), play(2, law)
    assert one[0] == again[0] != other[0]
    assert set(one[0]) == {0, 1, 3}
    assert (one[1] == again[1]).all()
    assert (play(1, 0.0)[1][0] == one[1][one[0][0]]).all()  # the first answer, whenever it comes


def test_a_slow_part_with_a_delay_keeps_its_own_rate() -> None:
    agent, look = Counting(), Looker()
    session = Session(agent, RecedingHorizon(1), think_every=2, think_latency=0.6)  # 5 hertz: 3 ticks
    first(session, look, 10)
    assert agent.thoughts == 4  # at ticks 0, 3, 6 and 9: one is on its way until the next may begin
    assert agent.contexts == [1, 1, 1, 2, 2, 2, 3]  # nothing is asked for before tick 3
    assert session.holds == 3


def test_an_agent_without_a_slow_part_waits_for_none() -> None:
    env = GridWorld()
    env.reset(seed=3)
    session = Session(Walker(env), RecedingHorizon(2), think_latency=1.0)
    session.tick(env.observe)
    assert session.holds == 0


def test_the_safety_filter_has_the_last_word_and_stops_on_silence() -> None:
    spec = replace(
        SPEC,
        state=(Dimension(name="slide", kind="joint"), *SPEC.state[1:]),
        action=(Dimension(name="slide", kind="joint", low=-1.0, high=2.0), *SPEC.action[1:]),
    )
    limits = SafetyLimits(acceleration={"slide": 5.0}, stale_after=0.9)  # 0.2 a tick
    agent = Counting(spec)
    session = Session(agent, RecedingHorizon(4), latency=0.8, safety=SafetyFilter(spec, limits))
    look = Looker(spec, (-1.0, 0.0, 0.0))
    actions = first(session, look, 12)
    assert actions[:4] == [0, 0, 0, 0]  # it holds where it stood at the first look
    assert max(actions) <= 2.0
    steps = np.diff([0.0, *actions])
    assert np.abs(np.diff([0.0, *steps])).max() <= 0.2 + 1e-6
    assert session.safety.changed > 0
    assert session.safety.stops > 4
