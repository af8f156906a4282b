"""Reads LeRobot v3.0 data sets: tables into NumPy at once, pictures when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from visuomotor.data import layout
from visuomotor.data.stats import summarize
from visuomotor.data.tables import Tables, load_json, load_tables
from visuomotor.data.video import decode
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Spec, Stats

__all__ = ["EpisodeEntry", "LeRobotReader", "VideoPart"]


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """Where the pictures of one episode and camera lie.

    Attributes:
        path: The mp4 file.
        first: Number of the first picture in it.
        sha256: Hash of the compressed packets; None in foreign data sets.
    """

    path: Path
    first: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class EpisodeEntry:
    """One episode of a data set.

    Attributes:
        index: Its number.
        start: Row of its first tick.
        length: Ticks.
        instructions: Every wording used in it, in order of first use.
        seed: Seed of the scene, if it came from a simulator.
        videos: Camera name to its pictures.
    """

    index: int
    start: int
    length: int
    instructions: tuple[str, ...]
    seed: int | None
    videos: Mapping[str, VideoPart]


class LeRobotReader:
    """A LeRobot v3.0 data set, read and checked.

    Args:
        folder: The data set.
        spec: Meaning of its numbers and names of its cameras. Data sets written by visuomotor keep
            it in meta/visuomotor.json; for others it must be given, it is never guessed.

    Attributes:
        folder: Where it lies.
        spec: What body and data decide.
        meta: Content of meta/visuomotor.json; empty for a foreign data set.
        episodes: One entry an episode.
        state: float32 (tick, state), raw units, all episodes one after the other.
        actions: float32 (tick, action), the label at each tick.
        executed: float32 (tick, action), what was done; None if not recorded.
        tasks: Every wording in the data set.
        task_index: int64 (tick,), which wording holds at each tick.
        subtasks: Every subtask in the data set, empty if its ticks have none.
        subtask_index: int64 (tick,), which subtask holds at each tick; None if they have none.

    Raises:
        DataError: Not a data set, another version, damaged, or not of this spec.
    """

    def __init__(self, folder: str | Path, spec: Spec | None = None) -> None:
        self.folder = Path(folder)
        info = _load_info(self.folder)
        self.meta: Mapping[str, Any] = _load_sidecar(self.folder)
        self.spec = _agree(self.folder, self.meta, spec)
        executed = layout.EXECUTED in info["features"]
        widths = _check_features(self.folder, info, self.spec, executed=executed)
        tables = load_tables(self.folder, info, widths, ours=bool(self.meta))
        self.state: Float32[np.ndarray, "tick state"] = tables.vectors[layout.STATE]
        self.actions: Float32[np.ndarray, "tick action"] = tables.vectors[layout.ACTION]
        self.executed: Float32[np.ndarray, "tick action"] | None = tables.vectors.get(layout.EXECUTED)
        self.tasks = tables.tasks
        self.task_index: Int64[np.ndarray, " tick"] = tables.task_index
        self.subtasks = tables.subtasks
        self.subtask_index: Int64[np.ndarray, " tick"] | None = tables.subtask_index
        template = info.get("video_path") or layout.VIDEO_PATH
        self.episodes = tuple(self._entry(row, tables, template) for row in tables.episodes)

    def __len__(self) -> int:
        """Ticks in the whole data set."""
        return len(self.state)

    @property
    def rate(self) -> float:
        """Ticks a second."""
        return self.spec.rate

    @property
    def seeds(self) -> frozenset[int]:
        """Every seed that was used to make it, dropped demonstrations included."""
        kept = {episode.seed for episode in self.episodes if episode.seed is not None}
        return frozenset(kept | set(self.meta.get("seeds", ())))

    @property
    def source(self) -> str:
        """Name of the data set with the beginning of its hash, for statistics and reports."""
        return f"{self.folder.resolve().name}@{self.hash[:12]}"

    @cached_property
    def stats(self) -> Stats:
        """Exact statistics of "state" and "action", computed from the tables, never read from stats.json."""
        return Stats(
            source=self.source, features={"state": summarize(self.state), "action": summarize(self.actions)}
        )

    @cached_property
    def hash(self) -> str:
        """Hash of the content: spec, numbers, words and pictures; how it is cut into files does not count.

        The pictures of a foreign data set count by size, beginning and end of their files.
        """
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        digest.update(json.dumps([[e.length, e.seed, e.instructions] for e in self.episodes]).encode())
        more = [values for values in (self.executed, self.subtask_index) if values is not None]
        for values in (self.state, self.actions, self.task_index, *more):
            digest.update(values.tobytes())
        if self.subtasks:
            digest.update(json.dumps(self.subtasks).encode())
        files: set[Path] = set()
        for episode in self.episodes:
            for camera, part in sorted(episode.videos.items()):
                if part.sha256 is not None:
                    digest.update(f"{camera} {part.sha256}".encode())
                else:
                    digest.update(f"{camera} {part.path.relative_to(self.folder)} {part.first}".encode())
                    files.add(part.path)
        for path in sorted(files):
            digest.update(_ends(path))
        return digest.hexdigest()

    def instruction(self, tick: int) -> str:
        """The words at a row of the data set."""
        return self.tasks[self.task_index[tick]]

    def frames(self, episode: int, camera: str) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The pictures of one episode and camera, decoded one after the other."""
        entry, size = self.episodes[episode], self.spec.camera(camera)
        part = entry.videos[camera]
        try:
            for picture in decode(
                part.path, rate=self.rate, first=part.first, count=entry.length, sha256=part.sha256
            ):
                if picture.shape != (size.height, size.width, 3):
                    raise DataError(
                        f"{part.path}: expected pictures of {size.height} x {size.width} for camera "
                        f"{camera!r}, got {picture.shape[0]} x {picture.shape[1]}."
                    )
                yield picture
        except DataError as error:
            raise DataError(f"episode {episode}, camera {camera!r}: {error}") from error

    def _entry(self, row: Mapping[str, Any], tables: Tables, template: str) -> EpisodeEntry:
        start, length = int(row["dataset_from_index"]), int(row["length"])
        used = dict.fromkeys(tables.task_index[start : start + length].tolist())
        return EpisodeEntry(
            index=int(row["episode_index"]),
            start=start,
            length=length,
            instructions=tuple(tables.tasks[index] for index in used),
            seed=row.get("seed"),
            videos={camera.name: self._video(row, camera.name, template) for camera in self.spec.cameras},
        )

    def _video(self, row: Mapping[str, Any], camera: str, template: str) -> VideoPart:
        key = layout.camera_key(camera)
        where = f"{self.folder}/meta/episodes: episode {row['episode_index']}"
        needed = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        if any(row.get(name) is None for name in needed):
            raise DataError(f"{where}: expected columns {needed} for camera {camera!r}, found no value.")
        chunk, file, begin = (row[name] for name in needed)
        path = layout.safe_path(
            self.folder, template, video_key=key, chunk_index=int(chunk), file_index=int(file)
        )
        if not path.is_file():
            raise DataError(
                f"{where}: video {path} of camera {camera!r} is missing. "
                "Restore it from a copy or collect the data again."
            )
        return VideoPart(path=path, first=round(begin * self.rate), sha256=row.get(f"videos/{key}/sha256"))


