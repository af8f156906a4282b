"""What lerobot 0.6.1 wrote reads here as it reads there; `make_lerobot_golden.py` made the answers.

Those of v2.0 are of lerobot 0.3.3, by `make_lerobot_golden_v20.py`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from av.video.reformatter import Interpolation

from visuomotor.data import video
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.store import FrameStore
from visuomotor.data.windows import Windows
from visuomotor.types import Camera, Dimension, Spec, Window

GOLDEN = Path(__file__).parent / "lerobot_golden"
SETS = ("videos", "chunks", "images", "jpeg", "depth", "v21", "v20")


@cache
def answers(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "answers.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def opened(name: str) -> LeRobotReader:
    """The data set with a spec of its color cameras."""
    folder = GOLDEN / name / "set"
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    sizes = {
        key.removeprefix("observation.images."): feature["shape"]
        for key, feature in features.items()
        if feature["dtype"] in ("image", "video") and feature["shape"][2] == 3
    }
    spec = Spec(
        embodiment="golden",
        cameras=tuple(Camera(name=key, height=size[0], width=size[1]) for key, size in sizes.items()),
        state=tuple(Dimension(name=key) for key in ("a", "b", "gripper")),
        action=tuple(Dimension(name=key) for key in ("da", "gripper")),
        rate=10.0,
    )
    return LeRobotReader(folder, spec)


def place(reader: LeRobotReader, tick: int) -> tuple[int, int]:
    """Episode and tick within it."""
    episode = next(e for e in reader.episodes if e.start <= tick < e.start + e.length)
    return episode.index, tick - episode.start


def assert_same_pictures(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal within what two conversions to RGB differ by: swscale's fast one darkens, ours is accurate.

    Measured 1.4 to 1.7 levels on average; edges differ by more, as halved colors are smoothed otherwise.
    """
    difference = np.abs(ours.astype(int) - np.moveaxis(theirs, -3, -1))
    assert difference.mean() < 2
    assert np.quantile(difference, 0.9) <= 3


@pytest.mark.parametrize("name", SETS)
def test_every_number_and_text_is_that_of_lerobot(name):
    reader, told = opened(name), answers(name)
    ticks, compared = told["ticks"], 0
    for key, theirs in told.items():
        kind, _, feature = key.partition("|")
        if kind != "plain" or feature == "task" or reader.features[feature].pictures:
            continue
        ours = reader.column(feature)[ticks]
        assert ours.dtype == object or ours.dtype == reader.features[feature].numeric
        if ours.dtype != object:  # they make float32 and int64 of all numbers
            assert ours.shape == theirs.shape
            ours = ours.astype(theirs.dtype)
        np.testing.assert_array_equal(ours, theirs, err_msg=feature)
        compared += 1
    assert compared == len([f for f in reader.features.values() if not f.pictures])
    assert [reader.instruction(int(tick)) for tick in ticks] == told["plain|task"].tolist()


def test_every_dtype_is_among_them():
    dtypes = {feature.dtype for name in SETS for feature in opened(name).features.values()}
    assert dtypes >= {
        *("float16", "float32", "float64", "int32", "int64", "uint8", "bool", "string", "image", "video"),
    }
    assert {len(feature.shape) for feature in opened("videos").features.values()} == {1, 2, 3, 4}


@pytest.mark.parametrize("conversion", ["theirs", "ours"])
@pytest.mark.parametrize("name", [name for name in SETS if name != "jpeg"])
def test_every_picture_is_that_of_lerobot(name, conversion, monkeypatch):
    """Bit by bit, once video is converted to RGB as they do it."""
    if conversion == "theirs":
        monkeypatch.setattr(video, "_TO_RGB", Interpolation.BILINEAR)
    reader, told = opened(name), answers(name)
    for key, feature in reader.features.items():
        if not feature.pictures or feature.depth:
            continue
        for tick, theirs in zip(told["ticks"], told[f"plain|{key}"]):
            episode, at = place(reader, int(tick))
            (ours,) = reader.pictures(episode, key, start=at, count=1)
            if conversion == "theirs" or feature.dtype == "image":
                np.testing.assert_array_equal(ours, np.moveaxis(theirs, -3, -1))
            else:
                assert_same_pictures(ours, theirs)


