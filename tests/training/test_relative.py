"""A policy of the pi family that is trained on relative joints, from a folder of demonstrations to acting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_arm import SPEC, demonstrations, write

from visuomotor.agent import load_agent, load_policy
from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.testing.samples import random_observation
from visuomotor.training.fitting import normalized_chunks, policy_stats
from visuomotor.training.loop import TrainConfig
from visuomotor.training.run import train_from_folder
from visuomotor.transforms.relative import RELATIVE, RelativeActions

STEPS = TrainConfig(steps=1, batch_size=4, save_every=1, log_every=1, warmup=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "arm", demonstrations(count=2))


def relative(config: Any) -> Any:
    return replace(config, trunk=replace(config.trunk, relative_joints=True))


def test_statistics_are_those_of_relative_actions_and_the_agent_answers_from_where_it_is(
    data: Path, tmp_path: Path
) -> None:
    config = relative(PI0Config.tiny())
    out = tmp_path / "run"
    train_from_folder(data, out=out, policy="pi0", policy_config=config, config=STEPS, cache=tmp_path)
    stats = load_policy(out).stats["arm"]
    reader = LeRobotReader(data)
    spread = stats[RELATIVE].max - stats[RELATIVE].min
    assert (spread[:2] < 0.9 * (reader.stats["action"].max - reader.stats["action"].min)[:2]).all()
    agent = load_agent(out)
    assert isinstance(agent.pipeline.transforms[0], RelativeActions)
    # What the network answers is measured from the state: the same numbers, elsewhere, lead elsewhere.
    seen = random_observation(SPEC, np.random.default_rng(0))
    moved = replace(seen, state=seen.state + np.array([0.25, -0.5, *[0] * 6], np.float32))
    chunk = np.zeros((4, 4), np.float32)
    ways = agent.pipeline.invert(chunk, moved) - agent.pipeline.invert(chunk, seen)
    np.testing.assert_allclose(ways, [[0.25, -0.5, 0, 0]] * 4, atol=1e-6)
    assert np.isfinite(agent.act(seen).actions).all()
    # A promise is in the robot's units, and keeps its place when the state has moved on.
    promised = agent.act(seen).actions[1:3]
    kept = agent.act(moved, prefix=promised, delay=2).actions[:2]
    np.testing.assert_allclose(kept, promised, atol=1e-4)


def test_statistics_of_absolute_actions_are_refused(data: Path) -> None:
    reader = LeRobotReader(data)
    policy = PI0(relative(PI0Config.tiny()), {"arm": reader.spec})
    with pytest.raises(DataError, match="no feature 'relative_action'"):
        policy.transforms("arm", reader.stats)


def test_a_codec_is_fitted_to_relative_chunks(data: Path) -> None:
    reader = LeRobotReader(data)
    policy = PI0FAST(relative(PI0FASTConfig.tiny()), {"arm": reader.spec})
    windows = {"arm": Windows(reader, VideoFrames(reader), policy.window, "arm")}
    stats = {"arm": policy_stats(policy, "arm", reader)}
    chunks = normalized_chunks(policy, windows, stats, None)[..., :2]
    np.testing.assert_allclose([chunks.min((0, 1)), chunks.max((0, 1))], [[-1, -1], [1, 1]], atol=0.1)


def test_a_body_without_joints_is_refused_when_the_policy_is_built(data: Path) -> None:
    spec = LeRobotReader(data).spec
    with pytest.raises(ValueError, match="of kind 'joint', only ee_delta, gripper"):
        PI0(relative(PI0Config.tiny()), {"arm": replace(spec, action=spec.action[2:])})
