"""Statistics of openpi's checkpoints are read strictly, and fit the body or are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_arm import SPEC

from visuomotor.agent.golden import example_observation
from visuomotor.errors import CheckpointError, UnknownNameError
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.policies.released.openpi import released_stats
from visuomotor.transforms.relative import RELATIVE
from visuomotor.types import Window

TINY = PI0Config.tiny()
POLICY = PI0(replace(TINY, trunk=replace(TINY.trunk, relative_joints=True)), {"arm": SPEC})


def figures(width: int, **changes: Any) -> dict[str, Any]:
    row = np.arange(1, width + 1) / 10
    told = {"mean": row, "std": row / 2, "q01": row - 1, "q99": row + 1}
    return {name: values.tolist() for name, values in told.items()} | changes


def write(folder: Path, state: Any, actions: Any, *, robot: str = "lab/arm", **more: Any) -> Path:
    place = folder / robot
    place.mkdir(parents=True, exist_ok=True)
    told = {"norm_stats": {"state": state, "actions": actions}, **more}
    (place / "norm_stats.json").write_text(json.dumps(told))
    return folder


def test_every_number_has_its_place_and_relative_actions_their_name(tmp_path: Path) -> None:
    stats = released_stats(write(tmp_path, figures(8), figures(4)), "lab/arm", POLICY, "arm")
    assert set(stats.features) == {"state", RELATIVE}
    np.testing.assert_allclose(stats["state"].mean, np.arange(1, 9) / 10)
    np.testing.assert_allclose(stats[RELATIVE].std, np.arange(1, 5) / 20)
    np.testing.assert_allclose(stats[RELATIVE].q99 - stats[RELATIVE].q01, 2)
    assert np.isnan(stats["state"].min).all()  # it does not say
    absolute = released_stats(tmp_path, "lab/arm", PI0(TINY, {"arm": SPEC}), "arm")
    assert set(absolute.features) == {"state", "action"}


def test_padding_is_cut_away_and_nothing_else(tmp_path: Path) -> None:
    padded = {name: [*row, *[0.0] * 28] for name, row in figures(4).items()}
    padded["q01"][4:] = [-1e-10] * 28
    stats = released_stats(write(tmp_path, figures(8), padded), "lab/arm", POLICY, "arm")
    assert stats[RELATIVE].mean.shape == (4,)
    with pytest.raises(CheckpointError, match=r"5 numbers, the body has 4 \(shoulder, .*number 4 is no pad"):
        released_stats(write(tmp_path, figures(8), figures(5)), "lab/arm", POLICY, "arm")
    with pytest.raises(CheckpointError, match=r"none for heading, gripper\. Choose the robot's own"):
        released_stats(write(tmp_path, figures(6), figures(4)), "lab/arm", POLICY, "arm")


def test_what_is_missing_unknown_or_no_number_is_named(tmp_path: Path) -> None:
    def refused(match: str, state: Any = None, actions: Any = None, **more: Any) -> None:
        place = write(tmp_path, figures(8) if state is None else state, actions or figures(4), **more)
        with pytest.raises(CheckpointError, match=match):
            released_stats(place, "lab/arm", POLICY, "arm")

    refused(
        "missing: mean, unknown: middle",
        {**{k: v for k, v in figures(8).items() if k != "mean"}, "middle": []},
    )
    refused("norm_stats.json: expected norm_stats; missing: none, unknown: version", version=2)
    refused("expected an object with mean, std, q01, q99, got 3", 3)
    refused("std: expected a row of finite numbers", figures(8, std=[float("nan")] * 8))
    refused("mean: expected numbers, got 'abc'", figures(8, mean="abc"))
    refused("expected rows of one length", figures(8, std=[1.0] * 7))
    refused("q01 below q99", figures(8, q01=[9.0] * 8))
    (tmp_path / "lab" / "arm" / "norm_stats.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        released_stats(tmp_path, "lab/arm", POLICY, "arm")


def test_an_unknown_robot_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Expected the folder `assets`"):
        released_stats(tmp_path, "droid", POLICY, "arm")
    write(tmp_path, figures(8), figures(4))
    with pytest.raises(UnknownNameError, match="Did you mean 'lab/arm'"):
        released_stats(tmp_path, "arm", POLICY, "arm")
    with pytest.raises(UnknownNameError, match="Did you mean 'arm'"):
        released_stats(tmp_path, "lab/arm", POLICY, "arms")


def test_an_example_can_be_made_of_statistics_without_quantiles(tmp_path: Path) -> None:
    state = figures(8, q01=None, q99=None)
    stats = released_stats(write(tmp_path, state, figures(4)), "lab/arm", POLICY, "arm")
    seen = example_observation(SPEC, stats, Window(horizon=1), "take the cup")
    away = np.abs(seen.state[0] - stats["state"].mean) / stats["state"].std
    assert np.isfinite(seen.state).all()
    assert (away <= 1 + 1e-5).all()
