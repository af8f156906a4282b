"""pi0.5 as published: tokens and texts of several bodies first, then the flow of one, as two commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from visuomotor.agent import load_agent
from visuomotor.agent.base import Agent
from visuomotor.cli import main
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.recorder import Recorder
from visuomotor.training.log import read_log
from visuomotor.types import Camera, Dimension, Observation, Spec

WIDE = Spec(
    embodiment="wide",
    cameras=(Camera(name="front", height=16, width=16),),
    state=(Dimension(name="shoulder"), Dimension(name="elbow")),
    action=(Dimension(name="shoulder"), Dimension(name="elbow")),
    rate=10.0,
)
NARROW = replace(WIDE, embodiment="narrow", state=WIDE.state[:1], action=WIDE.action[:1])
ASKING = dict.fromkeys(("question", "answer", "camera"), "string")
FLOW = ("expert.", "condition.", "enter.", "leave.")


def record(folder: Path, spec: Spec) -> Path:
    """Episodes with a subtask at each tick, and a question at every other one."""
    generator = np.random.default_rng(len(spec.action))
    with Recorder(spec, folder, subtasks=True, columns=ASKING) as recorder:
        for episode in range(4):
            for tick in range(8):
                numbers = generator.normal(size=(2, len(spec.action))).astype(np.float32)
                seen = Observation(
                    images={"front": np.full((1, 16, 16, 3), 60 + 40 * episode, np.uint8)},
                    state=numbers[:1],
                    instruction="go there",
                    embodiment=spec.embodiment,
                )
                asked = {"question": "how bright is it", "answer": ("dark", "bright")[episode % 2]}
                told = {**asked, "camera": "front"} if tick % 2 else dict.fromkeys(ASKING, "")
                recorder.tick(seen, numbers[1], subtask=("reach", "rest")[tick // 4], extra=told)
            recorder.end_episode(seed=episode)
    return folder


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return dict(agent.policy.named_parameters())


def example(folder: Path, agent: Agent) -> Observation:
    """The first tick of a data set."""
    reader = LeRobotReader(folder)
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    state = np.zeros((1, len(reader.spec.state)), np.float32)
    return Observation(
        images={"front": pixels}, state=state, instruction="go there", embodiment=agent.spec.embodiment
    )


def test_tokens_of_two_bodies_first_and_then_the_flow_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wide, narrow = record(tmp_path / "wide", WIDE), record(tmp_path / "narrow", NARROW)
    broad, final = tmp_path / "broad", tmp_path / "final"
    words = ["train", str(wide), str(narrow), "--recipe", "small_phases:pretrain", "--out", str(broad)]
    words += ["--questions", "wide", "narrow", "--training.weights", "wide/questions", "0.5"]
    assert main(words) == 0, capsys.readouterr().err
    assert all({"token", "text"} <= set(line["terms"]) for line in read_log(broad))
    assert all("flow" not in line["terms"] for line in read_log(broad))
    first = load_agent(broad, key="narrow")
    assert first.policy.config.trunk.text == ("bright", "dark", "reach", "rest")
    frozen = {name for name, weight in weights(first).items() if not weight.requires_grad}
    assert frozen == {name for name in weights(first) if name.startswith(FLOW)}
    chunk = first.act(example(narrow, first))
    assert chunk.failure is None
    assert chunk.actions.shape == (4, 1)

    words = [
        "train",
        str(wide),
        "--recipe",
        "small_phases:post_train",
        "--from",
        str(broad),
        "--out",
        str(final),
    ]
    assert main(words) == 0, capsys.readouterr().err
    assert "weights taken" in capsys.readouterr().out
    assert all(line["terms"]["flow"] > 0 and line["terms"]["token"] > 0 for line in read_log(final))
    second = load_agent(final)
    assert second.policy.config.codec == first.policy.config.codec
    assert second.policy.config.trunk.text == first.policy.config.trunk.text
    before, after = weights(first), weights(second)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {"expert.layers.0.query.weight", "leave.weight", "trunk.decoder.layers.0.query.weight"} <= moved
    assert second.provenance["from"]["data"].keys() >= {"wide", "narrow", "wide/questions"}
