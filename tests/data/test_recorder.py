"""A recorder keeps what it is told, in every version of the format, and survives being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visuomotor import Recorder
from visuomotor.data import files
from visuomotor.data.depth import DepthScale, depth_feature
from visuomotor.data.features import Feature
from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.synthetic import SPEC
from visuomotor.data.video import StillSettings
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.types import Camera, Observation, Window

SMALL = replace(SPEC, cameras=(Camera(name="front", height=16, width=16),))
COLUMNS = {
    "answer": "string",
    "reward": "float32",
    "done": "bool",
    "force": Feature(name="force", dtype="float64", shape=(3,)),
    "grid": Feature(name="grid", dtype="int32", shape=(2, 2)),
    "words": Feature(name="words", dtype="string", shape=(2,)),
}


def observe(tick: int, level: int = 100) -> Observation:
    return Observation(
        images={"front": np.full((1, 16, 16, 3), level + tick, np.uint8)},
        state=np.array([[tick, 0.5, 1]], np.float32),
        instruction="wave",
        embodiment="cursor",
    )


def extra(tick: int) -> dict:
    return {
        "answer": f"Antwort {tick} — ja",
        "reward": tick / 3,
        "done": tick == 3,
        "force": np.arange(3) + tick / 7,
        "grid": np.array([[tick, 1], [2, 3]]),
        "words": ["a", str(tick)],
    }


def record(folder: Path, episodes: int = 2, first: int = 0, **options) -> Path:
    with Recorder(SMALL, folder, columns=COLUMNS, subtasks=True, **options) as recorder:
        for episode in range(first, first + episodes):
            for tick in range(4):
                recorder.tick(
                    observe(tick, 100 + episode),
                    np.array([tick, episode, 0.25], np.float32),
                    subtask="reach" if tick < 2 else "wave",
                    extra=extra(tick + episode),
                )
            recorder.end_episode(seed=episode)
    return folder


KINDS = [
    {"version": version, **settings}
    for version in ("v3.0", "v2.1")
    for settings in ({}, {"settings": StillSettings()})
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_what_is_recorded_is_what_is_read(tmp_path, options):
    reader = LeRobotReader(record(tmp_path / "set", **options))
    assert reader.version == options["version"]
    assert [(e.length, e.seed) for e in reader.episodes] == [(4, 0), (4, 1)]
    for name in COLUMNS:
        expected = [extra(tick + episode)[name] for episode in range(2) for tick in range(4)]
        values = reader.column(name)
        assert values.dtype == (reader.features[name].numeric or object)
        np.testing.assert_array_equal(values, np.array(expected, values.dtype), err_msg=name)
    assert reader.extra == tuple(COLUMNS)
    assert [reader.subtasks[part] for part in reader.subtask_index] == ["reach", "reach", "wave", "wave"] * 2
    windows = Windows(reader, VideoFrames(reader), Window(horizon=1), "set")
    assert [windows.blind(tick).subtask for tick in range(1, 3)] == ["reach", "wave"]
    assert reader.instruction(7) == "wave"
    np.testing.assert_array_equal(reader.actions[5], [1, 1, 0.25])
    for episode in range(2):
        pictures = np.stack(list(reader.frames(episode, "front")))
        levels = 100 + episode + np.arange(4)[:, None, None, None]
        if "settings" in options:
            np.testing.assert_array_equal(pictures, np.broadcast_to(levels, pictures.shape))
        else:
            assert np.abs(pictures - levels).max() <= 3  # what crf 16 costs
    assert reader.stored_stats()["force"]["mean"].shape == (3,)
    assert reader.stored_stats()["grid"]["max"].shape == (2, 2)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_recording_goes_on(tmp_path, options):
    whole = record(tmp_path / "whole", 3, **options)
    parts = record(tmp_path / "parts", 1, **options)
    record(parts, 2, first=1, resume=True, **options)
    one, other = LeRobotReader(whole), LeRobotReader(parts)
    assert one.hash == other.hash
    found = {str(p.relative_to(whole)): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert found == {str(p.relative_to(parts)): p.read_bytes() for p in parts.rglob("*") if p.is_file()}


def test_other_columns_do_not_go_on(tmp_path):
    folder = record(tmp_path / "set", 1)
    with pytest.raises(DataError, match="expected \\[\\] of the same types"):
        Recorder(SMALL, folder, subtasks=True, resume=True)


def test_columns_are_part_of_the_hash(tmp_path):
    one = record(tmp_path / "one", 1)
    with Recorder(SMALL, tmp_path / "other", columns=COLUMNS, subtasks=True) as recorder:
        for tick in range(4):
            told = {**extra(tick), "answer": "something else"}
            action = np.array([tick, 0, 0.25], np.float32)
            recorder.tick(observe(tick), action, subtask="reach" if tick < 2 else "wave", extra=told)
        recorder.end_episode(seed=0)
    assert LeRobotReader(one).hash != LeRobotReader(tmp_path / "other").hash


def test_episodes_can_be_discarded_and_the_last_one_is_ended(tmp_path):
    with Recorder(SMALL, tmp_path / "set") as recorder:
        recorder.tick(observe(0), np.zeros(3, np.float32))
        assert recorder.discard() == 1
        for tick in range(3):
            recorder.tick(observe(tick), np.full(3, tick, np.float32))
        assert (recorder.episodes, recorder.running) == (0, 3)
    assert [e.length for e in LeRobotReader(tmp_path / "set").episodes] == [3]


def test_an_error_drops_the_running_episode_only(tmp_path):
    def stop() -> None:
        with Recorder(SMALL, tmp_path / "set") as recorder:
            recorder.tick(observe(0), np.zeros(3, np.float32))
            assert recorder.end_episode() == 0
            recorder.tick(observe(0), np.zeros(3, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert len(LeRobotReader(tmp_path / "set").episodes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "column 'answer': expected text"),
        ({"force": np.zeros(2)}, r"column 'force': expected float64 of shape \[3\]"),
        ({"grid": np.full((2, 2), 0.5)}, "column 'grid': expected int32, got numbers that are none"),
        ({"more": 1}, "expected the columns"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, change, message):
    recorder = Recorder(SMALL, tmp_path / "set", columns=COLUMNS)
    with pytest.raises(DataError, match=message):
        recorder.tick(observe(0), np.zeros(3, np.float32), extra={**extra(0), **change})
    assert recorder.running == 0


def test_what_the_recorder_was_made_for_must_be_told(tmp_path):
    recorder = Recorder(SMALL, tmp_path / "set", subtasks=True)
    with pytest.raises(DataError, match="expected subtasks, as this recorder was made with subtasks=True"):
        recorder.tick(observe(0), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"Did you mean 'v2\.1'"):
        Recorder(SMALL, tmp_path / "other", version="v2")  # type: ignore[arg-type]


class Killed(BaseException):
    """What ends a recorder between two instructions."""


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_death_at_any_file_loses_nothing_finished(tmp_path, monkeypatch, options):
    expected = LeRobotReader(record(tmp_path / "whole", 2, **options)).hash
    real = os.replace
    for strike in range(1, 60, 4 if options["version"] == "v3.0" else 2):  # test_crash.py tries all of v3.0
        folder, count = tmp_path / str(strike), 0

        def replacing(source, target, strike=strike):
            nonlocal count
            count += 1
            if count == strike:
                raise Killed
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", replacing)
            try:
                record(folder, 2, **options)
                died = False
            except Killed:
                died = True
        if not died:
            break
        lines = folder / "meta/episodes.jsonl"
        if lines.exists():  # a line that was cut while it was written
            lines.write_bytes(lines.read_bytes() + b'{"episode_index": 9, "le')
        try:
            begun = len(LeRobotReader(folder).episodes)
        except DataError as error:  # before the first episode there is nothing to read
            begun, refused = 0, str(error)
            assert strike < 10, refused
        record(folder, 2 - begun, first=begun, resume=True, **options)
        assert LeRobotReader(folder).hash == expected, f"died at file {strike}"
    assert strike > 8


ENDLESS = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_recorder import COLUMNS, SMALL, extra, observe
from visuomotor import Recorder
from visuomotor.data.video import StillSettings

kind = {"version": "v2.1", "settings": StillSettings(), "columns": COLUMNS}
recorder = Recorder(SMALL, sys.argv[1], resume=True, **kind)
while True:
    for tick in range(5):
        recorder.tick(observe(tick), np.zeros(3, np.float32), extra=extra(tick))
    recorder.end_episode()
    print(recorder.episodes, flush=True)
"""


