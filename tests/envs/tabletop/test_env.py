"""The environment keeps its contract, judges by the state of the world, and refuses bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from visuomotor.envs.base import Env
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.goals import stages
from visuomotor.envs.tabletop.layout import sample_layout, splits, subtasks
from visuomotor.envs.tabletop.tasks import SUITES, TASKS, playable
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.registry import lookup
from visuomotor.testing.envs import check_env

STILL = np.zeros(7)


def expert_with_noise(env: Any, generator: np.random.Generator) -> np.ndarray:
    """Gets objects into the hand, so that an episode has contacts, sleep and waking."""
    action = TabletopExpert()(env)
    action[:3] += generator.normal(0, 0.004, 3)
    return action


@pytest.mark.parametrize(("task", "control"), [("put_in", "ee_delta"), ("lift", "joint")])
def test_contract(task: str, control: Any) -> None:
    check_env(
        lambda: TabletopEnv(task=task, control=control, cameras={"front": 24, "wrist": (16, 20)}), ticks=25
    )


def test_contract_with_things_in_the_hand() -> None:
    check_env(lambda: TabletopEnv(cameras={"wrist": 16}), ticks=24, seed=3, act=expert_with_noise)


def test_it_is_an_env_and_registered() -> None:
    env = lookup("env", "tabletop")(cameras={})
    assert isinstance(env, Env)


def play(env: TabletopEnv, seed: int, *, ticks: int = 30) -> list[np.ndarray]:
    """Physical states of an episode with the expert and noise."""
    generator = np.random.default_rng(seed)
    env.reset(seed=seed)
    states = []
    for _ in range(ticks):
        env.step(expert_with_noise(env, generator))
        states.append(np.concatenate([env.scene.data.qpos, env.scene.data.qvel]))
    return states


def test_episodes_do_not_depend_on_what_was_played_before() -> None:
    """The physics itself is compared, bit by bit: in one environment, again in it, and in a fresh one."""
    env = TabletopEnv(cameras={})
    first = {seed: play(env, seed) for seed in range(6)}
    for seed in (4, 0, 5):
        for again in (play(env, seed), play(TabletopEnv(cameras={}), seed)):
            assert all(np.array_equal(a, b) for a, b in zip(first[seed], again, strict=True))


@pytest.mark.parametrize("ticks", [0, 2, 8, 11, 17])
def test_restore_is_bit_equal_in_every_phase(ticks: int) -> None:
    """While things sleep, are touched, pressed, carried and fall; in this and another environment."""
    expert = TabletopExpert()
    env, other = TabletopEnv(cameras={}), TabletopEnv(cameras={})
    env.reset(seed=7)
    for _ in range(ticks):
        env.step(expert(env))
    snapshot = env.snapshot()
    assert env.snapshot() == snapshot
    expected = []
    for _ in range(12):
        status = env.step(expert(env))
        expected.append((env.scene.data.qpos.copy(), env.scene.data.qvel.copy(), env.state(), status))
    other.reset(seed=1)
    for world in (env, other):
        world.restore(snapshot)
        assert world.snapshot() == snapshot
        for qpos, qvel, state, status in expected:
            told = world.step(expert(world))
            np.testing.assert_array_equal(world.scene.data.qpos, qpos)
            np.testing.assert_array_equal(world.scene.data.qvel, qvel)
            np.testing.assert_array_equal(world.state(), state)
            assert told == status


def test_snapshot_keeps_words_and_goal() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=2)
    other = next(name for name in env.goals() if name != env.goal)
    env.reset(seed=2, options={"goal": other, "instruction": "do as you like", "split": "words"})
    snapshot = env.snapshot()
    env.reset(seed=3)
    env.restore(snapshot)
    assert env.goal == other
    assert env.observe().instruction == "do as you like"


def test_foreign_bytes_are_no_snapshot() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=0)
    for foreign in (b"something else", b"", env.snapshot()[:-1], env.snapshot()[:12]):
        with pytest.raises(ValueError, match="snapshot"):
            env.restore(foreign)


def test_a_snapshot_knows_its_task() -> None:
    env, other = TabletopEnv(task="lift", cameras={}), TabletopEnv(task="put_in", cameras={})
    env.reset(seed=2)
    other.restore(env.snapshot())
    assert other.goal == env.goal
    assert other.snapshot() == env.snapshot()


def test_state_is_what_its_names_say() -> None:
    env = TabletopEnv(cameras={})
    observation = env.reset(seed=0)
    state = dict(zip((d.name for d in env.spec.state), observation.state[0], strict=True))
    assert observation.state.shape == (1, 20)
    assert [state[f"joint{n}"] for n in range(1, 8)] == pytest.approx(env.body.arms[0].home)
    assert state["gripper"] == pytest.approx(0.0)
    assert [state[f"measured_{a}"] for a in "xyz"] == pytest.approx([0.4, 0.0, 0.22], abs=1e-6)
    assert [state[f"commanded_r{a}"] for a in "xyz"] == pytest.approx([0, 0, 0], abs=1e-6)
    for _ in range(3):
        env.step(np.array([0.03, 0.0, -0.02, 0.0, 0.0, 0.1, 1.0]))
    state = dict(zip((d.name for d in env.spec.state), env.observe([]).state[0], strict=True))
    assert state["commanded_x"] == pytest.approx(0.49, abs=1e-6)
    assert state["measured_x"] == pytest.approx(0.49, abs=5e-3)
    assert state["commanded_rz"] == pytest.approx(0.3, abs=1e-5)
    assert state["measured_rz"] == pytest.approx(0.3, abs=2e-2)
    assert state["gripper"] > 0.2


def test_hand_follows_its_commands_closely() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=0)
    for tick in range(20):
        env.step(np.array([0.03 * np.cos(tick / 3), 0.04 * np.sin(tick / 3), 0.0, 0.0, 0.0, 0.0, 0.0]))
        hand, _ = env.scene.hand_pose()
        assert np.linalg.norm(hand - env.controllers[0].position) < 0.008


def test_another_goal_leaves_the_scene_as_it_is() -> None:
    env = TabletopEnv(cameras={"front": 24})
    first = env.reset(seed=5)
    assert len(env.goals()) == 8
    for name in env.goals():
        again = env.reset(seed=5, options={"goal": name})
        assert env.goal == name
        np.testing.assert_array_equal(again.images["front"], first.images["front"])


def run(env: TabletopEnv, seed: int, wanted: str | None = None) -> Any:
    """Let the expert work on one goal, while `wanted` is asked for."""
    env.reset(seed=seed)
    done = env.goal
    env.reset(seed=seed, options={"goal": wanted} if wanted else None)
    expert = TabletopExpert()
    doer = TabletopEnv(cameras={})
    doer.reset(seed=seed, options={"goal": done})
    for _ in range(env.max_ticks):
        action = expert(doer)
        doer.step(action)
        status = env.step(action)
        if status.done:
            return status
    raise AssertionError("an episode must end")


def test_success_is_the_goal_held_for_several_ticks() -> None:
    env, expert = TabletopEnv(cameras={}), TabletopExpert()
    env.reset(seed=0)
    reached = 0
    progress = [0.0]
    while True:
        status = env.step(expert(env))
        reached += TASKS["put_in"].done(env.scene, env.wanted)
        progress.append(status.progress)
        if status.done:
            break
    assert status.success
    assert status.failure is None
    assert status.progress == 1.0
    assert status.facts == {"goal": env.goal, "achieved": env.goal}
    assert reached == TASKS["put_in"].hold
    assert max(progress[:-1]) < 1.0
    assert progress[-4] > progress[5] > 0


def test_another_goal_held_ends_the_episode_with_blame() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=0)
    done = env.goal
    thing, bowl = done.removeprefix("put_in:").split(">")
    for wanted in env.goals():
        if wanted == done:
            continue
        status = run(env, 0, wanted)
        same_thing = wanted.startswith(f"put_in:{thing}>")
        assert not status.success
        assert status.failure == ("wrong place" if same_thing else "wrong object"), (wanted, bowl)
        assert status.facts == {"goal": wanted, "achieved": done}
        assert status.progress < 1.0


def test_lifting_another_object_is_the_wrong_object() -> None:
    env, expert = TabletopEnv(task="lift", cameras={}), TabletopExpert()
    env.reset(seed=1)
    doer = TabletopEnv(task="lift", cameras={})
    doer.reset(seed=1, options={"goal": next(name for name in env.goals() if name != env.goal)})
    while True:
        action = expert(doer)
        doer.step(action)
        status = env.step(action)
        if status.done:
            break
    assert status.failure == "wrong object"


def test_idle_episodes_run_out_of_time() -> None:
    env = TabletopEnv(cameras={}, max_ticks=5)
    env.reset(seed=0)
    statuses = [env.step(STILL) for _ in range(5)]
    assert [status.done for status in statuses] == [False] * 4 + [True]
    assert statuses[-1].failure == "out of time"


def move(env: TabletopEnv, number: int, place: tuple[float, float, float]) -> None:
    """Put an object somewhere by force."""
    data, model = env.scene.data, env.scene.model
    body = int(np.argmin(np.linalg.norm(data.xpos - env.scene.place(number), axis=1)))
    start = model.jnt_qposadr[model.body_jntadr[body]]
    data.qpos[start : start + 3] = place


def test_an_object_out_of_reach_is_dropped() -> None:
    env = TabletopEnv(cameras={})
    for place in ((0.9, 0.0, 0.03), (0.5, -0.5, 0.03), (0.74, 0.4, 0.03)):
        env.reset(seed=0)
        move(env, env.wanted.object, place)
        status = env.step(STILL)
        assert status.done
        assert status.failure == "dropped"


def test_an_object_carried_and_lost_is_dropped() -> None:
    """It was in the air once, and lies on the table when time is over."""
    env, expert = TabletopEnv(cameras={}, max_ticks=40), TabletopExpert()
    env.reset(seed=0)
    while env.scene.place(env.wanted.object)[2] < 0.1:
        env.step(expert(env))
    while not (status := env.step(STILL)).done:
        pass
    assert status.failure in ("dropped", "wrong place")


def test_the_verdict_stays() -> None:
    env, expert = TabletopEnv(cameras={}), TabletopExpert()
    env.reset(seed=0)
    while not (status := env.step(expert(env))).done:
        pass
    assert all(env.step(np.array([0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 0.0])) == status for _ in range(5))
    assert not env.restore(env.snapshot())
    assert env.step(STILL) == status


# ---- tasks and suites ---------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_tasks_of_a_suite_take_turns_with_the_seeds(suite: str) -> None:
    body = "aloha2arm" if suite == "two_hands" else "franka"
    env, names = TabletopEnv(body, task=suite, cameras={}, rate=10), SUITES[suite]
    for seed in (*range(len(names)), 1_000_000_003):
        env.reset(seed=seed)
        assert env.wanted.task == names[seed % len(names)]
        assert env.layout == sample_layout(seed, task=env.wanted.task)
        assert env.max_ticks == TASKS[env.wanted.task].ticks


def test_a_suite_passes_over_tasks_without_the_split() -> None:
    env = TabletopEnv(cameras={})
    played = []
    for seed in range(2 * len(SUITES["all"])):
        env.reset(seed=seed, options={"task": "all", "split": "pairs"})
        played.append(env.wanted.task)
    assert list(dict.fromkeys(played)) == [name for name in SUITES["all"] if "pairs" in splits(name)]


def test_a_split_that_a_task_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="task 'press' has no split 'pairs'"):
        TabletopEnv(task="press", cameras={}).reset(seed=0, options={"split": "pairs"})


def test_episodes_are_as_long_as_their_task_says_at_every_rate() -> None:
    for task, ticks in (("lift", 100), ("insert", 150), ("clear", 300)):
        env = TabletopEnv(task=task, cameras={})
        env.reset(seed=0)
        assert env.max_ticks == ticks
        env = TabletopEnv("widowx", task=task, cameras={})
        env.reset(seed=0)
        assert env.max_ticks == ticks / 2  # five ticks a second
        env = TabletopEnv(task=task, cameras={}, max_ticks=7)
        env.reset(seed=0)
        assert env.max_ticks == 7


def test_a_suite_gives_each_episode_its_own_length() -> None:
    env = TabletopEnv(task="all", cameras={})
    lengths = []
    for seed in range(len(SUITES["all"])):
        env.reset(seed=seed)
        lengths.append(env.max_ticks)
    assert lengths == [TASKS[name].ticks for name in SUITES["all"]]


def test_the_tolerance_reaches_the_sockets() -> None:
    for tolerance in (0.002, 0.008):
        env = TabletopEnv(task="insert", cameras={}, tolerance=tolerance)
        env.reset(seed=0)
        assert env.scene.tolerance == tolerance


@pytest.mark.parametrize("task", playable(1))
def test_subtasks_tell_what_to_do_now(task: str) -> None:
    """First to pick up what is not held, then what to do with it, one stage after the other."""
    env, expert = TabletopEnv(task=task, cameras={}), TabletopExpert()
    env.reset(seed=3)
    told = [env.subtask]
    while not env.step(expert(env)).done:
        told.append(env.subtask)
    order = list(dict.fromkeys(told))
    wanted = []
    for part, sentence in zip(stages(env.wanted), subtasks(env.layout), strict=True):
        if part.objects and part.task not in ("lift", "push"):
            wanted.append(f"pick up the {env.layout.objects[part.object].name}")
        wanted.append(sentence)
    # An object that is let go of is, until it lies still, again one to pick up.
    assert order == wanted


def test_wide_pictures_come_in_their_size() -> None:
    env = TabletopEnv(cameras={"front": (20, 30)})
    assert env.reset(seed=0).images["front"].shape == (1, 20, 30, 3)
    assert env.render("front", 40, 60).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"task": "put-in"}, "put_in"),
        ({"task": "singel"}, "single"),
        ({"world": "shift"}, "shifted"),
        ({"embodiment": "frank"}, "franka"),
        ({"cameras": {"fron": 64}}, "front"),
        ({"control": "joints"}, "joint"),
        ({"rate": 7.0}, "multiple"),
        ({"max_ticks": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_answered_with_the_closest(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        TabletopEnv(**arguments)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"task": "lifting"}, "lift"),
        ({"split": "phrasings"}, "phrasing"),
        ({"goals": "x"}, "goal"),
        ({"goal": "put_in:nothing>no bowl"}, "bowl"),
    ],
)
def test_wrong_options_are_answered_with_the_closest(options: dict[str, Any], hint: str) -> None:
    env = TabletopEnv(cameras={})
    with pytest.raises(ValueError, match=hint):
        env.reset(seed=0, options=options)


def test_wrong_actions_and_views_are_refused() -> None:
    env = TabletopEnv(cameras={"front": 16})
    with pytest.raises(ValueError, match="reset"):
        env.step(STILL)
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(8))
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(7, np.nan))
    with pytest.raises(ValueError, match="front"):
        env.observe(["frint"])
    assert env.snapshot() == before


def test_other_rates_move_as_far_in_a_second() -> None:
    ways = []
    for rate in (10.0, 25.0):
        env = TabletopEnv(cameras={}, rate=rate)
        env.reset(seed=0)
        for _ in range(int(rate)):
            env.step(np.array([0.1 / rate, 0.1 / rate, 0.0, 0.0, 0.0, 0.0, 0.0]))
        ways.append(env.scene.hand()[0])
    np.testing.assert_allclose(ways[0], ways[1], atol=5e-3)


def test_closing_forgets_the_models() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=0)
    env.close()
    with pytest.raises(ValueError, match="reset"):
        env.observe()
