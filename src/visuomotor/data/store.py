"""Decoded pictures on disk, so that training reads a frame in microseconds.

A store lies in a cache folder under the hash of its data set: one memory-mapped file a camera, uint8,
row = tick; or, where the disk is short, one file of JPEGs a camera. It is built once, beside its place,
and renamed into it when complete: what has the right name is whole. Processes share it through the page
cache of the system. The least recently used stores are removed when all together grow over a limit.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Literal, get_args

import numpy as np

from visuomotor.data import cache
from visuomotor.data.build import build, jpeg_bytes, raw_bytes
from visuomotor.data.cache import Progress
from visuomotor.data.files import disk_full
from visuomotor.data.frames import Pictures
from visuomotor.data.jpeg import JpegPictures
from visuomotor.data.reader import LeRobotReader
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Camera

__all__ = ["FrameStore", "Storage", "cache_folder"]

Storage = Literal["auto", "raw", "jpeg"]
"""How pictures are kept: as they are, as JPEG, or as they are if the disk has room for that."""
LIMIT = "VISUOMOTOR_CACHE_GB"
"""Environment variable: gigabytes that all stores of a cache folder may take together."""
_VERSION = 2
_DURABLE = "durable"
_SUFFIX = {"raw": "", "jpeg": ".jpeg"}


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/visuomotor/frames, or the same under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visuomotor" / "frames"


class FrameStore:
    """All pictures of one data set.

    While the object lives, no process removes the store. It can be pickled; the copy opens the same files.

    Args:
        folder: A store that `FrameStore.of` built.

    Attributes:
        frames: Camera name to its pictures, uint8 (tick, height, width, 3), read-only: an array mapped
            from the file, or, kept as JPEG, `Pictures` that decode what is asked for.
        storage: "raw" or "jpeg".

    Raises:
        DataError: Another version, or files of the wrong size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._hold = cache.Hold(self.folder)
        path = self.folder / "store.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            version, ticks = meta["version"], meta["ticks"]
            self.storage: str = meta.get("storage", "raw")
            cameras = [Camera.from_json(camera) for camera in meta["cameras"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the index of a frame store ({error}). {self._rebuild()}") from error
        if version != _VERSION or self.storage not in _SUFFIX:
            raise DataError(
                f"{path}: expected version {_VERSION} of the frame store, got {version}. {self._rebuild()}"
            )
        if not _survived(self.folder, meta):
            raise DataError(f"{path}: the machine went down before this store was on disk. {self._rebuild()}")
        read = self._map if self.storage == "raw" else self._jpegs
        self.frames: Mapping[str, Pictures] = {
            camera.name: read(camera, number, ticks) for number, camera in enumerate(cameras)
        }

    @classmethod
    def of(
        cls,
        reader: LeRobotReader,
        cache: str | Path | None = None,
        progress: Progress | None = None,
        *,
        storage: Storage = "auto",
        limit: int | None = None,
        threads: int | None = None,
    ) -> FrameStore:
        """The store of a data set, built now if the cache has none.

        If another process builds it at this moment, this one waits for it.

        Args:
            reader: The data set.
            cache: Folder that holds stores; `cache_folder()` if None.
            progress: Called now and then while building, with pictures done and in all.
            storage: "auto" takes a store that is there, else builds "raw" if there is room, else "jpeg",
                with a warning that says so, because JPEG changes pictures a little.
            limit: Bytes that all stores of the cache may take together; $VISUOMOTOR_CACHE_GB if None,
                and half of what the disk has left for them if that is not set. The least recently
                used ones are removed to keep it, never one that is in use.
            threads: Video files that are decoded at once; as many as there are cores if None.

        Raises:
            DataError: Pictures cannot be decoded, or there is no room; nothing half-built stays.
        """
        if storage not in get_args(Storage):
            raise unknown_name("storage", storage, get_args(Storage))
        folder = Path(cache) if cache is not None else cache_folder()
        kinds = ("raw", "jpeg") if storage == "auto" else (storage,)
        while True:
            for kind in kinds:
                place = folder / f"{reader.hash}{_SUFFIX[kind]}"
                if place.exists():
                    try:
                        return cls(place)
                    except DataError:
                        if place.exists():  # else it was removed a moment ago
                            raise
            _build(reader, folder, storage, limit, threads, progress)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FrameStore.__init__(self, state["folder"])

    def _map(self, camera: Camera, number: int, ticks: int) -> Pictures:
        path = self.folder / f"{number}.u8"
        shape = (ticks, camera.height, camera.width, 3)
        self._check(path, int(np.prod(shape)), camera)
        # a plain view: indexing np.memmap itself costs several times as much
        return np.memmap(path, np.uint8, "r", shape=shape).view(np.ndarray)

    def _jpegs(self, camera: Camera, number: int, ticks: int) -> Pictures:
        index = self.folder / f"{number}.npy"
        try:
            places = np.load(index)
        except (OSError, ValueError) as error:
            raise DataError(f"{index}: cannot be read ({error}). {self._rebuild()}") from error
        if places.shape != (ticks, 2):
            raise DataError(f"{index}: expected {ticks} pictures, found {places.shape}. {self._rebuild()}")
        path = self.folder / f"{number}.jpg"
        self._check(path, int(places[:, 1].sum()), camera)
        return JpegPictures(path, places, camera.height, camera.width)

    def _check(self, path: Path, expected: int, camera: Camera) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise DataError(
                f"{path}: expected {expected} bytes of camera {camera.name!r}, found {size}. "
                + self._rebuild()
            )

    def _rebuild(self) -> str:
        return f"Delete {self.folder}; it is built anew from the data set."


def _build(
    reader: LeRobotReader,
    folder: Path,
    storage: Storage,
    limit: int | None,
    threads: int | None,
    progress: Progress | None,
) -> None:
    """Choose how to keep the pictures, make room for them, and put them there."""
    need = raw_bytes(reader)
    advice = (
        f"{need / 1e9:.2f} GB are needed for decoded pictures in {folder}. Free some space, choose another "
        f"folder for the cache (XDG_CACHE_HOME, or the argument `cache`), raise the limit ({LIMIT}), or "
        "read pictures from the videos (VideoFrames, or --frames videos)."
    )
    with disk_full(advice):
        folder.mkdir(parents=True, exist_ok=True)
        kind = storage
        if storage == "auto":
            kind = "raw" if need <= _room(folder, limit) else "jpeg"
        if kind == "jpeg":
            smaller = jpeg_bytes(reader)
            if storage == "auto" and smaller <= _room(folder, limit):
                warnings.warn(
                    f"{need / 1e9:.2f} GB of decoded pictures do not fit into {folder}; they are kept as "
                    f"JPEG, about {smaller / 1e9:.2f} GB, which changes them by a level or two of 255 and "
                    "takes a millisecond each to read.",
                    stacklevel=4,
                )
            need = smaller
        if need > (room := _room(folder, limit)):
            raise DataError(f"the disk is full: {advice} {room / 1e9:.2f} GB are there for them.")
        place = folder / f"{reader.hash}{_SUFFIX[kind]}"
        _make_room(folder, need, limit)

        def fill(temporary: Path, tell: Progress) -> None:
            build(reader, temporary, kind, threads, tell)
            meta = {
                "version": _VERSION,
                "storage": kind,
                "source": reader.source,
                "ticks": len(reader),
                "cameras": [vars(camera) for camera in reader.spec.cameras],
                "boot": _boot(),
            }
            (temporary / "store.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

        cache.build_once(place, fill, progress)
    if not (place / _DURABLE).exists():
        Thread(target=_settle, args=(place,), daemon=True).start()


def _settle(place: Path) -> None:
    """Wait until everything is on disk, and say so. Nobody has to wait for it: see `_survived`."""
    with suppress(OSError):  # removed meanwhile, or a disk that cannot; then the mark stays away
        for path in place.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        (place / _DURABLE).touch()


def _survived(place: Path, meta: Mapping[str, Any]) -> bool:
    """Whether what was written is there: it reached the disk, or the machine has not gone down since.

    After a power cut files can have the right size and hold zeros.
    """
    return (place / _DURABLE).exists() or meta.get("boot") == _boot()


def _boot() -> str | None:
    """What differs after each start of the machine; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _bound(folder: Path, limit: int | None, stores: int) -> float:
    """Bytes that all stores may take together."""
    if limit is not None:
        return limit
    if told := os.environ.get(LIMIT):
        try:
            return float(told) * 1e9
        except ValueError:
            raise ValueError(f"{LIMIT}: expected a number of gigabytes, got {told!r}.") from None
    return (shutil.disk_usage(folder).free + stores) / 2


def _room(folder: Path, limit: int | None) -> float:
    """Bytes that there are for a new store once every store that nobody uses is removed."""
    stores = cache.sizes(folder)
    used = sum(size for place, size in stores.items() if cache.in_use(place))
    free = shutil.disk_usage(folder).free + sum(stores.values()) - used
    return min(_bound(folder, limit, sum(stores.values())) - used, free)


def _make_room(folder: Path, need: int, limit: int | None) -> None:
    """Remove the least recently used stores until a new one fits."""
    stores = cache.sizes(folder)
    total = sum(stores.values())
    bound = _bound(folder, limit, total)
    for place, size in stores.items():
        if total + need <= bound and shutil.disk_usage(folder).free >= need:
            return
        if cache.evict(place):
            total -= size