def test_pictures_kept_as_jpeg_are_those_of_lerobot():
    """Theirs are decoded by libjpeg, ours by FFmpeg, which rounds otherwise: 2 levels at most.

    Measured mean differences are 0.007 levels at full resolution of color and 0.28 at half, where it is
    interpolated as well. Of levels of gray they give one channel, we give the three that info.json tells.
    """
    reader, told = opened("jpeg"), answers("jpeg")
    for name, mean in (("half", 0.4), ("full", 0.02), ("gray", 0.02)):
        key, differences = f"observation.images.{name}", []
        for tick, theirs in zip(told["ticks"], told[f"plain|{key}"]):
            episode, at = place(reader, int(tick))
            (ours,) = reader.pictures(episode, key, start=at, count=1)
            levels = theirs if theirs.dtype == np.uint8 else np.rint(theirs * 255)
            differences.append(np.abs(ours.astype(int) - np.moveaxis(levels, -3, -1)))
        assert np.max(differences) <= 2
        assert np.mean(differences) < mean


@pytest.mark.parametrize("name", ["images", "depth"])
def test_depth_is_that_of_lerobot(name):
    reader, told = opened(name), answers(name)
    keys = [key for key, feature in reader.features.items() if feature.depth]
    assert keys
    for key in keys:
        for tick, theirs in zip(told["ticks"], told[f"plain|{key}"]):
            episode, at = place(reader, int(tick))
            (ours,) = reader.pictures(episode, key, start=at, count=1)
            assert ours.dtype == np.float32
            # one float32 rounding of exp, or of millimeters to meters
            np.testing.assert_allclose(ours, theirs[0], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["videos", "v21", "v20"])
def test_windows_are_those_of_delta_timestamps(name, tmp_path):
    """History, horizon and masks; theirs says which ticks are padded, ours which are real."""
    reader, told = opened(name), answers(name)
    deltas = json.loads((GOLDEN / name / "deltas.json").read_text())
    history = tuple(round(10 * second) for second in deltas["observation.state"])
    assert history == tuple(round(10 * second) for second in deltas["observation.images.front"])
    window = Window(history=history, horizon=len(deltas["action"]))
    windows = Windows(reader, FrameStore.of(reader, tmp_path), window, "golden")
    masked = 0
    for row, tick in enumerate(told["ticks"]):
        sample = windows[int(tick)]
        for ours, mask, key in (
            (sample.state, sample.history_mask, "observation.state"),
            (sample.actions, sample.horizon_mask, "action"),
        ):
            np.testing.assert_array_equal(ours, told[f"deltas|{key}"][row])
            np.testing.assert_array_equal(mask, ~told[f"deltas|{key}_is_pad"][row])
            masked += int((~mask).sum())
        front = told["deltas|observation.images.front"][row]
        assert_same_pictures(sample.images["front"], front)
        np.testing.assert_array_equal(
            sample.image_mask["front"], ~told["deltas|observation.images.front_is_pad"][row]
        )
    assert masked > 10


def test_all_pictures_of_all_episodes_are_there():
    for name in SETS:
        reader = opened(name)
        for episode in reader.episodes:
            for camera in reader.spec.cameras:
                assert len(list(reader.frames(episode.index, camera.name))) == episode.length


def test_many_chunks_and_files_are_read():
    reader = opened("chunks")
    assert [(e.videos["front"].path.parent.name, e.videos["front"].path.stem) for e in reader.episodes] == [
        ("chunk-000", "file-000"),
        ("chunk-000", "file-001"),
        ("chunk-001", "file-000"),
        ("chunk-001", "file-001"),
        ("chunk-002", "file-000"),
    ]


def test_the_statistics_of_others_are_read_and_not_relied_on():
    for name in SETS:
        reader = opened(name)
        stored = reader.stored_stats()
        np.testing.assert_allclose(stored["observation.state"]["mean"], reader.stats["state"].mean, rtol=1e-5)
        np.testing.assert_allclose(stored["action"]["std"], reader.stats["action"].std, rtol=1e-4)
