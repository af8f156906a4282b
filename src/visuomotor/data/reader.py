"""Reads LeRobot data sets of every version: tables into NumPy at once, pictures when asked for."""

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
from visuomotor.data.catalog import Catalog, EpisodeRow
from visuomotor.data.columns import column_values
from visuomotor.data.depth import DepthScale, meters_in
from visuomotor.data.features import Feature, parse_features, unknown_feature
from visuomotor.data.folder import agree, check_features, load_info, load_sidecar
from visuomotor.data.stats import Spread, summarize
from visuomotor.data.stills import read_stills
from visuomotor.data.stored_stats import load_stats
from visuomotor.data.tables import load_tables, read_parquet
from visuomotor.data.version2 import Version2
from visuomotor.data.version3 import Version3
from visuomotor.data.video import decode
from visuomotor.errors import DataError
from visuomotor.types import Spec, Stats

__all__ = ["EpisodeEntry", "LeRobotReader", "VideoPart"]


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """Where the pictures of one episode and camera lie.

    Attributes:
        path: The mp4 file, or the parquet file that holds them.
        first: Number of the first picture in it, or its row.
        sha256: Hash of the compressed packets; None in foreign data sets and in parquet.
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
    """A LeRobot data set of version 3.0, 2.1 or 2.0, read and checked.

    Args:
        folder: The data set.
        spec: Meaning of its numbers and names of its cameras. Data sets written by visuomotor keep
            it in meta/visuomotor.json; for others it must be given, it is never guessed.
        keys: Feature of "state", "action" or a camera, where a foreign data set does not call them
            `observation.state`, `action` and `observation.images.<camera>`.
        timed: Whether time stamps must fit the rate; `data check` reads those that do not, and says where.

    Attributes:
        folder: Where it lies.
        version: "v3.0", "v2.1" or "v2.0".
        spec: What body and data decide.
        meta: Content of meta/visuomotor.json; empty for a foreign data set.
        features: Name to what info.json says of each column.
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

    def __init__(
        self,
        folder: str | Path,
        spec: Spec | None = None,
        *,
        keys: Mapping[str, str] | None = None,
        timed: bool = True,
    ) -> None:
        self.folder = Path(folder)
        info = load_info(self.folder)
        self.version: str = info["codebase_version"]
        self.meta: Mapping[str, Any] = load_sidecar(self.folder)
        self.spec = agree(self.folder, self.meta, spec)
        self.features: Mapping[str, Feature] = parse_features(self.folder / layout.INFO, info)
        self._keys = layout.feature_keys(self.spec, keys or {})
        ours = bool(self.meta)
        widths = check_features(self.folder, info, self.features, self.spec, self._keys)
        version = Version2 if self.version in layout.VERSIONS_2 else Version3
        self._catalog: Catalog = version(self.folder, info, ours=ours)
        stored = [key for key in self._keys.values() if self._is_image(key)]
        tables = load_tables(self._catalog, info, widths, pictures=stored, ours=ours, timed=timed)
        nothing = np.zeros((len(tables.task_index), 0), np.float32)
        self.state: Float32[np.ndarray, "tick state"] = tables.vectors.get(self._keys["state"], nothing)
        self.actions: Float32[np.ndarray, "tick action"] = tables.vectors.get(self._keys["action"], nothing)
        self.executed: Float32[np.ndarray, "tick action"] | None = tables.vectors.get(layout.EXECUTED)
        self.tasks = self._catalog.tasks
        self.task_index: Int64[np.ndarray, " tick"] = tables.task_index
        self.subtasks = self._catalog.subtasks
        self.subtask_index: Int64[np.ndarray, " tick"] | None = tables.subtask_index
        self._files = tables.files
        self.episodes = tuple(self._entry(row) for row in self._catalog.episodes)

    def __len__(self) -> int:
        """Ticks in the whole data set."""
        return len(self.task_index)

    @property
    def keys(self) -> Mapping[str, str]:
        """Feature of "state", of "action" and of each camera."""
        return dict(self._keys)

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

    def stored_stats(self) -> dict[str, Spread]:
        """The statistics that the data set itself brings, feature by feature; nothing here relies on them.

        Raises:
            DataError: It brings none, or they are damaged.
        """
        return load_stats(self.folder, self.version, ours=bool(self.meta))

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the columns with values that are none of the reader's own attributes, in order."""
        own = {*self._keys.values(), layout.EXECUTED, layout.SUBTASK_INDEX, *layout.SCALARS}
        return tuple(name for name, f in self.features.items() if name not in own and not f.pictures)

    @cached_property
    def hash(self) -> str:
        """Hash of the content: spec, numbers, words and pictures; how it is cut into files does not count.

        The pictures of a foreign data set count by size, beginning and end of their files, and its extra
        columns not at all.
        """
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        digest.update(json.dumps([[e.length, e.seed, e.instructions] for e in self.episodes]).encode())
        more = [values for values in (self.executed, self.subtask_index) if values is not None]
        for values in (self.state, self.actions, self.task_index, *more):
            digest.update(values.tobytes())
        if self.subtasks:
            digest.update(json.dumps(self.subtasks).encode())
        if self.meta:
            for name in sorted(self.extra):
                values = self.column(name)
                told = json.dumps(values.tolist()).encode() if values.dtype == object else values.tobytes()
                digest.update(name.encode() + told)
        depth = [feature for feature in self.features.values() if feature.depth and self.meta]
        files: set[Path] = set()
        for episode in self.episodes:
            row = self._catalog.episodes[episode.index]
            more_parts = {feature.name: self._part(row, feature) for feature in depth}
            for camera, part in sorted({**episode.videos, **more_parts}.items()):
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

    def column(self, name: str) -> np.ndarray:
        """Any column that holds no pictures, by the name of its feature, first axis tick.

        Returns:
            Of the dtype and shape that `features` tells, with a shape of (1,) giving no second axis. Texts
            and annotations are objects. It is read anew at every call.

        Raises:
            DataError: No such column, or other values than info.json says.
        """
        feature = self._feature(name)
        if feature.pictures:
            raise DataError(f"{self.folder}: {name!r} holds pictures. Read it with `pictures`.")
        parts: list[np.ndarray] = []
        for path in self._files:
            table = read_parquet(path, [name], only=True)
            parts.append(column_values(path, feature, table[name]))
        return np.concatenate(parts)[: len(self)]

    def frames(
        self, episode: int, camera: str, *, start: int = 0, count: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The pictures of one episode and camera, decoded one after the other.

        Args:
            episode: Its number.
            camera: A camera of the spec.
            start: First tick wanted.
            count: How many ticks; up to the end of the episode if None.
        """
        size = self.spec.camera(camera)
        feature = self.features[self._keys[camera]]
        try:
            for picture in self._pictures(
                episode, feature, self.episodes[episode].videos[camera], start, count
            ):
                if picture.shape != (size.height, size.width, 3):
                    raise DataError(
                        f"{self.episodes[episode].videos[camera].path}: expected pictures of {size.height} x "
                        f"{size.width} for camera {camera!r}, got {picture.shape[0]} x {picture.shape[1]}."
                    )
                yield picture
        except DataError as error:
            raise DataError(f"episode {episode}, camera {camera!r}: {error}") from error

    def pictures(
        self, episode: int, name: str, *, start: int = 0, count: int | None = None
    ) -> Iterator[np.ndarray]:
        """The pictures of any image or video feature, decoded one after the other.

        Args:
            episode: Its number.
            name: The feature.
            start: First tick wanted.
            count: How many ticks; up to the end of the episode if None.

        Returns:
            Each uint8 (height, width, 3); of a depth feature float32 (height, width) in meters.
        """
        feature = self._feature(name)
        if not feature.pictures:
            raise DataError(f"{self.folder}: {name!r} holds no pictures. Read it with `column`.")
        try:
            part = self._part(self._catalog.episodes[episode], feature)
            yield from self._pictures(episode, feature, part, start, count)
        except DataError as error:
            raise DataError(f"episode {episode}, feature {name!r}: {error}") from error

    def _is_image(self, name: str) -> bool:
        return name in self.features and self.features[name].dtype == "image"

    def _feature(self, name: str) -> Feature:
        if name not in self.features:
            raise unknown_feature(self.folder / layout.INFO, name, self.features)
        return self.features[name]

    def _pictures(
        self, episode: int, feature: Feature, part: VideoPart, start: int, count: int | None
    ) -> Iterator[np.ndarray]:
        length = self.episodes[episode].length
        count = length - start if count is None else count
        if start < 0 or count < 0 or start + count > length:
            raise ValueError(
                f"expected ticks within the {length} of episode {episode}, got {start} to {start + count}."
            )
        if not count:
            return
        if feature.dtype == "image":
            unit = meters_in(str(part.path), feature.info) if feature.depth else 1.0
            for picture in read_stills(self.folder, part.path, feature, part.first + start, count):
                yield picture * np.float32(unit) if feature.depth else picture
            return
        sha256 = part.sha256 if count == length else None
        scale = DepthScale.from_info(str(part.path), feature.info) if feature.depth else None
        first = part.first + start
        for picture in decode(
            part.path, rate=self.rate, first=first, count=count, sha256=sha256, codes=scale is not None
        ):
            yield picture if scale is None else scale.decode(picture)

    def _entry(self, row: EpisodeRow) -> EpisodeEntry:
        used = dict.fromkeys(self.task_index[row.start : row.start + row.length].tolist())
        seed = row.told.get("seed")
        return EpisodeEntry(
            index=row.index,
            start=row.start,
            length=row.length,
            instructions=tuple(self.tasks[index] for index in used),
            seed=seed if isinstance(seed, int) else None,
            videos={
                camera.name: self._part(row, self.features[self._keys[camera.name]], camera.name)
                for camera in self.spec.cameras
            },
        )

    def _part(self, row: EpisodeRow, feature: Feature, camera: str | None = None) -> VideoPart:
        """Where the pictures of a feature lie."""
        if feature.dtype == "image":
            return VideoPart(path=row.data, first=row.start - self._files[row.data], sha256=None)
        place = self._catalog.video(row, feature.name)
        if not place.path.is_file():
            what = f"feature {feature.name!r}" if camera is None else f"camera {camera!r}"
            raise DataError(
                f"{self._catalog.source}: episode {row.index}: video {place.path} of {what} is missing. "
                "Restore it from a copy or collect the data again."
            )
        return VideoPart(path=place.path, first=round(place.begin * self.rate), sha256=place.sha256)


def _ends(path: Path) -> bytes:
    """Size, first and last 64 KiB of a file; the index of an mp4 lies at one of its ends."""
    size, part = path.stat().st_size, 1 << 16
    with path.open("rb") as file:
        head = file.read(part)
        file.seek(max(0, size - part))
        return f"{path.name} {size}".encode() + head + file.read(part)
