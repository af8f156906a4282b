"""Writes LeRobot v3.0 data sets so that a crash at any moment leaves a readable one.

Episodes are committed: video first, then the table, then seeds, then the row in meta/episodes, which
is what makes an episode exist, then totals. Each file is replaced as a whole (`files.replace_file`). A file
holds up to `episodes_per_file` episodes and is rewritten, by copying packets and rows, when one is
added; so a reader finds either the old file or the new one, and both begin alike.

Two states besides the finished one can be met on disk: pictures and rows behind the last episode
of meta/episodes, and totals that lag behind it. The reader leaves the former out and takes the
episodes as truth; opening the data set for writing again mends both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.episode import EncodedEpisode
from visuomotor.data.features import Feature
from visuomotor.data.files import disk_full, is_temporary, replace_file, replace_json, sync_folder
from visuomotor.data.folder import save_sidecar, take_up_sidecar
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.rows import EpisodeRows
from visuomotor.data.stats import Spread
from visuomotor.data.tables import read_parquet
from visuomotor.data.video import Settings, VideoSettings, header, join
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["LeRobotWriter"]

_DATA_MEGABYTES, _VIDEO_MEGABYTES = 100, 200
"""Sizes at which the next file begins, as in LeRobot."""


class LeRobotWriter:
    """A data set that is being written.

    Args:
        folder: Where to; missing or empty, or with `resume` a data set of the same spec.
        spec: What body and data decide.
        executed: Whether each episode has executed actions besides the labels.
        subtasks: Whether each tick has a subtask.
        columns: More columns of ticks, by dtype ("string", "float32", ...) or `Feature`; depth among them.
        meta: More for meta/visuomotor.json (env, task, ...), plain values; may be changed while
            writing and is saved with the next episode.
        settings: How pictures are kept.
        episodes_per_file: A file is closed after so many episodes, or at 100 MB (200 MB of video).
        resume: Go on with the data set in `folder`, if there is one.

    Attributes:
        episodes: How many are on disk.
        ticks: How many they have.
        seeds: Their seeds.

    Raises:
        DataError: `folder` holds something else.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: Spec,
        *,
        executed: bool = False,
        subtasks: bool = False,
        columns: Mapping[str, str | Feature] | None = None,
        meta: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        episodes_per_file: int = 50,
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self.meta: dict[str, Any] = dict(meta or {})
        self._of = EpisodeRows(
            spec,
            executed=executed,
            subtasks=subtasks,
            columns=layout.extra_columns(columns or {}, spec.rate),
            settings=settings or VideoSettings(),
        )
        self._episodes_per_file = episodes_per_file
        self.seeds: list[int] = []
        self.episodes = 0
        self.ticks = 0
        self._file = -1
        self._begin_file()
        self._saved_stats = 0
        self._closed = False
        started = (self.folder / layout.SIDECAR).exists()
        if resume and started:
            self._resume()
        else:
            if any(path.is_file() and not is_temporary(path) for path in self.folder.rglob("*")):
                raise DataError(
                    f"{self.folder}: holds something else, nothing was written. "
                    "Choose another folder, or empty this one."
                )
            with disk_full(f"{self.folder} was not begun. Free some space and run again."):
                save_sidecar(self.folder, self.spec, self.meta, [])
                self._save_meta()

    def add(self, *episodes: EncodedEpisode) -> None:
        """Commit finished episodes; once it returns they survive a crash.

        Several at once cost less than one after the other.
        """
        pending: list[EncodedEpisode] = []
        for episode in episodes:
            self._of.check(episode, self.episodes + len(pending))
            if self._full(pending, episode):
                self._commit(pending)
                pending = []
                self._begin_file()
            pending.append(episode)
        self._commit(pending)

    def close(self) -> None:
        """Write final statistics and totals; the data set is complete."""
        if self._closed:
            return
        self._closed = True
        with disk_full(f"the {self.episodes} finished episodes in {self.folder} stay readable."):
            save_sidecar(self.folder, self.spec, self.meta, self.seeds)
            self._save_meta(final=True)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(
            error, DataError
        ):  # after a failed commit the disk holds a readable state; leave it
            self.close()

    # ---- the open file ----

    def _begin_file(self) -> None:
        """Close the file that is being filled and go on with the next number."""
        self._file += 1
        self._tables: list[pa.Table] = []
        self._rows: list[pa.Table] = []
        self._pictures_in_file = 0
        self._headers: dict[str, bytes] = {}

    def _full(self, pending: list[EncodedEpisode], episode: EncodedEpisode) -> bool:
        """Whether `episode` has to go to the next file."""
        if not self._rows and not pending:
            return False
        data = sum(table.nbytes for table in self._tables) + sum(
            e.state.nbytes + 2 * e.actions.nbytes + sum(len(p) for s in e.stills.values() for p in s)
            for e in pending
        )
        video = max(
            (self._video_bytes(name, key, pending) for name, key in self._of.filmed.items()), default=0
        )
        headers = self._headers if self._rows else _headers(pending[0])
        return (
            len(self._rows) + len(pending) >= self._episodes_per_file
            or data >= _DATA_MEGABYTES << 20
            or video >= _VIDEO_MEGABYTES << 20
            or headers != _headers(episode)
        )

    def _video_bytes(self, name: str, key: str, pending: list[EncodedEpisode]) -> int:
        path = self._path(layout.VIDEO_PATH, video_key=key)
        written = path.stat().st_size if self._rows else 0
        return written + sum(len(episode.clips[name].data) for episode in pending)

    def _path(self, template: str, **values: str) -> Path:
        return self.folder / template.format(**layout.place(self._file), **values)

    # ---- committing ----

    def _commit(self, episodes: list[EncodedEpisode]) -> None:
        """Write `episodes` to the open file; see the docstring of this module for the order."""
        if not episodes:
            return
        with disk_full(
            f"the {self.episodes} finished episodes in {self.folder} stay readable. "
            "Free some space and run the same command again to go on."
        ):
            self._write_videos(episodes)
            tables, rows, seen, tick = [*self._tables], [*self._rows], self._pictures_in_file, self.ticks
            known, parts = len(self._of.tasks), len(self._of.subtasks)
            for number, episode in enumerate(episodes, start=self.episodes):
                table = self._of.table(episode, number, tick)
                rows.append(self._row(episode, table, number, tick, seen))
                tables.append(table)
                seen, tick = seen + len(episode), tick + len(episode)
            if len(self._of.tasks) > known:
                tasks = layout.tasks_table(list(self._of.tasks))
                replace_file(self.folder / layout.TASKS, lambda temporary: pq.write_table(tasks, temporary))
            if len(self._of.subtasks) > parts:
                told = layout.tasks_table(list(self._of.subtasks), "subtask")
                replace_file(self.folder / layout.SUBTASKS, lambda temporary: pq.write_table(told, temporary))
            replace_file(self._path(layout.DATA_PATH), lambda temporary: _write_groups(tables, temporary))
            save_sidecar(self.folder, self.spec, self.meta, [*self.seeds, *_seeds(episodes)])
            replace_file(
                self._path(layout.EPISODES_PATH),
                lambda temporary: _write_groups([pa.concat_tables(rows)], temporary),
            )
            self._tables, self._rows, self._pictures_in_file = tables, rows, seen
            self._headers = _headers(episodes[0])
            self.episodes, self.ticks = self.episodes + len(episodes), tick
            self._of.remember(episodes)
            self.seeds += _seeds(episodes)
            self._save_meta()

    def _write_videos(self, episodes: list[EncodedEpisode]) -> None:
        for name, key in self._of.filmed.items():
            path = self._path(layout.VIDEO_PATH, video_key=key)
            sources: list[tuple[Path | bytes, int]] = (
                [(path, self._pictures_in_file)] if self._pictures_in_file else []
            )
            sources += [(episode.clips[name].data, len(episode)) for episode in episodes]
            replace_file(path, lambda temporary, sources=sources: join(sources, temporary, self.spec.rate))  # type: ignore[misc]

    def _row(self, episode: EncodedEpisode, table: pa.Table, number: int, start: int, seen: int) -> pa.Table:
        """The row of meta/episodes, which is what makes an episode exist."""
        at = layout.place(self._file)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": list(dict.fromkeys(episode.instructions)),
            "length": len(episode),
            "data/chunk_index": at["chunk_index"],
            "data/file_index": at["file_index"],
            "dataset_from_index": start,
            "dataset_to_index": start + len(episode),
        }
        for name, key in self._of.filmed.items():
            prefix = f"videos/{key}"
            row |= {f"{prefix}/chunk_index": at["chunk_index"], f"{prefix}/file_index": at["file_index"]}
            row[f"{prefix}/from_timestamp"] = seen / self.spec.rate
            row[f"{prefix}/to_timestamp"] = (seen + len(episode)) / self.spec.rate
            row[f"{prefix}/sha256"] = episode.clips[name].sha256
        row |= {"meta/episodes/chunk_index": at["chunk_index"], "meta/episodes/file_index": at["file_index"]}
        row["seed"] = episode.seed
        for name, figures in self._of.figures(episode, table).items():
            row |= layout.stats_columns(name, figures)
        return layout.episodes_table([row])

    def _save_meta(self, *, final: bool = False) -> None:
        """Write totals; statistics only when the data set has grown by half, and at the end."""
        if self.episodes and (final or self.episodes > 1.5 * self._saved_stats):
            replace_json(self.folder / layout.STATS, self._of.stats())
            self._saved_stats = self.episodes
        rate = self.spec.rate
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": self.spec.embodiment,
            "total_episodes": self.episodes,
            "total_frames": self.ticks,
            "total_tasks": len(self._of.tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": _DATA_MEGABYTES,
            "video_files_size_in_mb": _VIDEO_MEGABYTES,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH,
            "features": self._of.features,
        }
        replace_json(self.folder / layout.INFO, info)
        sync_folder(self.folder / "meta")

    # ---- going on with what is there ----

    def _resume(self) -> None:
        """Take up the state of a data set on disk and remove what an interruption left behind it."""
        self.meta = take_up_sidecar(self.folder, self.spec, self.meta)
        if not list((self.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
            self._save_meta()
            return
        reader = LeRobotReader(self.folder)
        self.episodes, self.ticks = len(reader.episodes), len(reader)
        self.seeds = [episode.seed for episode in reader.episodes if episode.seed is not None]
        self._reopen(reader)
        self._save_meta()

    def _reopen(self, reader: LeRobotReader) -> None:
        """Load the last file, so that new episodes go on in it, and cut off what no episode owns."""
        tables = [
            read_parquet(p) for p in sorted((self.folder / "meta/episodes").glob("chunk-*/file-*.parquet"))
        ]
        every = pa.concat_tables(tables)
        self._of.take_up(reader, lambda key: _figures(every, key))
        last = tables[-1]
        chunk, file = last["data/chunk_index"][0].as_py(), last["data/file_index"][0].as_py()
        self._file = chunk * layout.FILES_PER_CHUNK + file
        self._rows = [last.slice(row, 1) for row in range(len(last))]
        begin, end = last["dataset_from_index"][0].as_py(), last["dataset_to_index"][-1].as_py()
        whole = read_parquet(self._path(layout.DATA_PATH))
        lengths = last["length"].to_pylist()
        starts = np.cumsum([0, *lengths[:-1]])
        self._tables = [whole.slice(int(start), length) for start, length in zip(starts, lengths)]
        self._pictures_in_file = end - begin
        paths = {name: self._path(layout.VIDEO_PATH, video_key=key) for name, key in self._of.filmed.items()}
        self._headers = {name: header(path) for name, path in paths.items()}
        if len(whole) > end - begin:
            replace_file(
                self._path(layout.DATA_PATH), lambda temporary: _write_groups(self._tables, temporary)
            )
        self._remove_orphans()

    def _remove_orphans(self) -> None:
        """Delete files behind the last one, which no episode owns."""
        for template in ("data/chunk-*/file-*.parquet", "videos/*/chunk-*/file-*.mp4"):
            for path in self.folder.glob(template):
                number = int(path.parent.name[6:]) * layout.FILES_PER_CHUNK + int(path.stem[5:])
                if number > self._file:
                    path.unlink()


def _figures(episodes: pa.Table, key: str) -> list[Spread]:
    """The figures of a feature's pictures, episode by episode."""
    lists = {name: episodes[f"stats/{key}/{name}"].to_pylist() for name in _FIGURE_NAMES}
    return [{name: np.array(lists[name][row]) for name in lists} for row in range(len(episodes))]


_FIGURE_NAMES = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")


def _seeds(episodes: list[EncodedEpisode]) -> list[int]:
    return [episode.seed for episode in episodes if episode.seed is not None]


def _headers(episode: EncodedEpisode) -> dict[str, bytes]:
    """Camera name to codec header."""
    return {name: clip.header for name, clip in episode.clips.items()}


def _write_groups(tables: list[pa.Table], path: Path) -> None:
    """One row group a table."""
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
