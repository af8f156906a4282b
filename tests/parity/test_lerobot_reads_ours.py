"""lerobot 0.6.1 opens what we write, reads every tick of it, and finds what was recorded.

Runs where VISUOMOTOR_LEROBOT_PYTHON names the interpreter of an environment with lerobot 0.6.1; how to
make one stands in `make_lerobot_golden.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from visuomotor import Recorder
from visuomotor.data.features import Feature
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.repair import repair
from visuomotor.data.synthetic import SPEC, make_dataset
from visuomotor.data.video import StillSettings
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Observation, Spec

PYTHON = os.environ.get("VISUOMOTOR_LEROBOT_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="VISUOMOTOR_LEROBOT_PYTHON names no interpreter")
COLUMNS = {
    "answer": "string",
    "next.reward": "float32",
    "next.done": "bool",
    "force": Feature(name="force", dtype="float64", shape=(3,)),
    "grid": Feature(name="grid", dtype="int32", shape=(2, 2)),
}


def record(folder: Path, leave: tuple[str, ...] = (), **options) -> Path:
    """Two episodes with every kind of column, pictures of noise."""
    generator = np.random.default_rng(0)
    columns = {name: kind for name, kind in COLUMNS.items() if name not in leave}
    with Recorder(SPEC, folder, columns=columns, subtasks=True, **options) as recorder:
        for length in (4, 3):
            for tick in range(length):
                images = {
                    c.name: generator.integers(0, 255, (1, c.height, c.width, 3), np.uint8)
                    for c in SPEC.cameras
                }
                state = generator.normal(size=(1, 3)).astype(np.float32)
                told = {
                    "answer": f"ja {tick}",
                    "next.reward": generator.normal(),
                    "next.done": tick + 1 == length,
                    "force": generator.normal(size=3),
                    "grid": generator.integers(0, 9, (2, 2)),
                }
                recorder.tick(
                    Observation(
                        images=images, state=state, instruction=f"go {tick % 2}", embodiment="cursor"
                    ),
                    generator.normal(size=3).astype(np.float32),
                    subtask="reach",
                    extra={name: told[name] for name in columns},
                )
            recorder.end_episode()
    return folder


def synthetic(folder: Path) -> Path:
    return make_dataset(folder, episodes=4)


SETS = {
    "v3.0 video": synthetic,
    "v3.0 columns": record,
    "v3.0 stills": lambda folder: record(folder, settings=StillSettings()),
    # the converter of lerobot 0.6.1 fails on columns of more than one axis
    "v2.1 video": lambda folder: record(folder, ("grid",), version="v2.1"),
    "v2.1 stills": lambda folder: record(folder, ("grid",), version="v2.1", settings=StillSettings()),
}


@pytest.mark.parametrize("name", SETS)
def test_lerobot_reads_what_we_wrote(name, tmp_path):
    folder = SETS[name](tmp_path / "set")
    reader = LeRobotReader(folder)
    columns = {key: reader.column(key) for key, feature in reader.features.items() if not feature.pictures}
    pictures = {
        f"observation.images.{c.name}": np.concatenate(
            [np.stack(list(reader.frames(e.index, c.name))) for e in reader.episodes]
        )
        for c in SPEC.cameras
    }
    words = [reader.instruction(tick) for tick in range(len(reader))]
    stored = {key: figures["mean"] for key, figures in reader.stored_stats().items()}
    script = Path(__file__).with_name("check_with_lerobot.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    command = [str(PYTHON), str(script), str(tmp_path / "answers.npz"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "answers.npz", allow_pickle=False) as told:
        for key, ours in columns.items():
            theirs = told[key]
            np.testing.assert_array_equal(ours if ours.dtype == object else ours.astype(theirs.dtype), theirs)
        for key, ours in pictures.items():
            theirs = np.moveaxis(told[key], 1, -1)
            if reader.features[key].dtype == "image":
                np.testing.assert_array_equal(ours, np.rint(theirs * 255).astype(np.uint8))
            else:  # two conversions to RGB; see test_lerobot_golden.py
                assert np.abs(ours.astype(int) - theirs).mean() < 4
        assert told["task"].tolist() == words
        assert set(stored) <= set(json.loads(str(told["stats"])))


KILLED = """
import os, signal, sys
import numpy as np
from lerobot.datasets import LeRobotDataset

features = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "observation.images.front": {"dtype": "video", "shape": (64, 64, 3), "names": ["h", "w", "c"]},
}
dataset = LeRobotDataset.create("ours/killed", 10, features, root=sys.argv[1])
for episode in range(4):
    for tick in range(5):
        frame = {
            "observation.state": np.full(3, tick, np.float32),
            "action": np.full(2, episode, np.float32),
            "next.done": np.array([tick == 4]),
            "observation.images.front": np.full((64, 64, 3), 40 * episode + 20, np.uint8),
            "task": "go",
        }
        dataset.add_frame(frame)
        if episode == 3 and tick == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    dataset.save_episode(parallel_encoding=False)
"""


def test_a_lerobot_recording_that_was_killed_is_repaired(tmp_path):
    """Three episodes were saved and a fourth was on its way; lerobot itself can open nothing of it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    command = [str(PYTHON), "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    spec = Spec(
        embodiment="any",
        cameras=(Camera(name="front", height=64, width=64),),
        state=tuple(Dimension(name=name) for name in "abc"),
        action=tuple(Dimension(name=name) for name in "de"),
        rate=10.0,
    )
    with pytest.raises(DataError, match="repair"):
        LeRobotReader(tmp_path / "killed", spec)
    report = repair(tmp_path / "killed", tmp_path / "out")
    assert (report.episodes, report.ticks) == (3, 15)
    reader = LeRobotReader(tmp_path / "out", spec)
    np.testing.assert_array_equal(reader.actions[:, 0], np.repeat([0, 1, 2], 5))
    for episode in range(3):
        pictures = np.stack(list(reader.frames(episode, "front")))
        assert abs(pictures.mean() - (40 * episode + 20)) < 4  # AV1 at crf 30
    script = Path(__file__).with_name("check_with_lerobot.py")
    command = [str(PYTHON), str(script), str(tmp_path / "answers.npz"), str(tmp_path / "out")]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    with np.load(tmp_path / "answers.npz", allow_pickle=False) as told:
        np.testing.assert_array_equal(told["action"], reader.actions)
