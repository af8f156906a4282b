"""From a saved policy to its evaluation: the one place here that needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grid_world import grid_spec

from visuomotor.evaluation.runner import FIRST_SEED, evaluate
from visuomotor.types import Stats, Summary


def summary(width: int) -> Summary:
    flat = np.zeros(width)
    return Summary(mean=flat, std=flat + 1, min=flat - 2, max=flat + 2, q01=flat - 2, q99=flat + 2, count=100)


def save(folder: Path, lengths: tuple[int, ...] = (12,)) -> Path:
    """A policy for a data set a length of episodes; the first is called "grid"."""
    import torch

    from visuomotor.agent import save_agent
    from visuomotor.policies.compact import Compact, CompactConfig

    torch.manual_seed(0)
    keys = {f"grid{number or ''}": length for number, length in enumerate(lengths)}
    policy = Compact(CompactConfig.tiny(), dict.fromkeys(keys, grid_spec(camera=16)))
    figures = {"state": summary(3), "action": summary(3)}
    stats = {key: Stats(source=key, features=figures) for key in keys}
    data: dict[str, Any] = {
        key: {
            "hash": "00",
            "seeds": [1, 2, FIRST_SEED + 700],
            "env": "grid_world:GridWorld",
            "collect": {"env_options": {"camera": 16, "max_ticks": length}},
            "kept": 2,
            "dropped": 0,
        }
        for key, length in keys.items()
    }
    return save_agent(folder, policy, stats, data=data, instruction="walk to the red")


def test_a_checkpoint_is_evaluated_alike_here_and_in_workers(tmp_path: Path) -> None:
    folder = save(tmp_path / "policy")
    options: dict[str, Any] = {"episodes": 3, "probes": ("blank",), "probe_episodes": 2}
    here = evaluate(folder, **options, workers=0)
    there = evaluate(folder, **options, workers=1)
    assert here.origin is not None
    assert (here.origin.family, here.origin.text) == ("compact", "scratch")
    assert here.setup.env == "grid_world:GridWorld"
    assert len(here.trials) == 5
    for one, other in zip(here.trials, there.trials, strict=True):
        assert one.episode.same_as(other.episode)
    assert 0 < here.inference.median < 1000
    with pytest.raises(ValueError, match=r"1 of the 3 evaluation seeds, beginning with 1000000700"):
        evaluate(folder, **options, seed_offset=699)


def test_a_checkpoint_of_several_data_sets_acts_in_the_world_of_the_one_that_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "policy", lengths=(12, 9))
    found = evaluate(folder, episodes=1, probes=(), workers=0, key="grid1")
    assert (found.setup.key, dict(found.setup.env_options)) == ("grid1", {"camera": 16, "max_ticks": 9})
    with pytest.raises(ValueError, match="pass key=, one of grid, grid1"):
        evaluate(folder, episodes=1, probes=(), workers=0)
    with pytest.raises(ValueError, match="unknown data-set key 'gird'"):
        evaluate(folder, episodes=1, probes=(), workers=0, key="gird")
    with pytest.raises(ValueError, match="key 'grid' is for checkpoints"):
        evaluate("random", env="grid_world:GridWorld", episodes=1, probes=(), workers=0, key="grid")
