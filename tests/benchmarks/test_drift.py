from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

LENGTHS = [8, 16, 32, 64, 128]


@pytest.fixture(scope="module")
def drift(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("drift")


def drive(
    drift: ModuleType, error: float, *, every: int, recovers: bool, episodes: int
) -> list[dict[str, Any]]:
    """Episodes of a driver who errs at each look with `error`; the rest of a chunk keeps to it."""
    rows, generator = [], np.random.default_rng(0)
    env, driver = drift.Track(ticks=128), drift.Driver()
    for seed in range(episodes):
        env.reset(seed=seed)
        for tick in range(128):
            if tick % every == 0:
                wrong = generator.random() < error
            action = driver(env)
            if env.off and not recovers:
                action = np.array([1.0, -1.0], np.float32)
            elif wrong and not env.off:
                action = -action
            status = env.step(action)
        rows.append(dict(status.facts))
    return rows


def test_the_expert_costs_nothing_and_is_back_after_one_tick(drift: ModuleType) -> None:
    env, driver = drift.Track(ticks=40), drift.Driver()
    env.reset(seed=3)
    for tick in range(40):
        action = driver(env)
        status = env.step(-action if tick == 20 else action)
        assert env.off == (tick == 20)
    assert (status.facts, status.success, status.failure) == (
        {"costs": [20], "errors": [20]},
        False,
        "left the track",
    )
    env.reset(seed=3)
    for _ in range(40):
        status = env.step(driver(env))
    assert status.success
    assert status.progress == 1.0


def test_a_snapshot_brings_an_episode_back(drift: ModuleType) -> None:
    env, driver = drift.Track(ticks=20), drift.Driver()
    env.reset(seed=1)
    for _ in range(9):
        env.step(driver(env))
    before, seen = env.snapshot(), env.observe().state
    for _ in range(5):
        env.step(-driver(env))
    env.restore(before)
    assert np.array_equal(env.observe().state, seen)
    assert not env.off


@pytest.mark.parametrize(("every", "recovers", "power"), [(1, False, 2), (8, False, 2), (1, True, 1)])
def test_costs_of_a_driver_whose_errors_are_known_are_the_exact_ones(
    drift: ModuleType, every: int, recovers: bool, power: int
) -> None:
    error = 0.004 * every
    episodes = drive(drift, error, every=every, recovers=recovers, episodes=600)
    learner = drift.Learner("x", every, 4 if recovers else 1)
    line = drift.summary(learner, episodes, LENGTHS, draws=200)
    assert line["error"]["low"] <= error * (1 + 1e-9)
    assert line["error"]["high"] >= error * (1 - 1e-9)
    for low, cost, high, bound in zip(line["low"], line["cost"], line["high"], line["bound"], strict=True):
        assert low <= cost <= min(high, bound * 1.01)
    found = drift.exact(error, 128, every=every, recovers=recovers)
    assert line["cost"][-1] == pytest.approx(found, rel=0.15)
    expected = np.log(drift.exact(error, 128, every=every, recovers=recovers))
    expected = (expected - np.log(drift.exact(error, 8, every=every, recovers=recovers))) / np.log(16)
    assert line["slope"][0] == pytest.approx(expected, abs=0.25)
    assert abs(line["slope"][0] - power) < 0.45


def test_exact_costs_of_few_ticks_are_those_by_hand(drift: ModuleType) -> None:
    assert drift.exact(0.5, 3) == pytest.approx(0.5 + 0.75 + 0.875)
    assert drift.exact(0.5, 4, every=2) == pytest.approx(0.5 + 0.5 + 0.75 + 0.75)
    assert drift.exact(0.5, 3, recovers=True) == pytest.approx(0.5 + 0.25 + 0.375)


def test_an_error_counts_where_the_expert_goes_until_the_first(drift: ModuleType) -> None:
    episodes = [{"errors": [9, 10, 11], "costs": []}, {"errors": [], "costs": []}]
    single = drift.error_where_the_expert_goes(episodes, 16, 1)
    assert (single["successes"], single["n"]) == (1, 10 + 16)
    chunks = drift.error_where_the_expert_goes(episodes, 16, 8)
    assert (chunks["successes"], chunks["n"]) == (1, 2 + 2)
    own = drift.error_where_the_learner_goes(episodes, 16)
    assert (own["successes"], own["n"]) == (3, 32)


def test_a_slope_is_the_power_and_unknown_without_cost(drift: ModuleType) -> None:
    lengths = np.array(LENGTHS, np.float64)
    assert drift.slope(np.stack([lengths**2, 3 * lengths**2]), LENGTHS) == pytest.approx(2)
    assert np.isnan(drift.slope(np.zeros((2, 5)), LENGTHS))


def test_a_small_measurement_goes_through_and_goes_on(
    drift: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = (drift.Learner("bc, chunks", 8, 1), drift.Learner("dagger", 1, 2))
    monkeypatch.setattr(drift, "LEARNERS", learners)
    words = ["--out", str(tmp_path), "--seeds", "1", "--episodes", "2", "--lengths", "4", "8"]
    words += ["--demonstrations", "8", "--train-ticks", "12", "--steps", "4"]
    arguments = drift.parser().parse_args(words)
    first = drift.measure(arguments, say=lambda text: None)
    assert [line["learner"] for line in first["learners"]] == ["bc, chunks", "dagger"]
    assert drift.measure(arguments, say=lambda text: None) == first
    assert "| `dagger` |" in (tmp_path / "drift.md").read_text()
    drawn = ElementTree.fromstring((tmp_path / "drift.svg").read_text())
    assert "slope" in drawn.attrib["aria-label"]