def test_kill_9_loses_nothing_finished(tmp_path):
    command = [sys.executable, "-c", ENDLESS, str(tmp_path / "set"), str(Path(__file__).parent)]
    told = 0
    for _ in range(2):
        before = told
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while told < before + 2:
                told = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            told = int((process.stdout.read().split() or [told])[-1])
        reader = LeRobotReader(tmp_path / "set")
        assert len(reader.episodes) in (told, told + 1)
        assert reader.column("answer")[-1] == extra(4)["answer"]
        assert all(len(list(reader.frames(e.index, "front"))) == 5 for e in reader.episodes)
        told = len(reader.episodes)


def depth_at(tick: int, episode: int, height: int = 18, width: int = 20) -> np.ndarray:
    """A slope that moves, between 4 mm and 11 m, with a hole where nothing was measured."""
    generator = np.random.default_rng([tick, episode])
    slope = np.geomspace(0.004, 11, height * width).reshape(height, width) + generator.random((height, width))
    slope[3, 4] = np.nan
    return slope.astype(np.float32)


DEPTH = {
    "observation.images.depth": depth_feature("observation.images.depth", 18, 20),
    "near": depth_feature("near", 18, 20, scale=DepthScale(low=0.1, high=2.0, logarithmic=False)),
    "exact": depth_feature("exact", 18, 20, kept="image"),
    "whole": depth_feature("whole", 18, 20, kept="image", unit="mm"),
}


