"""The expert with two hands: alone where one reaches, through the middle where none does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.data.reader import LeRobotReader
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.experts.collect import collect
from visuomotor.experts.tabletop import TabletopExpert

BODY = "aloha2arm"
Change = Callable[[int, np.ndarray], np.ndarray]


def solve(env: TabletopEnv, seed: int, change: Change = lambda _, action: action) -> tuple[bool, bool]:
    """Success, and whether links of the two arms ever touched."""
    expert, tick, met = TabletopExpert(), 0, False
    env.reset(seed=seed)
    model, data = env.scene.model, env.scene.data
    names = [model.body(number).name.split("_")[0] for number in range(model.nbody)]
    while True:
        status = env.step(change(tick, expert(env)))
        pairs = model.geom_bodyid[data.contact.geom] if data.ncon else np.empty((0, 2), int)
        met = met or any({names[one], names[other]} == {"left", "right"} for one, other in pairs)
        tick += 1
        if status.done:
            return status.success, met


def random_middle(env: TabletopEnv, seed: int) -> Change:
    """Random actions of both hands for 10 to 25 ticks somewhere in the first three seconds."""
    generator = np.random.default_rng([seed, 1])
    start, length = int(generator.integers(0, 28)), int(generator.integers(10, 26))
    limit, grips = np.tile([0.06] * 3 + [0.3] * 3, (2, 1)), np.zeros(2)

    def change(tick: int, action: np.ndarray) -> np.ndarray:
        if not start <= tick < start + length:
            return action
        for hand in (0, 1):
            if generator.random() < 0.25:
                grips[hand] = float(generator.random() < 0.5)
        return np.column_stack([generator.uniform(-limit, limit), grips]).ravel()

    return change


@pytest.mark.parametrize("task", ["lift", "put_in", "hand_over"])
def test_expert_solves_every_task_from_the_start_and_arms_never_touch(task: str) -> None:
    env = TabletopEnv(BODY, task=task, cameras={}, rate=10)
    assert [solve(env, seed) for seed in range(10)] == [(True, False)] * 10


@pytest.mark.parametrize("task", ["put_in", "hand_over"])
def test_expert_solves_95_of_100_when_disturbed(task: str) -> None:
    env = TabletopEnv(BODY, task=task, cameras={}, rate=10, max_ticks=200)
    assert sum(solve(env, seed, random_middle(env, seed))[0] for seed in range(20)) >= 19


@pytest.mark.parametrize(("rate", "control"), [(50, "ee_delta"), (25, "joint")])
def test_expert_works_at_other_rates_and_in_joint_control(rate: float, control: str) -> None:
    env = TabletopEnv(BODY, task="hand_over", cameras={}, rate=rate, control=control)  # type: ignore[arg-type]
    assert [solve(env, seed)[0] for seed in (0, 3, 5)] == [True] * 3


@pytest.mark.parametrize("task", ["put_in", "hand_over"])
def test_expert_is_a_function_of_the_state_and_changes_nothing(task: str) -> None:
    env, other = (TabletopEnv(BODY, task=task, cameras={}, rate=10) for _ in range(2))
    env.reset(seed=1)
    for _ in range(15):
        before = env.snapshot()
        action = TabletopExpert()(env)
        assert env.snapshot() == before
        other.restore(before)
        np.testing.assert_array_equal(TabletopExpert()(other), action)
        assert action.dtype == np.float32
        env.step(action)


def test_demonstrations_are_collected_with_noise(tmp_path) -> None:
    options = {"embodiment": BODY, "rate": 10, "cameras": {"front": 24, "left_wrist": 16, "right_wrist": 16}}
    report = collect(tmp_path / "data", task="hand_over", episodes=2, workers=0, env_options=options)
    assert report.kept == 2
    spec = LeRobotReader(tmp_path / "data").spec
    assert spec.embodiment == BODY
    assert len(spec.action) == 14
    assert [camera.mount for camera in spec.cameras] == ["base", "left_hand", "right_hand"]
