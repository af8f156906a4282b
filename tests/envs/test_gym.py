"""The Gymnasium adapter, both ways."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gym

from visuomotor.envs.gym import IDS, FromGym, GymEnv, make_tabletop, register
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.goals import TASKS
from visuomotor.envs.tabletop.tasks import SUITES
from visuomotor.errors import VisuomotorError
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.testing.envs import check_env

SMALL = {"front": 16, "wrist": 12}


@pytest.mark.parametrize("name", sorted(IDS))
@pytest.mark.filterwarnings("ignore:.*Box .*space.*infinity.*")
def test_gymnasium_makes_and_checks_every_id(name: str) -> None:
    register()
    register()
    two = IDS[name] in SUITES["two_hands"] and IDS[name] not in SUITES["whole"]
    env = gymnasium.make(name, cameras={"front": 16, "right_wrist": 12} if two else SMALL)
    check_gym(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.env.reset(seed=0).instruction  # type: ignore[attr-defined]
    env.close()


def test_every_task_has_an_id() -> None:
    assert sorted(IDS.values()) == sorted(TASKS)


def test_an_episode_by_gymnasium_tells_success() -> None:
    env = make_tabletop(task="put_in", cameras=SMALL, render_mode="rgb_array")
    observation, info = env.reset(seed=0)
    assert observation["instruction"] == info["instruction"]
    assert observation["images"]["front"].shape == (16, 16, 3)
    expert, terminated = TabletopExpert(), False
    while not terminated:
        observation, reward, terminated, truncated, info = env.step(expert(env.env))
        assert not truncated
        assert env.observation_space.contains(observation)
    assert reward == 1.0
    assert info["success"]
    assert info["achieved"] == info["goal"]
    picture = env.render()
    assert picture is not None
    assert picture.shape == (320, 320, 3)


def test_running_out_of_time_truncates() -> None:
    env = make_tabletop(cameras={}, max_ticks=2)
    env.reset(seed=0)
    still = np.zeros(7, np.float32)
    assert env.step(still)[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(still)
    assert (terminated, truncated) == (False, True)
    assert info["failure"] == "out of time"
    assert env.render() is None


def test_seeds_and_options_reach_the_environment() -> None:
    env = make_tabletop(cameras={})
    states = [env.reset(seed=4)[0]["state"] for _ in range(2)]
    np.testing.assert_array_equal(*states)
    goals = env.env.goals()  # type: ignore[attr-defined]
    env.reset(seed=4, options={"goal": goals[2]})
    assert env.env.goal == goals[2]  # type: ignore[attr-defined]
    first, second = env.reset()[1]["seed"], env.reset()[1]["seed"]
    assert first != second


def test_a_wrong_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="rgb_array"):
        GymEnv(TabletopEnv(cameras={}), render_mode="human")


def test_back_again_keeps_our_contract() -> None:
    """Our environment in Gymnasium in our contract: everything but snapshots."""

    def both_ways() -> FromGym:
        ours = TabletopEnv(cameras=SMALL)
        return FromGym(GymEnv(ours), ours.spec)

    check_env(both_ways, ticks=8, snapshots=False)


def test_back_again_judges_alike() -> None:
    ours = TabletopEnv(cameras={})
    env, expert = FromGym(GymEnv(ours), ours.spec), TabletopExpert()
    env.reset(seed=0)
    while not (status := env.step(expert(ours))).done:
        assert status.progress < 1
    assert status.success
    assert status.failure is None
    assert status.facts["achieved"] == ours.goal


class Plain(gymnasium.Env):
    """A foreign environment: no words, no pictures, success by reward."""

    observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-9, 9, (20,), np.float32)})
    action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        super().reset(seed=seed)
        self.ticks = 0
        return {"state": np.zeros(20, np.float32)}, {}

    def step(self, action):  # type: ignore[no-untyped-def]
        self.ticks += 1
        reached = bool(action[0] > 0.5)
        return {"state": np.full(20, self.ticks, np.float32)}, float(reached), reached, self.ticks >= 3, {}


def test_foreign_environments_end_with_a_reason() -> None:
    env = FromGym(Plain(), TabletopEnv(cameras={}).spec, instruction="go right")
    assert env.reset(seed=0).instruction == "go right"
    assert not env.step(np.zeros(7)).done
    assert env.step(np.ones(7)).success
    env.reset(seed=0)
    status = [env.step(np.zeros(7)) for _ in range(3)][-1]
    assert (status.done, status.success, status.failure) == (True, False, "out of time")


def test_foreign_environments_refuse_what_they_cannot_do() -> None:
    env = FromGym(Plain(), TabletopEnv(cameras={}).spec)
    with pytest.raises(ValueError, match="reset"):
        env.observe()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(7, np.nan))
    with pytest.raises(VisuomotorError, match="snapshot"):
        env.snapshot()
    with pytest.raises(VisuomotorError, match="snapshot"):
        env.restore(b"")
    env.close()
