from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from types import ModuleType
from typing import get_args

import numpy as np
import pytest

from visuomotor.testing import check_policy


@pytest.fixture(scope="module")
def two_ways(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("two_ways")


@pytest.mark.parametrize("head", ["mse", "mixture", "diffusion", "flow"])
def test_each_head_keeps_the_contract(two_ways: ModuleType, head: str) -> None:
    config = two_ways.HeadsConfig(head=head, width=32, horizon=4)
    check_policy(
        lambda: two_ways.Heads(config, {"one": two_ways.Passing().spec}),
        steps=6000,  # at most; one draw of noise a step teaches diffusion and flow slowly
        compiles=False,
    )


def test_heads_differ_in_their_last_layer_alone(two_ways: ModuleType) -> None:
    spec = two_ways.Passing().spec
    shapes = {}
    for head in get_args(two_ways.Head):
        policy = two_ways.Heads(two_ways.HeadsConfig(head=head), {"one": spec})
        shapes[head] = {name: tuple(weight.shape) for name, weight in policy.named_parameters()}
        shapes[head].pop("leave.weight")
        shapes[head].pop("leave.bias")
    assert all(one == shapes["mse"] for one in shapes.values())


def test_the_expert_passes_on_either_side_and_the_mean_of_both_hits(two_ways: ModuleType) -> None:
    rows = two_ways.demonstrated(40)
    assert all(row["success"] for row in rows)
    left = [two_ways.crossed(row["path"]) for row in rows]
    assert 8 < sum(left) < 32
    env, guide = two_ways.Passing(), two_ways.Guide()
    env.reset(seed=0)
    status = None
    while status is None or not status.done:
        actions = []
        for env.side in (-1.0, 1.0):
            actions.append(guide(env))
        status = env.step(np.mean(actions, axis=0))
    assert status.failure == "hit the obstacle"


def test_a_way_between_two_ticks_is_no_way_through(two_ways: ModuleType) -> None:
    assert two_ways._distance(np.array([-1.0, 0.1]), np.array([1.0, 0.1])) == pytest.approx(0.1)
    assert two_ways._distance(np.array([0.3, 0.4]), np.array([1.0, 0.4])) == pytest.approx(0.5)
    assert two_ways._distance(np.array([0.0, 2.0]), np.array([0.0, 2.0])) == pytest.approx(2.0)


def test_a_line_of_the_table_counts_all_trainings(two_ways: ModuleType) -> None:
    good = {"success": True, "failure": None, "left": True}
    bad = {"success": False, "failure": "hit the obstacle", "left": None}
    line = two_ways.summary("flow", [[good, good], [good, bad]])
    assert (line["success"]["successes"], line["success"]["n"], line["hits"]) == (3, 4, 1)
    assert (line["lowest"], line["highest"], line["left"]["rate"]) == (0.5, 1.0, 1.0)
    never = two_ways.summary("mse", [[bad]])
    assert never["left"] is None
    written = two_ways.table([line, never])
    assert (
        "| `flow` | 3 of 4 | 30.1 to 95.4 % | 50.0 and 100.0 % | 1 | 0 | 100.0 (43.9 to 100.0) |" in written
    )
    assert "| `mse` | 0 of 1 |" in written


def test_the_figure_says_what_it_shows(two_ways: ModuleType) -> None:
    rows = [*two_ways.demonstrated(2), {"success": False, "path": [[-1, 0], [0, 0]]}]
    drawn = ElementTree.fromstring(two_ways.picture({"expert": rows[:2], "m<s>e": rows}))
    assert "m<s>e: 2 of 3 reach the goal." in drawn.attrib["aria-label"]
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 5
