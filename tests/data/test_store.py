from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from visuomotor.data import cache
from visuomotor.data import store as module
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.store import FrameStore, cache_folder
from visuomotor.data.synthetic import make_dataset
from visuomotor.errors import DataError


def entries(folder: Path) -> list[str]:
    """What lies in a cache, lock files left out."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


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
    assert entries(tmp_path) == [reader.hash]


def test_who_waits_for_a_store_waits_for_nobody_who_reads_it(reader, tmp_path):
    """The one who built it reads on, maybe for days, and what waited goes on when it is there."""
    place = tmp_path / "entry"
    building = Event()

    def build(temporary: Path, tell: object) -> None:
        building.set()
        time.sleep(0.3)  # meanwhile the other one comes to wait

    def first() -> None:
        cache.build_once(place, build, None)
        held.append(cache.Hold(place))

    held: list[cache.Hold] = []
    threads = [Thread(target=first), Thread(target=lambda: cache.build_once(place, build, None), daemon=True)]
    threads[0].start()
    building.wait()
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert held
    assert not threads[1].is_alive()


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

    monkeypatch.setattr(module, "build", full)
    with pytest.raises(DataError, match=r"disk is full: 0\.00 GB are needed.*XDG_CACHE_HOME"):
        FrameStore.of(reader, tmp_path, storage="raw")
    assert not entries(tmp_path)


def disk_of(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the disk look as if `free` bytes were left on it."""
    usage = shutil._ntuple_diskusage(10 * free, 9 * free, free)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize("storage", ["auto", "raw", "jpeg"])
def test_too_little_space_is_said_before_the_work(reader, tmp_path, monkeypatch, storage):
    disk_of(10, monkeypatch)
    with pytest.raises(DataError, match=r"disk is full: .*GB are needed.* --frames videos"):
        FrameStore.of(reader, tmp_path, storage=storage)
    assert not entries(tmp_path)


def test_pictures_are_kept_as_jpeg_where_the_disk_is_short(reader, store, tmp_path, monkeypatch):
    need = module.raw_bytes(reader)
    disk_of(2 * need - 1, monkeypatch)  # half of what is free is for stores
    monkeypatch.setattr(module, "jpeg_bytes", lambda _: need // 2)  # so small a JPEG is mostly header
    with pytest.warns(UserWarning, match="kept as JPEG, about 0.00 GB"):
        short = FrameStore.of(reader, tmp_path)
    assert short.storage == "jpeg"
    assert entries(tmp_path) == [f"{reader.hash}.jpeg"]
    assert FrameStore.of(reader, tmp_path).storage == "jpeg"  # taken as it is, without a word
    for camera, pictures in short.frames.items():
        exact = store.frames[camera]
        assert pictures.shape == exact.shape
        rows = np.array([3, 0, 3, len(reader) - 1])
        got, expected = pictures[rows].astype(int), exact[rows].astype(int)
        np.testing.assert_array_equal(got[0], got[2])
        # 6: colored squares of two or four pixels are the hardest pictures that JPEG can meet
        assert np.abs(got - expected).mean() < 6
        np.testing.assert_array_equal(pictures[2:4], pictures[np.array([2, 3])])
    disk_of(4 * need, monkeypatch)
    assert FrameStore.of(reader, tmp_path, storage="raw").storage == "raw"
    assert FrameStore.of(reader, tmp_path).storage == "raw"  # the better one, now that there is one


def test_an_error_while_decoding_leaves_nothing_half_built(tmp_path):
    folder = make_dataset(tmp_path / "moves", episodes=2)
    reader = LeRobotReader(folder)
    video = next(folder.glob("videos/*wrist/*/*.mp4"))
    video.write_bytes(video.read_bytes()[:-200])
    with pytest.raises(DataError, match="episode 0, camera 'wrist'"):
        FrameStore.of(reader, tmp_path / "cache")
    assert not entries(tmp_path / "cache")


def test_what_a_killed_process_left_is_removed(reader, tmp_path):
    (tmp_path / f"{reader.hash}.tmp-abc").mkdir()
    FrameStore.of(reader, tmp_path)
    assert entries(tmp_path) == [reader.hash]


def other_process(code: str, *words: str) -> subprocess.Popen[str]:
    script = "import sys\nfrom visuomotor.data.lerobot import LeRobotReader\n"
    script += "from visuomotor.data.store import FrameStore\n" + code
    return subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True)


