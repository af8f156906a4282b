"""Questions about pictures are mixed into training by policies that learn answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering_policy import AnsweringPolicy

from visuomotor.agent import load_agent
from visuomotor.cli import main
from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader
from visuomotor.data.questions import Questions
from visuomotor.data.recorder import Recorder
from visuomotor.errors import CheckpointError, DataError
from visuomotor.policies.pi05 import PI05Config
from visuomotor.text.words import hash_words
from visuomotor.training import run
from visuomotor.training.log import read_log
from visuomotor.training.loop import TrainConfig
from visuomotor.training.run import train_from_folder
from visuomotor.types import Camera, Dimension, Observation, Spec

SPEC = Spec(
    embodiment="arm",
    cameras=(Camera(name="front", height=16, width=16),),
    state=(Dimension(name="joint"),),
    action=(Dimension(name="joint"),),
    rate=10.0,
)
CONFIG = TrainConfig(
    steps=40, batch_size=16, save_every=40, log_every=40, warmup=1, learning_rate=0.05, ema_decay=0.5
)


def record(folder: Path, asking: range = range(6)) -> Path:
    """Episodes of one shade each; those in `asking` ask at every other tick how bright it is."""
    with Recorder(
        SPEC, folder, columns=dict.fromkeys(("question", "answer", "camera"), "string")
    ) as recorder:
        for episode in range(6):
            for tick in range(6):
                asks = tick % 2 == 0 and episode in asking
                seen = Observation(
                    images={"front": np.full((1, 16, 16, 3), 60 + 120 * (episode % 2), np.uint8)},
                    state=np.array([[float(tick)]], np.float32),
                    instruction="go",
                    embodiment="arm",
                )
                extra = {"question": "how bright is it", "answer": ("dark", "bright")[episode % 2]}
                told = (
                    {**extra, "camera": "front"}
                    if asks
                    else dict.fromkeys(("question", "answer", "camera"), "")
                )
                recorder.tick(seen, np.array([0.1 * tick], np.float32), extra=told)
            recorder.end_episode(seed=episode)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("asked") / "set")


def learn(data: Path, out: Path, **more: Any) -> run.TrainReport:
    given = {
        "policy": "answering_policy:AnsweringPolicy",
        "config": CONFIG,
        "cache": out.parent / "cache",
        "questions": ["set"],
        **more,
    }
    return train_from_folder(data, out=out, **given)


def test_answers_are_learned_beside_actions(asked: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, weights={"set/questions": 2.0}, hold_out=1)
    report = learn(asked, tmp_path / "run", config=config)
    assert report.validation is not None
    assert set(read_log(tmp_path / "run")[-1]["terms"]) == {"flow", "answer"}
    agent = load_agent(tmp_path / "run")
    policy = agent.policy
    assert isinstance(policy, AnsweringPolicy)
    reader = LeRobotReader(asked)
    questions = Questions(reader, VideoFrames(reader), policy.window, "set")
    batch = Loader(questions, {"set": agent.pipeline}, batch_size=18, seed=0).batch(0)
    assert not batch.has_actions.any()
    said = policy.answer(batch).argmax(1)
    assert (said == batch.tokens.ids[:, -1]).all()
    assert set(said.tolist()) == {hash_words(word, 64)[0] for word in ("dark", "bright")}
    known = agent.provenance["data"]
    assert (set(known), known["set/questions"]["questions"]) == ({"set", "set/questions"}, 18)
    assert agent.seeds == set(range(6))
    assert learn(asked, tmp_path / "run", config=config).resumed_from == 40
    with pytest.raises(CheckpointError, match=r"cannot be resumed with these settings: .*set/questions"):
        learn(asked, tmp_path / "run", config=replace(config, weights=None), questions=[])


def test_pi05_learns_answers_beside_actions(asked: Path, tmp_path: Path) -> None:
    """Batches of actions, of both, and of questions alone, in parts of two samples."""
    tiny = replace(PI05Config.tiny(), answers=True)
    config = replace(CONFIG, steps=4, save_every=4, log_every=1, batch_size=8, accumulate=4)
    learn(asked, tmp_path / "run", policy="pi05", policy_config=tiny, config=config)
    assert all(line["terms"]["text"] > 0 for line in read_log(tmp_path / "run"))
    agent = load_agent(tmp_path / "run")
    assert agent.policy.config.trunk.text == ("bright", "dark")
    with pytest.raises(DataError, match="its ticks have no subtasks"):
        learn(asked, tmp_path / "other", policy="pi05", policy_config=replace(tiny, subtasks=True))
    speaking = replace(tiny, subtasks=True, answers=False)
    with pytest.raises(DataError, match="hold no text to be written"):
        learn(asked, tmp_path / "other", policy="pi05", policy_config=speaking, questions=[])


def test_what_has_no_sense_is_refused_before_a_picture_is_decoded(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("pictures were decoded")

    monkeypatch.setattr(run.FrameStore, "of", never)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"TinyPolicy has no loss for answers"):
        learn(asked, out, policy="tiny_policy:TinyPolicy")
    with pytest.raises(ValueError, match="unknown data-set key 'sett'"):
        learn(asked, out, questions=["sett"])
    with pytest.raises(ValueError, match="Did you mean 'set/questions'"):
        learn(asked, out, config=replace(CONFIG, weights={"set/question": 2.0}))
    with pytest.raises(ValueError, match="unknown data-set key 'set/questions'"):
        learn(asked, out, questions=[], config=replace(CONFIG, weights={"set/questions": 2.0}))
    with pytest.raises(ValueError, match="unknown data-set key 'other'"):
        learn(asked, out, specs={"other": SPEC})
    with pytest.raises(ValueError, match="hold_out below the 6 episodes"):
        learn(asked, out, config=replace(CONFIG, hold_out=6))
    late = record(tmp_path / "set", asking=range(5, 6))
    with pytest.raises(DataError, match="none of its 5 episodes for training asks a question"):
        learn(late, out, config=replace(CONFIG, hold_out=1))
    assert not out.exists()


def test_the_command_line_asks_too(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        str(asked),
        "--out",
        str(tmp_path / "run"),
        "--recipe",
        "demo-tiny",
        "--questions",
        "set",
    ]
    assert main(words) == 1
    assert "has no loss for answers" in capsys.readouterr().err
    assert main([*words, "--training.weights", "set/question", "2"]) == 2
    assert "Did you mean 'set/questions'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
