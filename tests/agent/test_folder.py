from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import LetterEncoder, TinyConfig, TinyPolicy

from visuomotor.agent import load_agent, load_policy, save_agent
from visuomotor.agent.disk import PROVENANCE, seal
from visuomotor.agent.folder import policy_name
from visuomotor.agent.weights import named_weights, write_tensors
from visuomotor.data.synthetic import SPEC
from visuomotor.errors import CheckpointError, DataError
from visuomotor.policies.base import Policy
from visuomotor.text.sentences import SentenceCache
from visuomotor.training.run import build_policy
from visuomotor.types import Observation, Stats


@pytest.fixture
def folder(tmp_path: Path, policy: TinyPolicy, stats: Stats) -> Path:
    average = {name: tensor + 0.01 for name, tensor in named_weights(policy).items()}
    data = {"set": {"hash": "abc", "seeds": [4, 5]}}
    return save_agent(tmp_path / "agent", policy, {"set": stats}, average=average, data=data)


def reseal(folder: Path) -> None:
    """Make hashes right again after a change, as a careless tool would."""
    provenance = json.loads((folder / PROVENANCE).read_text())
    (folder / PROVENANCE).unlink()
    provenance.pop("files")
    seal(folder, provenance)


def edit(folder: Path, name: str, change: Callable[[dict[str, object]], object]) -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def test_weights_config_specs_and_stats_come_back(folder: Path, policy: TinyPolicy, stats: Stats) -> None:
    loaded = load_policy(folder, weights="model")
    assert type(loaded.policy) is TinyPolicy
    assert loaded.policy.config == policy.config
    assert loaded.policy.bodies == {"set": SPEC}
    assert loaded.stats["set"].to_json() == stats.to_json()
    for name, tensor in named_weights(policy).items():
        assert torch.equal(named_weights(loaded.policy)[name], tensor)
    average = load_policy(folder).policy
    assert torch.equal(named_weights(average)["leave.bias"], named_weights(policy)["leave.bias"] + 0.01)
    assert loaded.difference is not None
    assert loaded.difference == 0  # the same machine
    assert not loaded.policy.training


