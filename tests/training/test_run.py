from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policy import LetterEncoder, TinyConfig

from visuomotor.agent import load_agent
from visuomotor.data.synthetic import make_dataset
from visuomotor.errors import CheckpointError, DataError
from visuomotor.text.sentences import SentenceCache
from visuomotor.training import run
from visuomotor.training.log import read_log
from visuomotor.training.loop import TrainConfig
from visuomotor.training.run import build_policy, train_from_folder

CONFIG = TrainConfig(steps=4, batch_size=6, accumulate=2, save_every=2, log_every=2, warmup=1)


def learn(data: Any, out: Path, **more: Any) -> run.TrainReport:
    asked = {"policy": "tiny_policy:TinyPolicy", "config": CONFIG, "cache": out.parent / "cache", **more}
    return train_from_folder(data, out=out, **asked)


def test_a_folder_of_demonstrations_becomes_an_agent(dataset: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = learn(dataset, tmp_path / "run", preparing=lambda *state: told.append(state))
    assert report.finished
    assert report.to_json()["folder"] == str(tmp_path / "run")
    assert told[-1] == ("decoding pictures of set", told[-1][2], told[-1][2])
    agent = load_agent(tmp_path / "run")
    assert agent.key == "set"
    known = agent.provenance["data"]["set"]
    assert known["seeds"] == [0, 1, 2, 3]
    assert (known["episodes"], known["env"], known["task"]) == (4, "synthetic", "move")
    assert "spec" not in known
    assert learn(dataset, tmp_path / "run").resumed_from == 4


def test_the_same_call_gives_the_same_bits(dataset: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed(len(name))
        learn(dataset, tmp_path / name)
    one, two = ((tmp_path / name / "checkpoint" / "ema.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    other = build_policy("tiny_policy:TinyPolicy", None, load_agent(tmp_path / "one").policy.bodies, seed=1)
    again = build_policy("tiny_policy:TinyPolicy", None, load_agent(tmp_path / "one").policy.bodies, seed=0)
    assert not torch.equal(other.leave.weight, again.leave.weight)


def test_pictures_from_videos_by_workers_give_the_same_bits(dataset: Path, tmp_path: Path) -> None:
    learn(dataset, tmp_path / "stored")
    learn(dataset, tmp_path / "decoded", frames="videos", workers=2, cache=tmp_path / "none")
    one, two = (
        (tmp_path / name / "checkpoint" / "ema.safetensors").read_bytes() for name in ("stored", "decoded")
    )
    assert one == two
    assert not (tmp_path / "none" / "frames").exists()
    with pytest.raises(ValueError, match="unknown source of pictures 'video'"):
        learn(dataset, tmp_path / "wrong", frames="video")


def test_held_out_episodes_are_validated_on_and_not_trained_on(dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=4, batch_size=6, validate_every=2, log_every=2, hold_out=1)
    report = learn(dataset, tmp_path / "run", config=config)
    assert report.validation is not None
    assert [line["step"] for line in read_log(tmp_path / "run") if "validation" in line] == [2, 4]
    with pytest.raises(ValueError, match="expected hold_out below the 4 episodes of 'set', got 4"):
        learn(dataset, tmp_path / "none", config=TrainConfig(hold_out=4))


def test_several_data_sets_keep_their_own_statistics(dataset: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other" / "set", episodes=2, ticks=8, seed=50)
    with pytest.raises(ValueError, match="two data sets have the same name"):
        learn([dataset, other], tmp_path / "run")
    learn({"old": dataset, "new": other}, tmp_path / "run")
    stats = json.loads((tmp_path / "run" / "checkpoint" / "stats.json").read_text())
    assert set(stats) == {"old", "new"}
    assert stats["old"] != stats["new"]
    with pytest.raises(ValueError, match="pass key=, one of new, old"):
        load_agent(tmp_path / "run")
    assert load_agent(tmp_path / "run", key="new").seeds == {0, 1, 2, 3, 50, 51}


def test_weights_of_data_sets_change_what_is_learned_and_belong_to_the_run(
    dataset: Path, tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "other", episodes=2, ticks=8, seed=50)
    weighted = replace(CONFIG, weights={"set": 4.0})
    for name, config in (("even", CONFIG), ("weighted", weighted)):
        learn([dataset, other], tmp_path / name, config=config)
    even, more = (
        (tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("even", "weighted")
    )
    assert even != more
    assert learn([dataset, other], tmp_path / "weighted", config=weighted).resumed_from == 4
    with pytest.raises(CheckpointError, match=r"cannot be resumed with these settings: .*weights"):
        learn([dataset, other], tmp_path / "weighted", config=CONFIG)
    with pytest.raises(ValueError, match="unknown data-set key 'sett'"):
        learn([dataset, other], tmp_path / "no", config=replace(CONFIG, weights={"sett": 1.0}))
    with pytest.raises(ValueError, match="expected positive weights"):
        TrainConfig(weights={"set": 0.0})


def test_other_data_under_the_same_name_are_refused(dataset: Path, tmp_path: Path) -> None:
    learn(dataset, tmp_path / "run")
    other = make_dataset(tmp_path / "set", episodes=3, ticks=8, seed=50)
    with pytest.raises(CheckpointError, match=r"cannot be resumed with these settings: .*set"):
        learn(other, tmp_path / "run")


def test_sentences_are_encoded_once_and_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    class Counting(LetterEncoder):
        def encode(self, sentences: Any) -> Any:
            encoded.extend(sentences)
            return super().encode(sentences)

    monkeypatch.setattr(run, "open_sentences", lambda policy, path: SentenceCache(Counting()))
    config = TinyConfig(reads=True)
    learn(dataset, tmp_path / "run", policy_config=config)
    data = [sentence for sentence in encoded if "square" in sentence or "one" in sentence]
    assert len(data) == len(set(data)) == 4
    encoded.clear()
    learn(dataset, tmp_path / "again", policy_config=config)
    assert encoded == []
    provenance = json.loads((tmp_path / "run" / "checkpoint" / "provenance.json").read_text())
    assert provenance["text"] == {"encoder": "minilm", "hash": "letters-1.0"}
    other = SentenceCache(LetterEncoder(2.0))
    monkeypatch.setattr(run, "open_sentences", lambda policy, path: other)
    with pytest.raises(CheckpointError, match=r"text: 'letters-1\.0' there, 'letters-2\.0' here"):
        learn(dataset, tmp_path / "run", policy_config=config)


def test_bad_names_and_folders_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'compact'"):
        learn(dataset, tmp_path / "run", policy="compat")
    with pytest.raises(DataError, match="not a data set"):
        learn(tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match="at least one data set"):
        learn([], tmp_path / "run")
    assert not (tmp_path / "run").exists()
