"""Writes LeRobot v2.1 data sets, a table and a video an episode, for tools that know nothing newer.

An episode is committed in this order: videos, table, words, seeds, its figures, and then its line in
meta/episodes.jsonl, which is what makes it exist; then totals. Tables, videos and totals are replaced
as a whole, lines are appended. So whatever a crash leaves besides is files of an episode that no line
owns and a last line without its end; the reader leaves both out, and going on removes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.episode import EncodedEpisode
from visuomotor.data.features import Feature
from visuomotor.data.files import disk_full, is_temporary, replace_file, replace_json, sync_folder
from visuomotor.data.folder import save_sidecar, take_up_sidecar
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.rows import EpisodeRows
from visuomotor.data.stats import Spread
from visuomotor.data.tables import load_json_lines
from visuomotor.data.video import Settings, VideoSettings
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["LeRobotWriter21"]

_FIGURES = ("min", "max", "mean", "std", "count")


class LeRobotWriter21:
    """A v2.1 data set that is being written; arguments and attributes are those of `LeRobotWriter`.

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
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self.meta: dict[str, Any] = dict(meta or {})
        settings = settings or VideoSettings()
        self._of = EpisodeRows(
            spec,
            executed=executed,
            subtasks=subtasks,
            columns=layout.extra_columns(columns or {}, spec.rate),
            settings=settings,
        )
        self.seeds: list[int] = []
        self.episodes = 0
        self.ticks = 0
        self._closed = False
        started = (self.folder / layout.SIDECAR).exists()
        if resume and started:
            self._resume()
            return
        if any(path.is_file() and not is_temporary(path) for path in self.folder.rglob("*")):
            raise DataError(
                f"{self.folder}: holds something else, nothing was written. "
                "Choose another folder, or empty this one."
            )
        with disk_full(f"{self.folder} was not begun. Free some space and run again."):
            save_sidecar(self.folder, self.spec, self.meta, [])
            self._save_info()

    def add(self, *episodes: EncodedEpisode) -> None:
        """Commit finished episodes; once it returns they survive a crash."""
        for episode in episodes:
            self._of.check(episode, self.episodes)
            with disk_full(
                f"the {self.episodes} finished episodes in {self.folder} stay readable. "
                "Free some space and run the same command again to go on."
            ):
                self._commit(episode)

    def close(self) -> None:
        """Write final totals; the data set is complete."""
        if not self._closed:
            self._closed = True
            with disk_full(f"the {self.episodes} finished episodes in {self.folder} stay readable."):
                save_sidecar(self.folder, self.spec, self.meta, self.seeds)
                self._save_info()

    def __enter__(self) -> LeRobotWriter21:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, DataError):
            self.close()

    def _path(self, template: str, camera: str = "") -> Path:
        number = self.episodes
        return self.folder / template.format(
            episode_chunk=number // layout.FILES_PER_CHUNK, episode_index=number, video_key=camera
        )

    def _commit(self, episode: EncodedEpisode) -> None:
        """Write one episode; see the docstring of this module for the order."""
        number = self.episodes
        for name, clip in episode.clips.items():
            path = self._path(layout.VIDEO_PATH_2, self._of.keys[name])
            replace_file(path, lambda temporary, data=clip.data: temporary.write_bytes(data))  # type: ignore[misc]
        known, parts = len(self._of.tasks), len(self._of.subtasks)
        table = self._of.table(episode, number, self.ticks)
        replace_file(self._path(layout.DATA_PATH_2), lambda temporary: pq.write_table(table, temporary))
        self._append(layout.TASKS_LINES, _texts(self._of.tasks, known, "task"))
        self._append(layout.SUBTASKS_LINES, _texts(self._of.subtasks, parts, "subtask"))
        seeds = [] if episode.seed is None else [episode.seed]
        save_sidecar(self.folder, self.spec, self.meta, [*self.seeds, *seeds])
        figures = self._of.figures(episode, table)
        stats = {name: {how: part[how].tolist() for how in _FIGURES} for name, part in figures.items()}
        self._append(layout.STATS_LINES, [{"episode_index": number, "stats": stats}])
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": list(dict.fromkeys(episode.instructions)),
            "length": len(episode),
        }
        if episode.clips:
            row["sha256"] = {self._of.keys[name]: clip.sha256 for name, clip in episode.clips.items()}
        self._append(layout.EPISODES_LINES, [row if episode.seed is None else {**row, "seed": episode.seed}])
        self._of.remember([episode])
        self.seeds += seeds
        self.episodes, self.ticks = number + 1, self.ticks + len(episode)
        self._save_info()

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add lines to a file; they are durable when it returns."""
        if not rows:
            return
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with (self.folder / name).open("ab", buffering=0) as file:
            file.write(text.encode())
            os.fsync(file.fileno())

    def _save_info(self) -> None:
        rate, cameras = self.spec.rate, len(self._of.filmed)
        info = {
            "codebase_version": layout.VERSION_21,
            "robot_type": self.spec.embodiment,
            "total_episodes": self.episodes,
            "total_frames": self.ticks,
            "total_tasks": len(self._of.tasks),
            "total_videos": self.episodes * cameras,
            "total_chunks": -(-self.episodes // layout.FILES_PER_CHUNK),
            "chunks_size": layout.FILES_PER_CHUNK,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": layout.DATA_PATH_2,
            "video_path": layout.VIDEO_PATH_2 if cameras else None,
            "features": self._of.features,
        }
        replace_json(self.folder / layout.INFO, info)
        sync_folder(self.folder / "meta")

    def _resume(self) -> None:
        """Take up the state of a data set on disk and remove what an interruption left behind it."""
        self.meta = take_up_sidecar(self.folder, self.spec, self.meta)
        lines = self.folder / layout.EPISODES_LINES
        count = len(load_json_lines(lines, ours=True)) if lines.exists() else 0
        if count:
            reader = LeRobotReader(self.folder)
            if reader.version != layout.VERSION_21:
                raise DataError(f"{self.folder}: holds LeRobot {reader.version}. Go on with its own writer.")
            stats = load_json_lines(self.folder / layout.STATS_LINES, ours=True)[:count]
            self._of.take_up(reader, lambda key: [_spread(row, key) for row in stats])
            self.episodes, self.ticks = count, len(reader)
            self.seeds = [episode.seed for episode in reader.episodes if episode.seed is not None]
        for name, owned in (
            (layout.EPISODES_LINES, count),
            (layout.STATS_LINES, count),
            (layout.TASKS_LINES, len(self._of.tasks) if count else 0),
            (layout.SUBTASKS_LINES, len(self._of.subtasks) if count else 0),
        ):
            self._cut(self.folder / name, owned)
        for pattern in ("data/chunk-*/episode_*.parquet", "videos/chunk-*/*/episode_*.mp4"):
            for path in self.folder.glob(pattern):
                if int(path.stem.removeprefix("episode_")) >= count:
                    path.unlink()
        self._save_info()

    def _cut(self, path: Path, owned: int) -> None:
        """Keep the first `owned` lines of a file."""
        if path.exists():
            lines = path.read_bytes().split(b"\n")[:-1]
            if len(lines) > owned or not path.read_bytes().endswith(b"\n"):
                kept = b"".join(line + b"\n" for line in lines[:owned])
                replace_file(path, lambda temporary: temporary.write_bytes(kept))


def _texts(known: Mapping[str, int], first: int, kind: str) -> list[dict[str, Any]]:
    """Lines of the texts from index `first` on."""
    return [{f"{kind}_index": index, kind: text} for text, index in known.items() if index >= first]


def _spread(row: Mapping[str, Any], key: str) -> Spread:
    """The figures of a feature's pictures in one episode; quantiles are not kept in v2.1."""
    return {name: np.array(values) for name, values in row["stats"][key].items()}
