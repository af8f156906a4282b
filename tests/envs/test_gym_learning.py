"""Families learn from demonstrations in a Gymnasium environment without cameras, and act in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gym_point import make_point

from visuomotor.agent import load_agent
from visuomotor.executors import RecedingHorizon
from visuomotor.experts.collect import collect
from visuomotor.experts.disturbance import Noise
from visuomotor.perception.language import LanguageConfig
from visuomotor.policies.act import ACTConfig
from visuomotor.policies.bc import BCConfig
from visuomotor.policies.diffusion import DiffusionConfig
from visuomotor.rollout import rollout
from visuomotor.session import Session
from visuomotor.training.config import TrainConfig
from visuomotor.training.run import train_from_folder

ALONE: dict[str, Any] = {"vision": "none", "language": LanguageConfig.none()}
FAMILIES = {
    "bc": replace(BCConfig.tiny(), **ALONE),
    "act": replace(ACTConfig.tiny(), guess=0.0, **ALONE),
    "diffusion": replace(DiffusionConfig.tiny(), guess=0.0, draws=2, **ALONE),
}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gym") / "point"
    report = collect(
        folder,
        env="gym_point:make_point",
        expert="gym_point:PointExpert",
        task="go to the goal",
        episodes=24,
        phrasings=1,
        noise=Noise(),
        workers=0,
    )
    assert report.kept == 24
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_to_reach_the_goal(family: str, demonstrations: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=120, batch_size=32, learning_rate=5e-3, warmup=10, ema_decay=0.9)
    train_from_folder(
        demonstrations,
        out=tmp_path / "run",
        policy=family,
        policy_config=FAMILIES[family],
        config=config,
        cache=tmp_path / "cache",
    )
    env, agent = make_point(task="go to the goal"), load_agent(tmp_path / "run")
    session = Session(agent, RecedingHorizon(2))
    episodes = [rollout(env, session, seed=10_000 + seed) for seed in range(10)]
    # Somebody who does not look reaches 1 of 10; these reach at least 7.
    assert sum(episode.success for episode in episodes) >= 6