def _load_info(folder: Path) -> dict[str, Any]:
    path = folder / layout.INFO
    if not path.is_file():
        raise DataError(
            f"{folder}: not a data set, there is no {layout.INFO}. Pass the folder that `collect` wrote."
        )
    info = load_json(path)
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise DataError(f"{path}: expected an object with 'features'. Is this a LeRobot data set?")
    version = info.get("codebase_version")
    if version != layout.VERSION:
        convert = (
            "Convert it with LeRobot's convert_dataset_v21_to_v30."
            if str(version).startswith("v2")
            else "It is newer."
        )
        raise DataError(f"{path}: expected LeRobot format {layout.VERSION}, got {version!r}. {convert}")
    return info


def _load_sidecar(folder: Path) -> dict[str, Any]:
    path = folder / layout.SIDECAR
    if not path.exists():
        return {}
    meta = load_json(path)
    if not isinstance(meta, dict) or meta.get("format") != 1 or "spec" not in meta:
        raise DataError(
            f"{path}: expected 'format' 1 and a 'spec'. A newer version of visuomotor may have written it."
        )
    return meta


def _agree(folder: Path, meta: Mapping[str, Any], spec: Spec | None) -> Spec:
    """The spec of the data set, from its own files or from the caller."""
    if not meta:
        if spec is None:
            raise DataError(
                f"{folder}: no {layout.SIDECAR}, so nothing says what the numbers mean. Pass spec=Spec(...) "
                "with cameras, state, action and rate of this data set; they are never guessed."
            )
        return spec
    own = Spec.from_json(meta["spec"])
    if spec is not None and spec != own:
        raise DataError(f"{folder}: the given spec differs from the one in {layout.SIDECAR}. Leave it out.")
    return own


def _check_features(folder: Path, info: Mapping[str, Any], spec: Spec, *, executed: bool) -> dict[str, int]:
    """Names and widths of the vector features, once info.json is found to agree with the spec."""
    path, known = folder / layout.INFO, info["features"]
    if float(info.get("fps", 0)) != spec.rate:
        raise DataError(f"{path}: expected fps {spec.rate:g} as in the spec, got {info.get('fps')!r}.")
    widths = {layout.STATE: len(spec.state), layout.ACTION: len(spec.action)}
    if executed:
        widths[layout.EXECUTED] = len(spec.action)
    shapes = {name: [width] for name, width in widths.items()}
    for camera in spec.cameras:
        shapes[layout.camera_key(camera.name)] = [camera.height, camera.width, 3]
    for name, shape in shapes.items():
        if name not in known:
            raise unknown_feature(path, name, known)
        if list(known[name].get("shape", ())) != shape:
            raise DataError(
                f"{path}: feature {name!r}: expected shape {shape} as in the spec, "
                f"got {known[name].get('shape')}."
            )
        dtype = known[name].get("dtype")
        if name.startswith("observation.images.") and dtype != "video":
            raise DataError(
                f"{path}: feature {name!r}: expected dtype 'video', got {dtype!r}; only video is read."
            )
    return widths


def unknown_feature(path: Path, name: str, known: Mapping[str, Any]) -> DataError:
    """Error for a feature of the spec that the data set lacks, with the closest one it has."""
    return DataError(
        f"{path}: {unknown_name('feature', name, known)} Rename the camera in the spec, or pick other data."
    )


def _ends(path: Path) -> bytes:
    """Size, first and last 64 KiB of a file; the index of an mp4 lies at one of its ends."""
    size, part = path.stat().st_size, 1 << 16
    with path.open("rb") as file:
        head = file.read(part)
        file.seek(max(0, size - part))
        return f"{path.name} {size}".encode() + head + file.read(part)