def test_the_folder_holds_what_the_design_says(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "ema.safetensors",
        "golden.npz",
        "model.safetensors",
        "provenance.json",
        "specs.json",
        "stats.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["policy"] == "tiny_policy:TinyPolicy"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["data"]["set"]["seeds"] == [4, 5]
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        names = set(golden)
    assert {"0/observation/images/front", "0/input/state", "0/noise", "0/chunk/ema", "0/chunk/model"} <= names


def test_loading_leaves_random_state_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_policy(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_built_in_policy_is_named_by_its_short_name() -> None:
    from visuomotor.policies.compact import Compact

    assert policy_name(Compact) == "compact"


@pytest.mark.parametrize("name", ["config.json", "specs.json", "stats.json", "golden.npz", "ema.safetensors"])
def test_a_changed_or_missing_file_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"{name}: the file is damaged or was changed"):
        load_policy(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: the file is missing"):
        load_policy(folder)


def test_only_a_thorough_check_reads_files_that_acting_does_not_need(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x")
    load_policy(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file is damaged"):
        load_policy(folder, thorough=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda d: d["config"].update(depth=3), r"config: unknown key 'depth'"),
        ("config.json", lambda d: d.update(extra=3), "missing or unknown: extra"),
        ("config.json", lambda d: d.update(format=2), "expected format 1, got 2"),
        ("config.json", lambda d: d.update(policy="compac"), "Did you mean 'compact'"),
        ("config.json", lambda d: d.update(policy="nowhere:Policy"), "Install the package"),
        ("config.json", lambda d: d.update(policy="json:dumps"), "is no policy class"),
        ("config.json", lambda d: d["config"].update(width=31), r"'.*': expected shape \(.*31"),
        ("config.json", lambda d: d["config"].update(smoothness="no"), "smoothness: expected bool"),
        ("specs.json", lambda d: d["set"].pop("rate"), "specs.json: .*'rate'"),
        ("stats.json", lambda d: d.update(other=d["set"]), r"stats.json is for \['other', 'set'\]"),
        (
            "stats.json",
            lambda d: d["set"]["features"]["state"].update(mean=[9.0, 9, 9]),
            "model input 'state' differs",
        ),
        (
            "stats.json",
            lambda d: d["set"]["features"]["action"].update(std=[9.0, 9, 9]),
            "chunk in robot units differs",
        ),
        ("stats.json", lambda d: d["set"]["features"].pop("action"), "no feature 'action'"),
    ],
)
def test_foreign_or_altered_content_is_refused_though_hashes_fit(
    folder: Path, name: str, change: Callable[[dict[str, object]], object], message: str
) -> None:
    edit(folder, name, change)
    reseal(folder)
    with pytest.raises((CheckpointError, DataError), match=message):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("leave.bias"), r"1 weights are missing \('leave.bias'"),
        (lambda w: w.update(more=torch.zeros(1)), r"1 are unknown \('more'"),
        (lambda w: w.update({"leave.bias": w["leave.bias"].double()}), "expected torch.float32"),
        (lambda w: w["leave.bias"].add_(1), r"golden vector of 'set': the network \(ema weights\)"),
        (lambda w: w["leave.bias"].mul_(torch.nan), r"golden vector of 'set': the network \(ema weights\)"),
    ],
)
def test_weights_that_are_not_those_of_the_policy_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "ema.safetensors")
    change(weights)
    write_tensors(folder / "ema.safetensors", weights)
    reseal(folder)
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_a_policy_whose_code_changed_fails_its_golden_vector(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = TinyPolicy.observe
    monkeypatch.setattr(TinyPolicy, "observe", lambda self, batch: observe(self, batch).roll(1, dims=1))
    with pytest.raises(CheckpointError, match="code of the policy or of torch has changed"):
        load_policy(folder)


def test_rounding_of_another_machine_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = TinyPolicy.observe
    monkeypatch.setattr(TinyPolicy, "observe", lambda self, batch: observe(self, batch) * (1 + 1e-6))
    assert 0 < (load_policy(folder).difference or 0) < 1e-4


def test_pickles_are_never_loaded(folder: Path) -> None:
    with np.load(folder / "golden.npz") as file:
        arrays = dict(file)
    arrays["0/noise"] = np.array([{"a": 1}], dtype=object)
    np.savez(folder / "golden.npz", **arrays)
    reseal(folder)
    with pytest.raises((CheckpointError, ValueError), match="allow_pickle=False"):
        load_policy(folder)


def test_a_foreign_folder_is_neither_read_nor_overwritten(
    tmp_path: Path, policy: TinyPolicy, stats: Stats
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_policy(tmp_path)
    with pytest.raises(CheckpointError, match="Nothing was overwritten"):
        save_agent(tmp_path, policy, {"set": stats})
    assert (tmp_path / "config.json").read_text() == "{}"
    with pytest.raises(DataError, match=r"expected statistics of \['set'\], got those of \['sets'\]"):
        save_agent(tmp_path / "new", policy, {"sets": stats})
    assert not (tmp_path / "new").exists()


def test_a_policy_that_does_not_come_back_is_not_saved(
    tmp_path: Path, policy: TinyPolicy, stats: Stats
) -> None:
    """A number that is in no weight is lost on disk; the check on saving shows it."""
    save_agent(tmp_path / "agent", policy, {"set": stats})
    before = (tmp_path / "agent" / "provenance.json").read_text()
    policy.see[0].weight.data += 1
    policy.leave.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(CheckpointError, match="golden vector"):
        save_agent(tmp_path / "agent", policy, {"set": stats})
    assert (tmp_path / "agent" / "provenance.json").read_text() == before
    load_policy(tmp_path / "agent")


def test_a_copy_without_train_state_under_another_name_loads(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    (tmp_path / "elsewhere" / "copy" / "README.md").write_text("mine")
    load_policy(tmp_path / "elsewhere" / "copy")


def test_the_sentence_encoder_must_be_the_one_of_the_training(tmp_path: Path, stats: Stats) -> None:
    policy = build_policy("tiny_policy:TinyPolicy", TinyConfig(reads=True), {"set": SPEC}, seed=0)
    cache = SentenceCache(LetterEncoder())
    folder = save_agent(tmp_path / "agent", policy, {"set": stats}, sentences=cache)
    assert load_policy(folder, sentences=cache).provenance["text"] == {
        "encoder": "minilm",
        "hash": "letters-1.0",
    }
    with pytest.raises(CheckpointError, match=r"expected the sentence encoder 'minilm' of hash letters-1\.0"):
        load_policy(folder, sentences=SentenceCache(LetterEncoder(2.0)))


def test_an_encoder_that_lies_about_its_hash_fails_the_golden_vector(tmp_path: Path, stats: Stats) -> None:
    policy = build_policy("tiny_policy:TinyPolicy", TinyConfig(reads=True), {"set": SPEC}, seed=0)
    folder = save_agent(tmp_path / "agent", policy, {"set": stats}, sentences=SentenceCache(LetterEncoder()))
    liar = LetterEncoder(2.0)
    liar.hash = "letters-1.0"
    with pytest.raises(CheckpointError, match=r"'sentence' differs.*sentence encoder has changed"):
        load_policy(folder, sentences=SentenceCache(liar))


def test_tied_weights_are_kept_once(tmp_path: Path, stats: Stats) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(2, 2)
            self.b = torch.nn.Linear(2, 2)
            self.b.weight = self.a.weight

    assert list(named_weights(Tied())) == ["a.weight", "a.bias", "b.bias"]


def test_with_two_data_sets_the_key_chooses(tmp_path: Path, stats: Stats, observation: Observation) -> None:
    policy: Policy = build_policy("tiny_policy:TinyPolicy", None, {"b": SPEC, "a": SPEC}, seed=0)
    wide = Stats.from_json(stats.to_json())
    wide.features["action"].std[:] *= 10
    folder = save_agent(tmp_path / "agent", policy, {"a": stats, "b": wide})
    with pytest.raises(ValueError, match="pass key=, one of a, b"):
        load_agent(folder)
    with pytest.raises(ValueError, match="unknown data-set key 'c'"):
        load_agent(folder, key="c")
    first, second = (load_agent(folder, key=key).act(observation).actions for key in "ab")
    mean = stats["action"].mean
    assert np.allclose((first - mean) * 10, second - mean, atol=1e-5)
