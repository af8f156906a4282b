"""docs/released.md is run as it stands, with a checkpoint of the released layout whose weights are small."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from byte_tokenizer import save_byte_tokenizer
from openpi_tree import HIDDEN, NARROW, tree

from visuomotor.agent import PolicyAgent, load_agent, load_policy
from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.cli import main
from visuomotor.data.collate import collate
from visuomotor.policies.pi0 import PI0Config
from visuomotor.policies.pi05 import PI05Config
from visuomotor.testing.samples import random_observation
from visuomotor.transforms.relative import RELATIVE
from visuomotor.types import Observation, Sample

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "released.md").read_text()
MAKING, ACTING, RELATIVELY, ALOHA = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(CONVERTING,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
SIZES = PaliGemmaConfig.tiny(300)


def published(config: Any, tokenizer: str) -> Any:
    """The published config with the sizes of the synthetic trees."""
    trunk = replace(config.trunk, paligemma=SIZES, tokenizer=tokenizer)
    return replace(config, trunk=trunk, expert_width=NARROW, expert_mlp_width=HIDDEN)


def statistics(state: int, actions: int) -> dict[str, Any]:
    """As openpi writes them; the last number of each but the gripper hardly moves."""
    generator, found = np.random.default_rng(1), {}
    for name, width in (("state", state), ("actions", actions)):
        mean, std = generator.normal(size=width), generator.uniform(0.1, 1, width)
        std[-2] = 1e-5
        figures = {"mean": mean, "std": std, "q01": mean - 2 * std, "q99": mean + 2 * std}
        found[name] = {figure: values.tolist() for figure, values in figures.items()}
    return {"norm_stats": found}


@pytest.fixture
def downloaded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Makes the folder of a download, and turns it into ours by the command of the page.

    Only the reading of orbax's own files is not tried: the package is large and needs JAX.
    """
    tokenizer = save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), 300)
    for config in (PI0Config, PI05Config):
        small = published(config.published(), tokenizer)
        monkeypatch.setattr(config, "published", lambda small=small: small)
    monkeypatch.chdir(tmp_path)

    def make(name: str, robot: str, told: dict[str, Any], *, steered: bool) -> None:
        (tmp_path / name / "params").mkdir(parents=True)
        place = tmp_path / name / "assets" / robot
        place.mkdir(parents=True)
        (place / "norm_stats.json").write_text(json.dumps(told))
        orbax: Any = ModuleType("orbax")
        orbax.checkpoint = ModuleType("orbax.checkpoint")
        reader = SimpleNamespace(restore=lambda _: {"params": tree(SIZES, steered=steered)})
        orbax.checkpoint.PyTreeCheckpointer = lambda: reader
        monkeypatch.setitem(sys.modules, "orbax", orbax)
        monkeypatch.setitem(sys.modules, "orbax.checkpoint", orbax.checkpoint)
        python, script, *words = CONVERTING.replace("pi05_droid", name).split()
        assert python == "python"
        monkeypatch.setattr(sys, "argv", [script, *words])
        runpy.run_path(str(ROOT / script), run_name="__main__")

    return make


def raw_chunk(agent: PolicyAgent, seen: Observation, state: np.ndarray, seed: int) -> np.ndarray:
    """What the network answers to a state that is normalized here, and not by the agent."""
    sample = agent.pipeline.apply(Sample.from_observation(seen, agent.key))
    padded: np.ndarray = np.zeros((1, 32), np.float32)
    padded[0, : len(state)] = state
    np.testing.assert_allclose(sample.state, padded, rtol=1e-4, atol=1e-4)
    drawn = int(np.random.default_rng(seed).integers(2**63))
    with torch.no_grad():
        batch = collate([replace(sample, state=padded)], agent.policy.embodiments)
        return agent.policy.act(batch, generator=torch.Generator().manual_seed(drawn)).actions[0].numpy()


def test_the_page_makes_an_agent_of_pi05_that_acts_as_the_released_code_does(
    downloaded: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    told = statistics(8, 8)
    downloaded("pi05_droid", "droid", told, steered=True)
    assert "statistics copied" in capsys.readouterr().out
    generator = np.random.default_rng(0)
    exterior, wrist = generator.integers(0, 256, (2, 180, 320, 3), np.uint8)
    state = np.array(told["norm_stats"]["state"]["mean"], np.float32)
    given: dict[str, Any] = {"exterior": exterior, "wrist": wrist, "state": state}
    exec(MAKING + ACTING, given)
    assert main(["doctor", "pi05_droid_agent"]) == 0
    chunk, agent, seen = given["chunk"], given["agent"], given["seen"]
    assert chunk.actions.shape == (15, 8)
    assert np.isfinite(chunk.actions).all()
    found, figures = agent.act(seen, generator=np.random.default_rng(3)).actions, told["norm_stats"]
    low, high = (np.array(figures["state"][name]) for name in ("q01", "q99"))
    raw = raw_chunk(agent, seen, 2 * (state - low) / (high - low + 1e-6) - 1, 3)
    low, high = (np.array(figures["actions"][name]) for name in ("q01", "q99"))
    np.testing.assert_allclose(found, (raw[:, :8] + 1) / 2 * (high - low + 1e-6) + low, rtol=1e-4, atol=1e-4)


def test_the_page_makes_an_agent_of_pi0_whose_joints_are_relative(downloaded: Callable[..., None]) -> None:
    told = statistics(7, 7)
    downloaded("pi0_base", "ur5e", told, steered=False)
    making = MAKING.partition("with unfilled()")[0]
    exec(making + RELATIVELY, {})
    assert RELATIVE in load_policy("pi0_base_agent").stats["ur5e"].features
    agent = load_agent("pi0_base_agent")
    figures, spec = told["norm_stats"], agent.spec
    state = np.array(figures["state"]["mean"], np.float32)
    state[:2] += (0.3, -0.2)
    seen = replace(random_observation(spec, np.random.default_rng(0)), state=state[None])
    found = agent.act(seen, generator=np.random.default_rng(3)).actions
    mean, std = (np.array(figures["state"][name]) for name in ("mean", "std"))
    raw = raw_chunk(agent, seen, (state - mean) / (std + 1e-6), 3)
    mean, std = (np.array(figures["actions"][name]) for name in ("mean", "std"))
    expected = raw[:, :7] * (std + 1e-6) + mean
    expected[:, :6] += state[:6]  # joints are measured from where the arm is, the gripper is not
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_released_agent_of_another_robot_is_refused(downloaded: Callable[..., None]) -> None:
    downloaded("pi05_droid", "droid", statistics(7, 7), steered=True)
    with pytest.raises(Exception, match="7 numbers, the body has 8: none for gripper"):
        exec(MAKING, {})


def test_the_page_turns_alohas_numbers_and_back() -> None:
    actions = np.random.default_rng(0).normal(size=(50, 14)).astype(np.float32)
    given: dict[str, Any] = {"state": np.zeros(14, np.float32), "actions": actions}
    exec(ALOHA, given)
    np.testing.assert_allclose(given["labels"], actions, atol=1e-6)
    assert given["told"].shape == (14,)
    assert given["commands"].shape == (50, 14)
