"""The expert solves its tasks with every body: the same scenes, smaller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.experts.tabletop import TabletopExpert

BODIES = ("so101", "widowx")
Change = Callable[[np.ndarray], np.ndarray]


def solve(env: TabletopEnv, seed: int, change: Change = lambda action: action) -> bool:
    expert = TabletopExpert()
    env.reset(seed=seed)
    for _ in range(env.max_ticks):
        status = env.step(change(expert(env)))
        if status.done:
            return status.success
    return False


def noisy(env: TabletopEnv, seed: int) -> Change:
    """Random actions for 10 to 25 ticks early on, and noise on every other tick."""
    generator = np.random.default_rng(seed)
    start, length = int(generator.integers(0, 28)), int(generator.integers(10, 26))
    limit = np.array([dimension.high for dimension in env.spec.action[:-1]])
    ticks = 0

    def change(action: np.ndarray) -> np.ndarray:
        nonlocal ticks
        ticks += 1
        if start < ticks <= start + length:
            return np.append(generator.uniform(-limit, limit), float(generator.random() < 0.5))
        noise = generator.normal(0, [0.004 * env.body.scale] * 3 + [0.03] * 3)
        return action + np.append(noise, 0.0)

    return change


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("task", "seeds"), [("put_in", 50), ("lift", 25)])
def test_expert_solves_98_of_100_from_the_start(body: str, task: str, seeds: int) -> None:
    env = TabletopEnv(body, task=task, cameras={})
    assert sum(solve(env, seed) for seed in range(seeds)) >= 0.98 * seeds


@pytest.mark.parametrize("body", BODIES)
def test_expert_solves_95_of_100_when_disturbed(body: str) -> None:
    env = TabletopEnv(body, cameras={}, max_ticks=150)
    assert sum(solve(env, seed, noisy(env, seed)) for seed in range(20)) >= 19


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("rate", "control"), [(5, "joint"), (10, "ee_delta"), (50, "ee_delta")])
def test_expert_works_at_other_rates_and_in_joint_control(body: str, rate: float, control: str) -> None:
    env = TabletopEnv(body, cameras={}, rate=rate, control=control, max_ticks=max(100, 10 * rate))
    assert sum(solve(env, seed) for seed in range(6)) >= 5
