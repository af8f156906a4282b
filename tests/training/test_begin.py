from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policy import TinyConfig, TinyPolicy

from visuomotor.agent import load_agent, load_policy
from visuomotor.agent.weights import named_weights, read_tensors
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.synthetic import make_dataset
from visuomotor.errors import CheckpointError, UnknownNameError
from visuomotor.evaluation.origin import read_origin
from visuomotor.perception.bodies import BodyTable
from visuomotor.training.begin import Beginning, begin_from
from visuomotor.training.config import TrainConfig
from visuomotor.training.run import build_policy, train_from_folder

CONFIG = TrainConfig(steps=4, batch_size=6, save_every=2, log_every=2, warmup=1)


@pytest.fixture(scope="module")
def base(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from."""
    return learn(dataset, tmp_path_factory.mktemp("begin") / "base")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the same body that the run has not seen."""
    return make_dataset(tmp_path_factory.mktemp("begin") / "other", episodes=2, ticks=8, seed=50)


def learn(data: Path, out: Path, **more: Any) -> Path:
    asked = {"policy": "tiny_policy:TinyPolicy", "config": CONFIG, "cache": out.parent / "cache", **more}
    train_from_folder(data, out=out, **asked)
    return out


def build(dataset: Path, **config: Any) -> TinyPolicy:
    bodies = {"set": LeRobotReader(dataset).spec}
    policy = build_policy("tiny_policy:TinyPolicy", TinyConfig(**config), bodies, seed=9)
    assert isinstance(policy, TinyPolicy)
    return policy


def test_the_averaged_weights_are_the_first_ones(base: Path, dataset: Path) -> None:
    policy = build(dataset)
    told = begin_from(policy, base)
    average = read_tensors(base / "checkpoint" / "ema.safetensors")
    assert all(torch.equal(weight, average[name]) for name, weight in named_weights(policy).items())
    assert set(told.taken) == set(average)
    assert (told.new, told.dropped, told.bodies, told.changes) == ((), (), (), ())


def test_other_data_bring_their_statistics_and_provenance_keeps_the_chain(
    base: Path, other: Path, dataset: Path, tmp_path: Path
) -> None:
    heard: list[Beginning] = []
    second = learn(other, tmp_path / "second", begin=base, begun=heard.append)
    assert "bodies.other" in " ".join(heard[0].changes)
    loaded = load_policy(second)
    assert loaded.stats["other"].to_json() == LeRobotReader(other).stats.to_json()
    told = loaded.provenance["from"]
    there = json.loads((base / "checkpoint" / "provenance.json").read_text())
    assert told["weights"] == there["files"]["ema.safetensors"]
    assert (told["step"], told["taken"], told["fresh"]) == (4, len(heard[0].taken), [])
    third = learn(dataset, tmp_path / "third", begin=second)
    assert load_policy(third).provenance["from"]["from"] == told
    # scenes of all three data sets are spent: an evaluation must not play any of them
    assert load_agent(second).seeds == read_origin(second).seeds == {0, 1, 2, 3, 50, 51}
    assert load_agent(third).seeds == {0, 1, 2, 3, 50, 51}


def test_a_run_that_began_elsewhere_resumes_with_equal_bits_and_from_nothing_else(
    base: Path, other: Path, dataset: Path, tmp_path: Path
) -> None:
    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise RuntimeError("stopped by the test")

    learn(other, tmp_path / "whole", begin=base)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        learn(other, tmp_path / "parts", begin=base, progress=stop)
    scratch = learn(dataset, tmp_path / "scratch", config=replace(CONFIG, seed=1))
    for wrong in ({}, {"begin": scratch}, {"begin": base, "fresh": ("flow",)}):
        with pytest.raises(CheckpointError, match=r"another training run.*from"):
            learn(other, tmp_path / "parts", **wrong)
    learn(other, tmp_path / "parts", begin=base)
    for file in ("model.safetensors", "ema.safetensors", "train_state/optimizer.safetensors"):
        one, two = (tmp_path / name / "checkpoint" / file for name in ("whole", "parts"))
        assert one.read_bytes() == two.read_bytes(), file


def test_another_horizon_asks_for_the_layers_that_depend_on_it_by_name(base: Path, dataset: Path) -> None:
    policy = build(dataset, horizon=5)
    with pytest.raises(
        CheckpointError,
        match=r"3 weights have no counterpart: flow.weight \(\(32, \d+\) in the checkpoint, "
        r"\(32, \d+\) here\).*--fresh flow.weight leave.bias leave.weight",
    ):
        begin_from(policy, base)
    drawn = {name: weight.clone() for name, weight in named_weights(policy).items()}
    told = begin_from(policy, base, fresh=("flow", "leave"))
    assert told.changes == ("config.horizon: 4 there, 5 here",)
    assert set(told.new) == {"flow.weight", "flow.bias", "leave.weight", "leave.bias"}
    after = named_weights(policy)
    assert {name for name in drawn if torch.equal(drawn[name], after[name])} == set(told.new)


def test_weights_of_one_side_only_must_be_named(base: Path, dataset: Path) -> None:
    policy = build(dataset)
    policy.extra = torch.nn.Linear(2, 2)
    del policy.leave
    with pytest.raises(CheckpointError, match=r"extra.bias \(not in the checkpoint\).*leave.bias \(only in"):
        begin_from(policy, base)
    told = begin_from(policy, base, fresh=("extra", "leave"))
    assert set(told.dropped) == {"leave.weight", "leave.bias"}
    assert set(told.new) == {"extra.weight", "extra.bias"}
    with pytest.raises(UnknownNameError, match="weights to begin anew: the pattern 'levae'"):
        begin_from(policy, base, fresh=("levae",))


class OtherPolicy(TinyPolicy):
    """Another family with the same weights."""


def test_another_family_or_encoder_or_a_damaged_file_is_refused(
    base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = OtherPolicy(TinyConfig(), build(dataset).bodies)
    with pytest.raises(CheckpointError, match=r"holds a policy of the family 'tiny_policy:TinyPolicy', but"):
        begin_from(stranger, base)
    with pytest.raises(ValueError, match="fresh is for training from a checkpoint"):
        learn(dataset, tmp_path / "run", fresh=("leave",))
    import shutil

    shutil.copytree(base, tmp_path / "copy")
    provenance = tmp_path / "copy" / "checkpoint" / "provenance.json"
    told = json.loads(provenance.read_text())
    provenance.write_text(json.dumps({**told, "text": {"encoder": "minilm", "hash": "there"}}))
    policy = build(dataset)
    begin_from(policy, tmp_path / "copy", encoder_hash="here")  # it reads no sentence
    monkeypatch.setattr(TinyPolicy, "sentence_encoder", "minilm")
    with pytest.raises(CheckpointError, match=r"'minilm' of hash there, not with that of hash here"):
        begin_from(policy, tmp_path / "copy", encoder_hash="here")
    (tmp_path / "copy" / "checkpoint" / "ema.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"ema.safetensors: the file is damaged"):
        begin_from(policy, tmp_path / "copy", encoder_hash="there")


@pytest.mark.parametrize(
    ("here", "new"),
    [(("aloha2arm", "franka"), []), (("franka", "so101"), ["so101"]), (("widowx",), ["widowx"])],
)
def test_a_table_of_bodies_keeps_the_rows_that_both_know(here: Sequence[str], new: list[str]) -> None:
    there = ("aloha2arm", "franka", "xarm")
    table, learned = BodyTable(len(here), 4), torch.arange(12.0).reshape(3, 4)
    rows, unknown = table.rows_of(there, here, learned)
    assert unknown == new
    for row, body in enumerate(here):
        expected = table.weight[row] if body in new else learned[there.index(body)]
        assert torch.equal(rows[row], expected)


def test_a_policy_with_a_table_takes_its_rows_by_name(base: Path, dataset: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(base, tmp_path / "copy")
    place = tmp_path / "copy" / "checkpoint"
    specs, told = (json.loads((place / name).read_text()) for name in ("specs.json", "provenance.json"))
    (body,) = {spec["embodiment"] for spec in specs.values()}
    more = {**next(iter(specs.values())), "embodiment": "another"}  # sorted before ours, if names change
    rows = {name: float(row) for row, name in enumerate(sorted([body, "another"]))}
    (place / "specs.json").write_text(json.dumps({**specs, "another": more}))
    weights = read_tensors(place / "ema.safetensors")
    table = torch.tensor([[rows[name]] * 3 for name in sorted(rows)])
    save_file({**weights, "body.weight": table}, place / "ema.safetensors")
    from visuomotor.agent.disk import seal

    (place / "provenance.json").unlink()
    seal(place, {name: value for name, value in told.items() if name != "files"})
    policy = build(dataset)
    policy.body = BodyTable(1, 3)
    assert begin_from(policy, tmp_path / "copy").bodies == ()
    assert torch.equal(policy.body.weight.detach(), torch.full((1, 3), rows[body]))