SLOW = """
import time
def tell(done, total):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))
FrameStore.of(LeRobotReader(sys.argv[1]), sys.argv[2], tell, threads=1)
"""


def test_of_two_processes_one_builds_and_the_other_waits(dataset, reader, tmp_path):
    with other_process(SLOW, str(dataset), str(tmp_path), "0.05") as builder:
        assert builder.stdout is not None
        builder.stdout.readline()  # it is at work
        told: list[tuple[int, int]] = []
        store = FrameStore.of(reader, tmp_path, lambda done, total: told.append((done, total)))
        rest = builder.stdout.read().split()
    assert told  # the progress of the other one
    assert {done for done, _ in told} <= {*map(int, rest), *(done for done, _ in told[:1])}
    assert store.folder.exists()
    assert entries(tmp_path) == [reader.hash]


def test_a_builder_that_is_killed_is_no_trouble(dataset, reader, tmp_path):
    with other_process(SLOW, str(dataset), str(tmp_path), "60") as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        builder.kill()
    assert [name for name in entries(tmp_path) if ".tmp-" in name]
    FrameStore.of(reader, tmp_path)
    assert entries(tmp_path) == [reader.hash]


def others(tmp_path: Path, count: int) -> list[LeRobotReader]:
    return [LeRobotReader(make_dataset(tmp_path / str(n), episodes=2, seed=n)) for n in range(count)]


def test_the_least_recently_used_store_makes_room_and_none_in_use_does(tmp_path):
    cache, readers = tmp_path / "cache", others(tmp_path, 4)
    limit = sum(module.raw_bytes(reader) for reader in readers[:3]) + 4000  # three of them with their indices
    first = FrameStore.of(readers[0], cache, limit=limit)
    for reader in readers[1:3]:
        FrameStore.of(reader, cache, limit=limit)
    for age, reader in enumerate(readers[:3]):
        os.utime(cache / f"{reader.hash}.lock", (age, age))
    FrameStore.of(readers[3], cache, limit=limit)
    assert entries(cache) == sorted(readers[n].hash for n in (0, 2, 3))  # 0 is older, and open
    np.testing.assert_array_equal(first.frames["front"][0], next(readers[0].frames(0, "front")))
    with pytest.raises(DataError, match="disk is full"):
        FrameStore.of(readers[1], cache, limit=1000, storage="raw")


def test_the_limit_is_read_from_the_environment(tmp_path, monkeypatch):
    (reader,) = others(tmp_path, 1)
    monkeypatch.setenv("VISUOMOTOR_CACHE_GB", "0.000001")
    with pytest.raises(DataError, match=r"VISUOMOTOR_CACHE_GB"):
        FrameStore.of(reader, tmp_path / "cache")
    monkeypatch.setenv("VISUOMOTOR_CACHE_GB", "much")
    with pytest.raises(ValueError, match="expected a number of gigabytes, got 'much'"):
        FrameStore.of(reader, tmp_path / "cache")


def test_a_pickled_store_opens_the_same_files(store):
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    for camera, frames in store.frames.items():
        np.testing.assert_array_equal(again.frames[camera], frames)


def test_a_store_that_a_power_cut_may_have_spoiled_is_refused(reader, tmp_path):
    folder = FrameStore.of(reader, tmp_path).folder
    meta = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**meta, "boot": "another"}))
    deadline = time.monotonic() + 60
    while not (folder / "durable").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    FrameStore.of(reader, tmp_path)
    (folder / "durable").unlink()
    with pytest.raises(DataError, match="went down before"):
        FrameStore.of(reader, tmp_path)


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
        (damage_version, "expected version 2 of the frame store, got 0"),
        (damage_index, "not the index of a frame store"),
    ],
)
def test_a_damaged_store_is_refused_with_what_to_do(reader, tmp_path, damage, message):
    damage(FrameStore.of(reader, tmp_path).folder)
    with pytest.raises(DataError, match=f"{message}.*Delete"):
        FrameStore.of(reader, tmp_path)