def record_depth(folder: Path, episodes: int = 2, first: int = 0, columns=None, **options) -> Path:
    columns = DEPTH if columns is None else columns
    with Recorder(SMALL, folder, columns={**columns, "reward": "float32"}, **options) as recorder:
        for episode in range(first, first + episodes):
            for tick in range(3 + episode):
                told = dict.fromkeys(columns, depth_at(tick, episode))
                recorder.tick(observe(tick), np.zeros(3, np.float32), extra={**told, "reward": 0.5})
            recorder.end_episode()
    return folder


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_depth_comes_back_to_the_nearest_step(tmp_path, options):
    reader = LeRobotReader(record_depth(tmp_path / "set", 3, **options))
    assert [feature.name for feature in reader.features.values() if feature.depth] == list(DEPTH)
    assert reader.extra == ("reward",)
    for episode in range(3):
        expected = np.nan_to_num(np.stack([depth_at(tick, episode) for tick in range(3 + episode)]))
        for name, feature in DEPTH.items():
            found = np.stack(list(reader.pictures(episode, name)))
            assert found.dtype == np.float32
            if name == "exact":
                np.testing.assert_array_equal(found, expected)
            elif name == "whole":
                np.testing.assert_allclose(found, expected, atol=0.0005 + 1e-6)
            else:
                scale = DepthScale.from_info(name, feature.info)
                codes = np.stack([scale.encode(picture) for picture in expected])
                np.testing.assert_array_equal(found, np.stack([scale.decode(code) for code in codes]))
                inside = (expected > scale.low) & (expected < scale.high)
                # half of a step where it is coarsest, at the far end of the range; and float32
                step = np.diff(scale.decode(np.array([[4094, 4095]], np.uint16))).item()
                np.testing.assert_allclose(found[inside], expected[inside], atol=step / 2 + 2e-6)
    stored = reader.stored_stats()
    assert stored["exact"]["mean"].shape == (1, 1, 1)
    assert stored["whole"]["max"].item() == pytest.approx(1000 * stored["exact"]["max"].item())
    (picture,) = reader.pictures(2, "observation.images.depth", start=4, count=1)
    np.testing.assert_array_equal(picture, list(reader.pictures(2, "observation.images.depth"))[4])


@pytest.mark.parametrize("options", [{}, {"version": "v2.1"}], ids=str)
def test_a_recording_with_depth_goes_on(tmp_path, options):
    whole = record_depth(tmp_path / "whole", 3, **options)
    parts = record_depth(tmp_path / "parts", 1, **options)
    record_depth(parts, 2, first=1, resume=True, **options)
    found = {str(p.relative_to(whole)): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert found == {str(p.relative_to(parts)): p.read_bytes() for p in parts.rglob("*") if p.is_file()}
    assert LeRobotReader(whole).hash == LeRobotReader(parts).hash
    other = {**DEPTH, "near": depth_feature("near", 18, 20)}
    with pytest.raises(DataError, match="of the same size and scale"):
        record_depth(parts, 1, resume=True, columns=other, **options)
    with pytest.raises(DataError, match="has the depth"):
        record_depth(parts, 1, resume=True, columns={}, **options)


def test_the_hash_knows_depth(tmp_path):
    one = record_depth(tmp_path / "one", 1)
    changed = {**DEPTH, "near": depth_feature("near", 18, 20)}
    assert LeRobotReader(one).hash != LeRobotReader(record_depth(tmp_path / "two", 1, columns=changed)).hash


@pytest.mark.parametrize(
    ("meters", "said"),
    [
        (np.zeros((18, 19), np.float32), "shape \\[18, 20\\]"),
        (np.zeros((18, 20), np.uint16), "Divide millimeters"),
        (np.full((18, 20), np.inf), "far end of the range"),
        (np.full((18, 20), -1.0), "0 or more, got -1"),
        (np.full((18, 20), 70.0), "unit='m'"),
    ],
)
def test_what_is_no_depth_is_refused_and_nothing_appended(tmp_path, meters, said):
    with Recorder(SMALL, tmp_path / "set", columns={"whole": DEPTH["whole"]}) as recorder:
        with pytest.raises(DataError, match=said):
            recorder.tick(observe(0), np.zeros(3, np.float32), extra={"whole": meters})
        assert recorder.running == 0


def test_columns_that_are_no_depth_are_refused(tmp_path):
    color = Feature(name="color", dtype="video", shape=(18, 20, 3))
    for column, said in (
        (color, "depth_feature"),
        (depth_feature("color", 8, 20), "kept='image'"),
        ("video", "depth_feature"),
    ):
        with pytest.raises(ValueError, match=said):
            Recorder(SMALL, tmp_path / "set", columns={"color": column})
    with pytest.raises(ValueError, match="camera of this name"):
        Recorder(SMALL, tmp_path / "set", columns={"front": depth_feature("front", 18, 20)})
    with pytest.raises(ValueError, match="way to keep depth"):
        depth_feature("front", 18, 20, kept="videos")
    with pytest.raises(DataError, match="is empty"):
        depth_feature("front", 18, 20, scale=DepthScale(low=3.0, high=2.0))
