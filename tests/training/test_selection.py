from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killable_run import CONFIG, Material
from torch import nn

from visuomotor.agent.weights import named_weights, read_tensors
from visuomotor.errors import CheckpointError, UnknownNameError
from visuomotor.training.loop import Progress
from visuomotor.training.selection import learning

Open = Callable[..., Material]
FROZEN = replace(CONFIG, freeze=("see", "*.bias"))


def test_frozen_weights_keep_their_bits_and_have_no_moments_and_no_average(
    material: Open, tmp_path: Path
) -> None:
    one = material()
    before = {name: weight.clone() for name, weight in named_weights(one.policy).items()}
    report = one.train(tmp_path / "run", FROZEN)
    frozen = {name for name in before if name.startswith("see.") or name.endswith(".bias")}
    assert 0 < len(frozen) < len(before)
    folder = tmp_path / "run" / "checkpoint"
    for file in ("model.safetensors", "ema.safetensors"):
        after = read_tensors(folder / file)
        assert {name for name in before if torch.equal(before[name], after[name])} == frozen
    moments = read_tensors(folder / "train_state" / "optimizer.safetensors")
    assert {path.partition("/")[2] for path in moments} == set(before) - frozen
    weights = dict(one.policy.named_parameters())
    assert all(weights[name].grad is None for name in frozen)
    assert report.trainable == sum(weights[name].numel() for name in set(weights) - frozen)


def test_a_run_with_frozen_weights_resumes_with_equal_bits(material: Open, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise RuntimeError("stopped by the test")

    material().train(tmp_path / "whole", FROZEN)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        material().train(tmp_path / "parts", replace(FROZEN, save_every=1), progress=stop)
    with pytest.raises(CheckpointError, match=r"train\.freeze: \['see', '\*\.bias'\] there, \[\] here"):
        material().train(tmp_path / "parts", CONFIG)
    assert material().train(tmp_path / "parts", FROZEN).resumed_from == 2
    one, two = (tmp_path / name / "checkpoint" / "ema.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()


def test_a_pattern_without_a_match_is_refused_before_anything_is_written(
    material: Open, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match=r"weights to freeze: the pattern 'sea' .* names are .*'see'"):
        material().train(tmp_path / "run", replace(CONFIG, freeze=("sea",)))
    with pytest.raises(ValueError, match="all weights of TinyPolicy are frozen"):
        material().train(tmp_path / "run", replace(CONFIG, freeze=("*",)))
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_a_field_existed_is_resumed(material: Open, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2)
    material().train(tmp_path / "run", config)
    marker = tmp_path / "run" / "training.json"
    identity = json.loads(marker.read_text())
    del identity["train"]["freeze"]
    marker.write_text(json.dumps(identity))
    assert material().train(tmp_path / "run", config).resumed_from == 2
    with pytest.raises(CheckpointError, match=r"train\.freeze"):
        material().train(tmp_path / "run", replace(config, freeze=("see",)))


def test_running_statistics_of_frozen_batch_norms_stay(material: Open) -> None:
    policy = material().policy
    policy.add_module("frozen", nn.BatchNorm1d(2).requires_grad_(False))
    policy.add_module("trained", nn.BatchNorm1d(2))
    learning(policy)
    assert policy.training
    assert (policy.frozen.training, policy.trained.training) == (False, True)
