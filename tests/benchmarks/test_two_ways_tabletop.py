from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.experts.tabletop import TabletopExpert


@pytest.fixture(scope="module")
def tabletop(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("two_ways_tabletop")


def test_arms_have_one_budget_and_one_exam(tabletop: ModuleType) -> None:
    arguments = tabletop.parser().parse_args(["--steps", "7", "--episodes", "9"])
    arms = [tabletop.arm(name, arguments) for name in tabletop.ARMS]
    assert [arm.name for arm in arms] == ["bc-mse", "bc-mixture", "compact", "diffusion"]
    assert {(arm.recipe.training.steps, arm.recipe.evaluation.episodes) for arm in arms} == {(7, 9)}


def test_the_expert_passes_the_fence_on_both_sides(tabletop: ModuleType) -> None:
    env, expert, sides = TabletopEnv(task="pass_obstacle", cameras={}), TabletopExpert(), set()
    for seed in range(4):
        trail, status = tabletop.Trail(), None
        env.reset(seed=seed)
        trail(env, 0, None)
        while status is None or not status.done:
            status = env.step(expert(env))
            trail(env, 1, status)
        sides.add(tabletop.side(trail.places))
    env.close()
    assert sides == {"left", "right"}


def test_a_line_tells_sides_and_failures(tabletop: ModuleType) -> None:
    trials = [{"success": True, "failure": None}, {"success": False, "failure": "hit the fence"}]
    shown = [
        {"success": True, "path": [(-0.2, 0.0), (0.01, 0.15)]},
        {"success": False, "path": [(-0.2, 0.0), (-0.05, 0.0)]},
    ]
    line = tabletop.summary("flow", trials, shown)
    assert (line["left"], line["right"], line["shown"], line["fence"]["successes"]) == (1, 0, 2, 1)
    written = tabletop.table([line])
    assert "| `flow` | 1 of 2 (9 to 91 %) | 1 of 2 (9 to 91 %) | 1 hit the fence | 1, 0, 1 |" in written
    assert "flow: 1 of 2 succeed." in tabletop.picture({"flow": shown})
