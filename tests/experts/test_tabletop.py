"""The expert solves what it is asked, from the start and from wherever a policy led it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.goals import meaning, stages
from visuomotor.envs.tabletop.sentences import plain
from visuomotor.envs.tabletop.tasks import playable
from visuomotor.experts.base import Expert
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.registry import lookup

Change = Callable[[int, np.ndarray], np.ndarray]


def solve(env: TabletopEnv, seed: int, change: Change | None = None) -> tuple[bool, int]:
    """Success and ticks of one episode; `change` replaces actions by what is really done."""
    expert = TabletopExpert()
    env.reset(seed=seed)
    for tick in range(env.max_ticks):
        action = expert(env)
        status = env.step(action if change is None else change(tick, action))
        if status.done:
            return status.success, tick + 1
    return False, env.max_ticks


def random_middle(seed: int) -> Change:
    """Random actions for 10 to 25 ticks somewhere in the first three seconds."""
    generator = np.random.default_rng([seed, 1])
    start, length = int(generator.integers(0, 28)), int(generator.integers(10, 26))
    limit = np.array([0.06] * 3 + [0.3] * 3)
    grip = 0.0

    def change(tick: int, action: np.ndarray) -> np.ndarray:
        nonlocal grip
        if not start <= tick < start + length:
            return action
        if generator.random() < 0.25:
            grip = float(generator.random() < 0.5)
        return np.append(generator.uniform(-limit, limit), grip)

    return change


def noisy(seed: int) -> Change:
    """Noise on every tick and now and then a push of several centimeters."""
    generator = np.random.default_rng([seed, 2])
    push = np.zeros(3)

    def change(tick: int, action: np.ndarray) -> np.ndarray:
        nonlocal push
        if generator.random() < 0.05:
            push = generator.normal(0, 0.03, 3)
        noise = np.concatenate([generator.normal(0, 0.005, 3) + push, generator.normal(0, 0.03, 3), [0.0]])
        push = 0.6 * push
        return action + noise

    return change


@pytest.mark.parametrize(("task", "seeds", "longest"), [("put_in", 60, 30), ("lift", 30, 22)])
def test_expert_solves_98_of_100_from_the_start(task: str, seeds: int, longest: int) -> None:
    env = TabletopEnv(task=task, cameras={})
    results = [solve(env, seed) for seed in range(seeds)]
    assert sum(success for success, _ in results) >= 0.98 * seeds
    assert np.mean([ticks for _, ticks in results]) < longest


@pytest.mark.parametrize("disturb", [random_middle, noisy])
def test_expert_solves_95_of_100_when_disturbed(disturb: Callable[[int], Change]) -> None:
    env = TabletopEnv(cameras={}, max_ticks=150)
    solved = sum(solve(env, seed, disturb(seed))[0] for seed in range(40))
    assert solved >= 38


@pytest.mark.parametrize("task", playable(1))
def test_expert_solves_every_task_from_the_start(task: str) -> None:
    env = TabletopEnv(task=task, cameras={})
    assert sum(solve(env, seed)[0] for seed in range(6)) == 6


@pytest.mark.parametrize("task", [task for task in playable(1) if task not in ("lift", "put_in")])
def test_expert_solves_every_task_when_disturbed(task: str) -> None:
    env, expert = TabletopEnv(task=task, cameras={}), TabletopExpert()
    env.reset(seed=0)
    env = TabletopEnv(task=task, cameras={}, max_ticks=env.max_ticks + 50)
    failed, seed = 0, 0
    for disturb in (random_middle, noisy) * 3:
        spoiled = True
        while spoiled:  # the next seed, if random actions themselves ended the episode, as at a fence
            change, done, tick = disturb(seed), False, 0
            env.reset(seed=seed)
            seed += 1
            while not done:
                action = expert(env)
                given = change(tick, action)
                status = env.step(given)
                done, tick = status.done, tick + 1
            random = disturb is random_middle and not np.array_equal(given, action)
            spoiled = not status.success and random and status.failure != "out of time"
        failed += not status.success
    assert failed <= 1


def test_expert_works_in_joint_control() -> None:
    env = TabletopEnv(cameras={}, control="joint")
    assert sum(solve(env, seed)[0] for seed in range(10)) >= 9


@pytest.mark.parametrize("split", ["positions", "pairs"])
def test_expert_works_in_held_out_scenes(split: str) -> None:
    env, expert = TabletopEnv(cameras={}), TabletopExpert()
    solved = 0
    for seed in range(10):
        env.reset(seed=seed, options={"split": split})
        while not (status := env.step(expert(env))).done:
            pass
        solved += status.success
    assert solved >= 9


def test_expert_knows_a_grasp_for_every_way_an_object_may_lie() -> None:
    """Set down on edges and corners by force; it must at least have an answer."""
    env, expert = TabletopEnv(cameras={}), TabletopExpert()
    generator = np.random.default_rng(0)
    for seed in range(12):
        env.reset(seed=seed)
        data, model = env.scene.data, env.scene.model
        body = int(np.argmin(np.linalg.norm(data.xpos - env.scene.place(env.wanted.object), axis=1)))
        start = model.jnt_qposadr[model.body_jntadr[body]]
        for quat in (
            [0.924, 0.383, 0, 0],
            [0.924, 0, 0.383, 0],
            [0.88, 0.33, 0.33, 0],
            generator.normal(size=4),
        ):
            data.qpos[start + 3 : start + 7] = np.array(quat) / np.linalg.norm(quat)
            env.step(np.zeros(7))
            assert np.isfinite(expert(env)).all()


@pytest.mark.parametrize("task", playable(1))
def test_expert_is_a_function_of_the_state_and_changes_nothing(task: str) -> None:
    env, other = TabletopEnv(task=task, cameras={}), TabletopEnv(task=task, cameras={})
    env.reset(seed=1)
    expert = TabletopExpert()
    for _ in range(20):
        before = env.snapshot()
        action = expert(env)
        assert env.snapshot() == before
        other.restore(before)
        np.testing.assert_array_equal(TabletopExpert()(other), action)
        env.step(action)


@pytest.mark.parametrize("task", ["put_in_drawer", "put_two", "clear"])
def test_subtasks_come_in_the_order_of_the_stages(task: str) -> None:
    env, expert = TabletopEnv(task=task, cameras={}), TabletopExpert()
    env.reset(seed=2)
    said: list[str] = []
    done = False
    while not done:
        if not said or env.subtask != said[-1]:
            said.append(env.subtask)
        done = env.step(expert(env)).done
    expected = []
    for part in stages(env.wanted):
        if part.objects:
            expected.append(f"pick up the {env.layout.objects[part.object].name}")
        expected.append(plain(part.task, meaning(env.layout, part)))
    assert [text for text in dict.fromkeys(said) if text in expected] == expected
    assert set(said) == set(expected)


def test_actions_stay_within_the_limits_of_the_spec() -> None:
    for control in ("ee_delta", "joint"):
        env = TabletopEnv(cameras={}, control=control)  # type: ignore[arg-type]
        env.reset(seed=3)
        low, high = np.array([[d.low, d.high] for d in env.spec.action]).T
        for _ in range(25):
            action = TabletopExpert()(env)
            assert action.dtype == np.float32
            assert np.all(action >= low - 1e-6)
            assert np.all(action <= high + 1e-6)
            env.step(action)


def grab(env: TabletopEnv, goal: str, seed: int) -> None:
    """Let the expert take the object of `goal` into the air, while another goal is asked for."""
    doer: Any = TabletopEnv(cameras={})
    doer.reset(seed=seed, options={"goal": goal})
    while doer.scene.place(doer.wanted.object)[2] < 0.08:
        action = TabletopExpert()(doer)
        doer.step(action)
        env.step(action)


def test_expert_puts_the_wrong_object_away_and_takes_the_right_one() -> None:
    solved = 0
    for seed in range(6):
        env = TabletopEnv(cameras={})
        env.reset(seed=seed)
        thing = env.goal.split(">")[0]
        other = next(name for name in env.goals() if not name.startswith(thing))
        grab(env, other, seed)
        status = env.step(TabletopExpert()(env))
        while not status.done:
            status = env.step(TabletopExpert()(env))
        solved += status.success
    assert solved >= 5


def test_expert_turns_round_on_the_way_to_the_wrong_bowl() -> None:
    solved = 0
    for seed in range(6):
        env = TabletopEnv(cameras={})
        env.reset(seed=seed)
        thing = env.goal.split(">")[0]
        other = next(name for name in env.goals() if name.startswith(thing) and name != env.goal)
        grab(env, other, seed)
        status = env.step(TabletopExpert()(env))
        while not status.done:
            status = env.step(TabletopExpert()(env))
        solved += status.success
    assert solved >= 5


def test_expert_opens_fingers_that_closed_beside_the_object() -> None:
    env, expert = TabletopEnv(cameras={}), TabletopExpert()
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.array([0.0, 0.0, -0.02, 0.0, 0.0, 0.0, 1.0]))
    assert expert(env)[-1] == 0.0
    while not (status := env.step(expert(env))).done:
        pass
    assert status.success


def test_registry_finds_the_expert() -> None:
    assert isinstance(lookup("expert", "tabletop")(), Expert)
