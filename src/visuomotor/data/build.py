"""Fills the files of a frame store: every picture of a data set, decoded once.

0.u8  1.u8 ...            raw: uint8, row = tick
0.jpg 0.npy  1.jpg ...    JPEGs in the order in which they were made, and where each tick's lies
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import IO

import numpy as np

from visuomotor.data.cache import Progress
from visuomotor.data.frames import VideoFrames
from visuomotor.data.jpeg import JpegEncoder
from visuomotor.data.reader import EpisodeEntry, LeRobotReader
from visuomotor.types import Camera

__all__ = ["build", "jpeg_bytes", "raw_bytes"]

_PROBED = 16
"""Pictures of each camera that are compressed to foretell the size of all."""
_MARGIN = 1.25

Put = Callable[[EpisodeEntry, Iterable[np.ndarray]], None]
"""Stores the pictures of one episode."""


def raw_bytes(reader: LeRobotReader) -> int:
    """Bytes of all pictures as they are."""
    return sum(len(reader) * camera.height * camera.width * 3 for camera in reader.spec.cameras)


def jpeg_bytes(reader: LeRobotReader) -> int:
    """About as many bytes as all pictures take as JPEG, rather more than less."""
    rows = np.unique(np.linspace(0, len(reader) - 1, _PROBED).astype(np.int64))
    frames, total = VideoFrames(reader), 0.0
    for camera in reader.spec.cameras:
        encoder = JpegEncoder(camera.height, camera.width)
        total += float(np.mean([len(encoder.encode(p)) for p in frames.read(camera.name, rows)]))
    frames.close()
    return int(_MARGIN * total * len(reader))


def build(reader: LeRobotReader, folder: Path, kind: str, threads: int | None, progress: Progress) -> None:
    """Decode everything into `folder`, several videos at once, as PyAV lets other threads run."""
    total = len(reader) * len(reader.spec.cameras)
    done, lock, stop = 0, Lock(), Event()

    def counted(pictures: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        nonlocal done
        for number, picture in enumerate(pictures, start=1):
            yield picture
            if number % 16 == 0 and stop.is_set():
                return
        with lock:
            done += number
            progress(done, total)

    def work(camera: str, put: Put, entries: list[EpisodeEntry]) -> None:
        stored = reader.features[reader.keys[camera]].dtype == "image"
        straight = stored or entries[0].videos[camera].sha256 is not None
        frames = VideoFrames(reader, open_files=1)  # opening a video costs as much as several pictures
        for entry in entries:
            if stop.is_set():
                return
            put(
                entry,
                counted(
                    reader.frames(entry.index, camera) if straight else frames.episode(camera, entry.index)
                ),
            )
        frames.close()

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        jobs, files = [], []
        for number, camera in enumerate(reader.spec.cameras):
            file = (_Raw if kind == "raw" else _Jpeg)(folder, number, camera, len(reader))
            files.append(file)
            by_video: dict[Path, list[EpisodeEntry]] = {}
            for entry in reader.episodes:
                by_video.setdefault(entry.videos[camera.name].path, []).append(entry)
            jobs += [pool.submit(work, camera.name, file.put, entries) for entries in by_video.values()]
        try:
            for job in jobs:
                job.result()
            for file in files:
                file.close()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class _Raw:
    """The file of one camera, uint8 (tick, height, width, 3)."""

    def __init__(self, folder: Path, number: int, camera: Camera, ticks: int) -> None:
        self._path = folder / f"{number}.u8"
        self._path.touch()
        self._size = camera.height * camera.width * 3

    def put(self, entry: EpisodeEntry, pictures: Iterable[np.ndarray]) -> None:
        # written, not mapped: a full disk then is an error and not a SIGBUS
        with self._path.open("r+b", buffering=0) as file:
            file.seek(entry.start * self._size)
            for picture in pictures:
                _write(file, np.ascontiguousarray(picture).data.cast("B"))

    def close(self) -> None:
        """Nothing is left to be written."""


class _Jpeg:
    """JPEGs of one camera, appended as they come, and their places."""

    def __init__(self, folder: Path, number: int, camera: Camera, ticks: int) -> None:
        self._path, self._index = folder / f"{number}.jpg", folder / f"{number}.npy"
        self._path.touch()
        self._camera = camera
        self._places = np.zeros((ticks, 2), np.int64)
        self._end, self._lock = 0, Lock()

    def put(self, entry: EpisodeEntry, pictures: Iterable[np.ndarray]) -> None:
        encoder = JpegEncoder(self._camera.height, self._camera.width)
        encoded = [encoder.encode(picture) for picture in pictures]
        lengths = np.array([len(data) for data in encoded])
        with self._lock, self._path.open("ab") as file:
            file.write(b"".join(encoded))
            begins = self._end + np.cumsum(lengths) - lengths
            self._places[entry.start : entry.start + entry.length] = np.stack([begins, lengths], axis=1)
            self._end += int(lengths.sum())

    def close(self) -> None:
        np.save(self._index, self._places)


def _write(file: IO[bytes], data: memoryview) -> None:
    """All of `data`, in as many calls as the system wants."""
    while data:
        data = data[file.write(data) :]
