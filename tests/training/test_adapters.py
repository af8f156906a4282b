"""Adapters from the config of a run to a merged checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killable_run import CONFIG, Material

from visuomotor.agent import load_agent, load_policy
from visuomotor.agent.merge import merge_adapters
from visuomotor.agent.weights import named_weights, read_tensors
from visuomotor.data.collate import collate
from visuomotor.errors import CheckpointError
from visuomotor.evaluation.origin import read_origin
from visuomotor.nn.lora import LoRAConfig, adapt, adapted_layers
from visuomotor.policies.base import Policy
from visuomotor.registry import lookup, names
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.testing.sentences import RandomSentenceEncoder
from visuomotor.text.sentences import SentenceCache
from visuomotor.training.begin import begin_from
from visuomotor.training.loop import Progress
from visuomotor.types import Camera, Dimension, Spec

Open = Callable[..., Material]
ADAPTED = replace(CONFIG, steps=8, lora=LoRAConfig(rank=2, targets=("flow", "leave"), full=("see.1",)))


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from killable_run import open_material

    folder = tmp_path_factory.mktemp("adapted") / "run"
    open_material(dataset).train(folder, ADAPTED)
    return folder


def test_only_adapters_and_what_is_named_are_trained(material: Open, run: Path) -> None:
    before = named_weights(material().policy)
    after = read_tensors(run / "checkpoint" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"see.1.weight", "see.1.bias"}
    added = {f"{layer}.lora_{end}" for layer in ("flow", "leave") for end in ("up", "down")}
    assert set(after) - set(before) == added
    assert all(after[name].any() for name in added)
    moments = read_tensors(run / "checkpoint" / "train_state" / "optimizer.safetensors")
    assert {path.partition("/")[2] for path in moments} == added | changed


def test_a_run_with_adapters_resumes_with_equal_bits_and_acts(
    material: Open, run: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise RuntimeError("stopped by the test")

    with pytest.raises(RuntimeError, match="stopped by the test"):
        material().train(tmp_path / "parts", replace(ADAPTED, save_every=1), progress=stop)
    assert material().train(tmp_path / "parts", ADAPTED).resumed_from == 2
    for file in ("config.json", "ema.safetensors", "model.safetensors"):
        one, two = (folder / "checkpoint" / file for folder in (run, tmp_path / "parts"))
        assert one.read_bytes() == two.read_bytes(), file
    agent = load_agent(run)
    assert set(adapted_layers(agent.policy)) == {"flow", "leave"}
    assert read_origin(run).family == "tiny_policy:TinyPolicy"


def test_a_merged_checkpoint_is_plain_and_answers_the_same(run: Path, tmp_path: Path) -> None:
    merged = merge_adapters(run, tmp_path / "plain")
    assert merged.layers == ("flow", "leave")
    assert merged.difference <= 1e-5
    assert "lora" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    for weights in ("model", "ema"):
        plain = load_policy(tmp_path / "plain", weights=weights, thorough=True)
        there = load_policy(run, weights=weights).provenance
        assert not adapted_layers(plain.policy)
        assert plain.provenance["merged"]["weights"] == there["files"]["ema.safetensors"]
        assert plain.provenance["data"] == there["data"]
        one, two = (np.load(folder / "golden.npz") for folder in (run / "checkpoint", tmp_path / "plain"))
        assert np.abs(one[f"0/actions/{weights}"] - two[f"0/actions/{weights}"]).max() <= 1e-5
        assert one["0/observation/instruction"] == two["0/observation/instruction"]
    with pytest.raises(CheckpointError, match="has no adapters"):
        merge_adapters(tmp_path / "plain", tmp_path / "again")
    with pytest.raises(CheckpointError, match="is the checkpoint itself"):
        merge_adapters(run, run / "checkpoint")


def test_training_goes_on_from_merged_weights(material: Open, run: Path, tmp_path: Path) -> None:
    merge_adapters(run, tmp_path / "plain")
    one, two = material().policy, material().policy
    begin_from(one, run)
    begin_from(two, tmp_path / "plain")
    for name, weight in named_weights(one).items():
        assert torch.equal(weight, named_weights(two)[name]), name


def test_other_adapters_than_those_of_the_config_are_refused(material: Open, tmp_path: Path) -> None:
    one = material()
    adapt(one.policy, LoRAConfig(rank=3))
    with pytest.raises(ValueError, match=r"has adapters, but lora\.rank is 0"):
        one.train(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="the policy has other adapters"):
        one.train(tmp_path / "run", ADAPTED)


def test_a_damaged_description_of_adapters_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    from visuomotor.agent.disk import seal

    for described in ({"rank": 2}, {"rank": 2, "alpha": 16.0, "layers": ["flaw"]}):
        place = tmp_path / str(len(described))
        shutil.copytree(run / "checkpoint", place)
        config, told = (json.loads((place / n).read_text()) for n in ("config.json", "provenance.json"))
        (place / "config.json").write_text(json.dumps({**config, "lora": described}))
        (place / "provenance.json").unlink()
        seal(place, {name: value for name, value in told.items() if name != "files"})
        with pytest.raises(CheckpointError, match=r"config\.json: (lora: expected rank|.*no layer 'flaw')"):
            load_policy(place)


def spec() -> Spec:
    return Spec(
        embodiment="arm",
        cameras=(Camera(name="front", height=24, width=32), Camera(name="wrist", height=16, width=16)),
        state=tuple(Dimension(name=f"s{i}") for i in range(3)),
        action=tuple(Dimension(name=f"a{i}", unit="m", kind="ee_delta") for i in range(3)),
        rate=10.0,
    )


@pytest.mark.parametrize("family", names("policy"))
def test_any_family_takes_adapters_without_changing_a_bit(family: str) -> None:
    kind = lookup("policy", family)
    torch.manual_seed(0)
    policy: Policy = kind(kind.Config.tiny(), {"one": spec()}).eval()
    sentences = SentenceCache(RandomSentenceEncoder()) if policy.sentence_encoder else None
    pipeline = policy.transforms("one", random_stats(spec()), sentences)
    samples = [pipeline.apply(random_sample(spec(), policy.window, "one", number)) for number in range(2)]
    batch = collate(samples, policy.embodiments)

    def losses() -> dict[str, float]:
        with torch.no_grad():
            terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
        return {name: float(term.sum) for name, term in terms.items()}

    before = losses()
    adapt(policy, LoRAConfig(rank=2))
    assert losses() == before
