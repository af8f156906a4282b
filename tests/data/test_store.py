from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from visuomotor.data import store as module
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.store import FrameStore, cache_folder
from visuomotor.data.synthetic import make_dataset
from visuomotor.errors import DataError


def test_it_holds_what_decoding_gives(reader, store):
    for camera, frames in store.frames.items():
        for episode in reader.episodes:
            expected = np.stack(list(reader.frames(episode.index, camera)))
            np.testing.assert_array_equal(frames[episode.start : episode.start + episode.length], expected)
        assert not frames.flags.writeable


def test_it_is_built_once(reader, tmp_path):
    calls: list[tuple[int, int]] = []
    first = FrameStore.of(reader, tmp_path, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(reader) * 2, len(reader) * 2)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    assert (
        FrameStore.of(reader, tmp_path, lambda done, total: calls.append((done, total))).folder
        == first.folder
    )
    assert not calls
    assert [path.name for path in tmp_path.iterdir()] == [reader.hash]


def test_other_content_has_another_store(reader, tmp_path):
    other = LeRobotReader(make_dataset(tmp_path / "other", episodes=5, seed=100))
    assert FrameStore.of(other, tmp_path / "c").folder != FrameStore.of(reader, tmp_path / "c").folder


def test_the_cache_lies_where_the_system_wants_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/visuomotor/frames")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "visuomotor" / "frames"


def test_a_full_disk_leaves_nothing_half_built(reader, tmp_path, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_decode_all", full)
    with pytest.raises(DataError, match=r"disk is full: 0\.00 GB are needed.*XDG_CACHE_HOME"):
        FrameStore.of(reader, tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_said_before_the_work(reader, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="disk is full"):
        FrameStore.of(reader, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_while_decoding_leaves_nothing_half_built(tmp_path):
    folder = make_dataset(tmp_path / "moves", episodes=2)
    reader = LeRobotReader(folder)
    video = next(folder.glob("videos/*wrist/*/*.mp4"))
    video.write_bytes(video.read_bytes()[:-200])
    with pytest.raises(DataError, match="episode 0, camera 'wrist'"):
        FrameStore.of(reader, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_a_killed_process_left_is_removed(reader, tmp_path):
    dead = tmp_path / f"{reader.hash}.tmp-999999999-abc"
    alive = tmp_path / f"{reader.hash}.tmp-{os.getpid()}-abc"
    dead.mkdir()
    alive.mkdir()
    FrameStore.of(reader, tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_a_faster_process_wins(reader, tmp_path, monkeypatch):
    decode = module._decode_all

    def race(*arguments) -> None:
        decode(*arguments)
        monkeypatch.setattr(module, "_decode_all", decode)
        FrameStore.of(reader, tmp_path)  # another process finishes first

    monkeypatch.setattr(module, "_decode_all", race)
    FrameStore.of(reader, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [reader.hash]


def damage_size(folder: Path) -> None:
    with (folder / "1.u8").open("r+b") as file:
        file.truncate(100)


def damage_version(folder: Path) -> None:
    meta = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**meta, "version": 0}))


def damage_index(folder: Path) -> None:
    (folder / "store.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_size, r"1\.u8: expected \d+ bytes of camera 'wrist', found 100"),
        (damage_version, "expected version 1 of the frame store, got 0"),
        (damage_index, "not the index of a frame store"),
    ],
)
def test_a_damaged_store_is_refused_with_what_to_do(reader, tmp_path, damage, message):
    damage(FrameStore.of(reader, tmp_path).folder)
    with pytest.raises(DataError, match=f"{message}.*Delete"):
        FrameStore.of(reader, tmp_path)
