"""Decoded pictures in memory-mapped files, so that training reads a frame in a microsecond.

A store lies in a cache folder under the hash of its data set, one file a camera, uint8, row = tick.
It is built once, beside its place, and renamed into it when complete: what has the right name is
whole. Processes share it through the page cache of the system.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

import numpy as np
from jaxtyping import UInt8

from visuomotor.data.files import disk_full
from visuomotor.data.reader import LeRobotReader
from visuomotor.errors import DataError
from visuomotor.types import Camera

__all__ = ["FrameStore", "cache_folder"]

_VERSION = 1
Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/visuomotor/frames, or the same under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visuomotor" / "frames"


class FrameStore:
    """All pictures of one data set.

    Args:
        folder: A store that `FrameStore.of` built.

    Attributes:
        frames: Camera name to uint8 (tick, height, width, 3), read-only, mapped from the file.

    Raises:
        DataError: Another version, or files of the wrong size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "store.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            version, ticks = meta["version"], meta["ticks"]
            cameras = [Camera.from_json(camera) for camera in meta["cameras"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the index of a frame store ({error}). {self._rebuild()}") from error
        if version != _VERSION:
            raise DataError(
                f"{path}: expected version {_VERSION} of the frame store, got {version}. {self._rebuild()}"
            )
        self.frames: Mapping[str, UInt8[np.ndarray, "tick height width 3"]] = {
            camera.name: self._map(camera, number, ticks) for number, camera in enumerate(cameras)
        }

    @classmethod
    def of(
        cls, reader: LeRobotReader, cache: str | Path | None = None, progress: Progress | None = None
    ) -> FrameStore:
        """The store of a data set, built now if the cache has none.

        Args:
            reader: The data set.
            cache: Folder that holds stores; `cache_folder()` if None.
            progress: Called now and then while building, with pictures done and in all.

        Raises:
            DataError: Pictures cannot be decoded, or the disk is full; nothing half-built stays.
        """
        folder = Path(cache) if cache is not None else cache_folder()
        place = folder / reader.hash
        if not place.exists():
            _build(reader, place, progress)
        return cls(place)

    def _map(self, camera: Camera, number: int, ticks: int) -> np.ndarray:
        path = self.folder / f"{number}.u8"
        shape = (ticks, camera.height, camera.width, 3)
        size = path.stat().st_size if path.exists() else 0
        if size != np.prod(shape):
            raise DataError(
                f"{path}: expected {np.prod(shape)} bytes of camera {camera.name!r}, found {size}. "
                + self._rebuild()
            )
        # a plain view: indexing np.memmap itself costs several times as much
        return np.memmap(path, np.uint8, "r", shape=shape).view(np.ndarray)

    def _rebuild(self) -> str:
        return f"Delete {self.folder}; it is built anew from the data set."


def _build(reader: LeRobotReader, place: Path, progress: Progress | None) -> None:
    """Decode every picture into a new folder and rename it to `place`."""
    need = sum(len(reader) * camera.height * camera.width * 3 for camera in reader.spec.cameras)
    full = (
        f"{need / 1e9:.2f} GB are needed for decoded pictures in {place.parent}. Free some space, or choose "
        "another folder for the cache (XDG_CACHE_HOME, or the argument `cache`)."
    )
    with disk_full(full):
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place)
        free = shutil.disk_usage(place.parent).free
        if free < need:
            raise DataError(f"the disk is full: {full} {free / 1e9:.2f} GB are free.")
        temporary = place.with_name(f"{place.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            _decode_all(reader, temporary, progress)
            meta = {
                "version": _VERSION,
                "source": reader.source,
                "ticks": len(reader),
                "cameras": [vars(camera) for camera in reader.spec.cameras],
            }
            (temporary / "store.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            try:
                temporary.rename(place)
            except OSError:
                if not place.exists():  # else another process was faster, and its store is as good
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(reader: LeRobotReader, folder: Path, progress: Progress | None) -> None:
    """Write one file a camera; video files are decoded in parallel, as PyAV lets other threads run."""
    total = len(reader) * len(reader.spec.cameras)
    done, lock, stop = 0, Lock(), Event()

    def write(number: int, camera: str, episodes: list[int]) -> None:
        nonlocal done
        with (folder / f"{number}.u8").open("r+b") as file:
            for episode in episodes:
                if stop.is_set():
                    return
                pictures = np.stack(list(reader.frames(episode, camera)))
                # written, not mapped: a full disk then is an error and not a SIGBUS
                file.seek(reader.episodes[episode].start * pictures[0].nbytes)
                file.write(pictures.data)
                with lock:
                    done += len(pictures)
                    if progress is not None:
                        progress(done, total)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        jobs = []
        for number, camera in enumerate(reader.spec.cameras):
            (folder / f"{number}.u8").touch()
            by_file: dict[Path, list[int]] = {}
            for entry in reader.episodes:
                by_file.setdefault(entry.videos[camera.name].path, []).append(entry.index)
            jobs += [pool.submit(write, number, camera.name, episodes) for episodes in by_file.values()]
        try:
            for job in jobs:
                job.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _remove_abandoned(place: Path) -> None:
    """Delete what killed processes left of this store."""
    for path in place.parent.glob(f"{place.name}.tmp-*"):
        process = int(path.name.rsplit(".tmp-", 1)[1].split("-")[0])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:  # alive, and somebody else's
            continue
