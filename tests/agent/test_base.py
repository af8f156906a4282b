from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from visuomotor.agent import Agent, RandomAgent, RecordedAgent, ScriptedAgent, check_observation
from visuomotor.types import Dimension, Observation, Spec, Window

WINDOW = Window(horizon=4)


def test_agents_without_a_network_load_without_torch() -> None:
    code = (
        "import sys, visuomotor.agent as a; a.RandomAgent, a.check_observation; print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_every_agent_speaks_the_protocol(spec: Spec, observation: Observation) -> None:
    recorded = RecordedAgent(spec, np.zeros((3, 3), np.float32))
    scripted = ScriptedAgent(spec, lambda observation: np.zeros((1, 3)))
    for agent in (RandomAgent(bounded(spec)), recorded, scripted):
        assert isinstance(agent, Agent)
        assert agent.think(observation) is None


def bounded(spec: Spec) -> Spec:
    return replace(spec, action=tuple(replace(d, low=-0.5, high=0.25) for d in spec.action))


def test_a_fitting_observation_passes_and_other_cameras_are_left_out(
    spec: Spec, observation: Observation
) -> None:
    more = replace(observation, images={**observation.images, "top": np.zeros((1, 8, 8, 3), np.uint8)})
    checked = check_observation(more, spec, WINDOW)
    assert list(checked.images) == ["front", "wrist"]
    assert np.array_equal(checked.state, observation.state)


def with_state(observation: Observation, state: object) -> Observation:
    return replace(observation, state=np.asarray(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: replace(o, images={"front": o.images["front"]}), "camera 'wrist' is missing"),
        (
            lambda o: replace(o, images={**o.images, "wrist": o.images["wrist"][:, :8]}),
            r"camera 'wrist': expected uint8 pictures of shape \(1, 16, 24, 3\).*got uint8 \(1, 8, 24, 3\)",
        ),
        (
            lambda o: replace(o, images={**o.images, "front": o.images["front"] / 255}),
            "camera 'front': expected uint8.*got float64",
        ),
        (
            lambda o: with_state(o, np.zeros((1, 2), np.float32)),
            r"state: expected floats of shape.*got float32 \(1, 2\)",
        ),
        (lambda o: with_state(o, np.zeros(3, np.float32)), r"got float32 \(3,\)"),
        (lambda o: with_state(o, np.zeros((2, 3), np.float32)), "expected history 1, got 2.*Session"),
        (lambda o: with_state(o, np.array([[0, np.nan, 0]], np.float32)), "not finite in y"),
        (lambda o: replace(o, embodiment="panda"), "expected embodiment 'cursor', got 'panda'"),
        (lambda o: replace(o, history_mask=np.ones(2, bool)), r"mask of 'history': expected shape \(1,\)"),
    ],
)
def test_a_wrong_observation_is_named(
    spec: Spec, observation: Observation, change: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_observation(change(observation), spec, WINDOW)  # type: ignore[operator]


def test_chance_stays_within_the_limits_and_repeats_with_its_generator(
    spec: Spec, observation: Observation
) -> None:
    agent = RandomAgent(bounded(spec), horizon=500)
    chunks = [agent.act(observation, generator=np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(chunks[0].actions, chunks[1].actions)
    assert not np.array_equal(chunks[0].actions, chunks[2].actions)
    assert chunks[0].actions.min() >= -0.5
    assert chunks[0].actions.max() <= 0.25
    assert abs(chunks[0].actions.mean() + 0.125) < 0.02  # 1500 draws with a standard deviation of 0.22
    assert chunks[0].rate == spec.rate
    assert chunks[0].time == observation.time


def test_chance_needs_limits(spec: Spec) -> None:
    endless = replace(spec, action=(*spec.action[:2], Dimension(name="twist")))
    with pytest.raises(ValueError, match="actions twist of 'cursor' have no limits"):
        RandomAgent(endless)


def test_a_recording_plays_from_the_tick_of_the_observation_and_then_holds(
    spec: Spec, observation: Observation
) -> None:
    actions = np.arange(27, dtype=np.float32).reshape(9, 3)
    chunk = RecordedAgent(spec, actions, horizon=4).act(observation)  # 0.7 s at 10 Hz: tick 7
    assert np.array_equal(chunk.actions[:2], actions[7:])
    assert chunk.mask is not None
    assert chunk.mask.tolist() == [True, True, False, False]
    assert chunk.actions[2].tolist() == [0, 0, 26]  # deltas rest, the gripper stays
    with pytest.raises(ValueError, match=r"expected actions \(tick, 3\)"):
        RecordedAgent(spec, np.zeros((4, 7), np.float32))


def test_a_script_answers_one_action_or_a_chunk(spec: Spec, observation: Observation) -> None:
    one = ScriptedAgent(spec, lambda o: o.state[-1]).act(observation)
    assert np.array_equal(one.actions, observation.state)
    with pytest.raises(ValueError, match=r"expected actions of shape \(2, 3\), got \(1, 3\)"):
        ScriptedAgent(spec, lambda o: o.state[-1], horizon=2).act(observation)
