from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.store import FrameStore
from visuomotor.data.synthetic import SPEC, make_dataset, make_episode
from visuomotor.data.video import StillSettings, VideoSettings
from visuomotor.data.windows import Windows
from visuomotor.data.writer21 import LeRobotWriter21
from visuomotor.errors import DataError
from visuomotor.types import Window


def test_any_rows_in_any_order_are_what_sequential_decoding_gives(reader, store):
    frames, generator = VideoFrames(reader), np.random.default_rng(0)
    for _ in range(40):
        rows = generator.integers(0, len(reader), generator.integers(1, 6))
        for camera, pictures in frames.frames.items():
            assert pictures.shape == store.frames[camera].shape
            np.testing.assert_array_equal(pictures[rows], store.frames[camera][rows])
    np.testing.assert_array_equal(frames.frames["front"][5:9], store.frames["front"][5:9])


@pytest.mark.parametrize("gap", [1, 3, 100])
def test_key_frames_may_be_anywhere(tmp_path, gap, monkeypatch):
    class Sparse(VideoSettings):
        def __init__(self) -> None:
            super().__init__(gap=gap)

    monkeypatch.setattr("visuomotor.data.episode.VideoSettings", Sparse)
    reader = LeRobotReader(make_dataset(tmp_path / "set", episodes=2))
    whole = np.concatenate([np.stack(list(reader.frames(n, "front"))) for n in range(2)])
    frames = VideoFrames(reader).frames["front"]
    for rows in ([7, 2], [20, 3, 3, 4], [0], [11, 12], [1, 9, 18]):
        np.testing.assert_array_equal(frames[rows], whole[rows])


def test_no_more_files_stay_open_than_allowed(tmp_path):
    with LeRobotWriter(tmp_path / "set", SPEC, executed=True, episodes_per_file=1) as writer:
        writer.add(*(make_episode(seed, ticks=4) for seed in range(5)))
    reader = LeRobotReader(tmp_path / "set")
    frames = VideoFrames(reader, open_files=3)
    for row in (0, 19, 8, 3, 12, 1, 17):
        expected = list(reader.frames(row // 4, "wrist"))[row % 4]
        np.testing.assert_array_equal(frames.frames["wrist"][[row]][0], expected)
        assert len(frames._open) <= 3
    frames.close()
    assert not frames._open
    assert len(frames.frames["front"][[2]]) == 1  # opened again
    with pytest.raises(ValueError, match="open_files >= 1"):
        VideoFrames(reader, open_files=0)


def test_samples_are_equal_with_and_without_a_store(reader, store):
    window = Window(history=(-3, 0), horizon=2)
    stored = Windows(reader, store, window, "a")
    decoded = pickle.loads(pickle.dumps(Windows(reader, VideoFrames(reader), window, "a")))
    for index in (0, 1, 30, len(stored) - 1):
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(decoded[index].images[camera], stored[index].images[camera])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def spoil(path: Path) -> None:
    path.write_bytes(b"no video")


@pytest.mark.parametrize("damage", [cut, spoil, Path.unlink])
def test_a_damaged_video_is_an_error_that_says_where(tmp_path, damage):
    folder = make_dataset(tmp_path / "set", episodes=2)
    frames = VideoFrames(LeRobotReader(folder))
    damage(next(folder.glob("videos/*wrist/*/*.mp4")))
    with pytest.raises(DataError, match=r"episode [01], camera 'wrist': .*\.mp4"):
        frames.frames["wrist"][:]
    with pytest.raises(DataError, match=r"episode [01], camera 'wrist'"):
        frames.frames["wrist"][[20]]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_pictures_in_tables_make_samples_with_and_without_a_store(tmp_path, version):
    kind = LeRobotWriter if version == "v3.0" else LeRobotWriter21
    with kind(tmp_path / "set", SPEC, executed=True, settings=StillSettings()) as writer:
        writer.add(*(make_episode(seed, ticks=4 + seed, settings=StillSettings()) for seed in range(3)))
    reader = LeRobotReader(tmp_path / "set")
    store = FrameStore.of(reader, tmp_path / "cache")
    frames = pickle.loads(pickle.dumps(VideoFrames(reader, open_files=2)))
    for camera in ("front", "wrist"):
        whole = np.concatenate([np.stack(list(reader.frames(n, camera))) for n in range(3)])
        np.testing.assert_array_equal(store.frames[camera][:], whole)
        for rows in ([14, 2], [3, 3, 4, 8], [0], [9, 0, 14]):
            np.testing.assert_array_equal(frames.frames[camera][rows], whole[rows])
    assert len(frames._open) <= 2
    window = Window(history=(-1, 0), horizon=2)
    one, other = Windows(reader, store, window, "a")[5], Windows(reader, frames, window, "a")[5]
    np.testing.assert_array_equal(one.images["wrist"], other.images["wrist"])
    for path in (tmp_path / "set").glob("data/*/*.parquet"):
        path.unlink()
    frames.close()
    with pytest.raises(DataError, match=r"episode 0, camera 'front': .*\.parquet: cannot be read"):
        frames.frames["front"][[0]]
