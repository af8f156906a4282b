from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from grid_world import GridWorld, Walker, corner_agent

from visuomotor.envs.base import Env, Status
from visuomotor.errors import DataError
from visuomotor.executors import OpenLoop, RecedingHorizon
from visuomotor.rollout import Episode, check_fit, plain, rollout
from visuomotor.session import Session


def test_an_episode_tells_what_happened_and_equal_seeds_give_equal_episodes() -> None:
    env = GridWorld()
    assert isinstance(env, Env)
    session = Session(Walker(env), RecedingHorizon(2))
    one, other, again = (rollout(env, session, seed=seed) for seed in (1, 2, 1))
    assert one.success
    assert one.failure is None
    assert one.progress == 1.0
    assert one.goal == one.achieved == one.facts["goal"]
    assert one.seconds == pytest.approx(one.ticks / 5)
    assert len(one.inference_ms) == -(-one.ticks // 2)
    assert one.same_as(again)
    assert not one.same_as(other)
    assert one.digest != other.digest


def test_episodes_survive_strict_json() -> None:
    env = GridWorld()
    episode = rollout(env, Session(Walker(env), OpenLoop()), seed=1, options={"split": "words"})
    text = json.dumps(episode.to_json(), allow_nan=False)
    assert Episode.from_json(json.loads(text)) == episode
    with pytest.raises(DataError, match="expected the keys"):
        Episode.from_json({"seed": 1})


def test_only_the_views_that_the_agent_knows_are_drawn() -> None:
    env = GridWorld()
    walker = Walker(env)
    walker.spec = replace(env.spec, cameras=env.spec.cameras[:1])
    seen: list[list[str]] = []
    act = walker.act

    def spy(observation, **rest):
        seen.append(sorted(observation.images))
        return act(observation, **rest)

    walker.act = spy
    rollout(env, Session(walker, RecedingHorizon(1)), seed=5)
    assert len(seen) > 1
    assert all(names == ["top"] for names in seen)


def test_the_first_observation_is_not_drawn_twice() -> None:
    env = GridWorld()
    episode = rollout(env, Session(Walker(env), OpenLoop()), seed=1)
    assert env.looks == len(episode.inference_ms)


def test_a_watcher_sees_the_start_and_every_tick() -> None:
    env = GridWorld(max_ticks=6)
    seen: list[tuple[int, Status | None]] = []
    session = Session(corner_agent(env), OpenLoop())
    episode = rollout(env, session, seed=4, watch=lambda _, tick, status: seen.append((tick, status)))
    assert [tick for tick, _ in seen] == list(range(7))
    assert seen[0][1] is None
    assert seen[-1][1].done
    assert (episode.success, episode.failure, episode.ticks) == (False, "out of time", 6)


def test_an_agent_for_another_body_is_refused() -> None:
    env = GridWorld()
    spec = env.spec
    for wrong, message in (
        ({"embodiment": "swimmer"}, "embodiment swimmer"),
        ({"rate": 10.0}, "rate 10.0"),
        ({"state": spec.state[:2]}, "state"),
        ({"action": spec.action[:2]}, "actions"),
        ({"cameras": (replace(spec.cameras[0], height=20),)}, "20x10 pixels"),
        ({"cameras": (replace(spec.cameras[0], name="topp"),)}, "Did you mean 'top'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_fit(replace(spec, **wrong), spec)


def test_plain_data_hold_no_numpy_and_no_nan() -> None:
    mixed = {"a": np.float32(0.5), 1: (np.int64(3), float("nan")), "b": np.array([1.0, np.inf]), "c": True}
    assert plain(mixed) == {"a": 0.5, "1": [3, None], "b": [1.0, None], "c": True}
    with pytest.raises(TypeError, match="plain data"):
        plain({"a": object()})
