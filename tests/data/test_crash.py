"""Whatever moment a writer dies at, the finished episodes stay readable and writing can go on."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from visuomotor.data import files
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.synthetic import SPEC, make_episode
from visuomotor.errors import DataError

EPISODES = [make_episode(seed, ticks=5) for seed in range(3)]


class Killed(BaseException):
    """What ends a writer between two instructions."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, *, resume: bool = False) -> int:
    """Write what is missing of `EPISODES`, one by one; returns how many were finished at the end."""
    writer = LeRobotWriter(folder, SPEC, executed=True, episodes_per_file=2, resume=resume)
    for episode in EPISODES[writer.episodes :]:
        writer.add(episode)
    writer.close()
    return writer.episodes


def check_finished(folder: Path, finished: int) -> None:
    """At least `finished` episodes can be read, each as it was recorded, pictures included."""
    reader = LeRobotReader(folder)
    assert len(reader.episodes) >= finished
    for entry, episode in zip(reader.episodes, EPISODES):
        np.testing.assert_array_equal(
            reader.actions[entry.start : entry.start + entry.length], episode.actions
        )
        for camera in SPEC.cameras:
            assert len(list(reader.frames(entry.index, camera.name))) == entry.length


def strike_at(monkeypatch: pytest.MonkeyPatch, strike: int, error: BaseException) -> None:
    """Raise `error` when the `strike`-th file is about to be put in its place.

    Nothing changes on disk between one such moment and the next, so these are all there are.
    """
    real, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == strike:
            raise error
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


def finished_when_struck(folder: Path) -> int | None:
    """How many episodes `add` had returned for when the writer died; None if it lived."""
    writer, finished = None, 0
    try:
        writer = LeRobotWriter(folder, SPEC, executed=True, episodes_per_file=2)
        for episode in EPISODES:
            writer.add(episode)
            finished += 1
        writer.close()
    except Killed:
        return finished
    return None


def test_death_at_any_file_loses_nothing_finished(tmp_path, monkeypatch):
    write(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    for strike in range(1, 100):
        folder = tmp_path / str(strike)
        with monkeypatch.context() as patch:
            strike_at(patch, strike, Killed())
            finished = finished_when_struck(folder)
        if finished is None:
            break
        if finished:
            check_finished(folder, finished)
        write(folder, resume=True)
        assert content(folder) == expected, f"died at file {strike}"
    assert strike > 15  # every file of every commit was tried


def test_a_full_disk_at_any_file_loses_nothing_finished(tmp_path, monkeypatch):
    for strike in range(4, 20, 3):
        folder = tmp_path / str(strike)
        with monkeypatch.context() as patch:
            strike_at(patch, strike, OSError(errno.ENOSPC, "No space left on device"))
            with pytest.raises(DataError, match=r"the disk is full: .* stay readable"):
                write(folder)
        assert not list(folder.rglob(".*.tmp"))
        write(folder, resume=True)
        check_finished(folder, len(EPISODES))


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    strike_at(monkeypatch, 6, PermissionError(errno.EACCES, "denied"))
    with pytest.raises(PermissionError):
        write(tmp_path / "set")


def fill(writer: LeRobotWriter) -> None:
    for number in range(100):
        writer.add(make_episode(number, ticks=5))


def test_a_disk_that_is_really_full_loses_nothing_finished(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(mounted)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    try:
        writer = LeRobotWriter(mounted / "set", SPEC, executed=True, episodes_per_file=2)
        with pytest.raises(DataError, match=r"the disk is full: .* stay readable"):
            fill(writer)
        assert writer.episodes > 0
        reader = LeRobotReader(mounted / "set")
        assert len(reader.episodes) >= writer.episodes
        for entry in reader.episodes:
            assert len(list(reader.frames(entry.index, "front"))) == entry.length
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


ENDLESS = """
import sys
from visuomotor.data.lerobot import LeRobotWriter
from visuomotor.data.synthetic import SPEC, make_episode

writer = LeRobotWriter(sys.argv[1], SPEC, executed=True, episodes_per_file=3, resume=True)
while True:
    writer.add(make_episode(writer.episodes, ticks=6))
    print(writer.episodes, flush=True)
"""


def test_kill_9_loses_nothing_finished(tmp_path):
    folder, generator = tmp_path / "set", np.random.default_rng(0)
    told = 0
    for _ in range(3):
        before = told
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            while told < before + 2:
                told = int(process.stdout.readline())
            time.sleep(generator.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            told = int((process.stdout.read().split() or [told])[-1])
        reader = LeRobotReader(folder)
        assert len(reader.episodes) in (told, told + 1)  # one may have been finished and not told any more
        assert [entry.seed for entry in reader.episodes] == list(range(len(reader.episodes)))
        for camera in SPEC.cameras:
            for entry in reader.episodes:
                assert len(list(reader.frames(entry.index, camera.name))) == entry.length
        told = len(reader.episodes)
