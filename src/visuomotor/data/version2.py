"""The index of a LeRobot v2.0 or v2.1 data set: a table and a video an episode, listed in JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.data import layout
from visuomotor.data.catalog import EpisodeRow, VideoPlace
from visuomotor.data.tables import RESTORE, check_count, check_texts, load_json_lines
from visuomotor.errors import DataError

__all__ = ["Version2"]


class Version2:
    """A `Catalog` of meta/episodes.jsonl and meta/tasks.jsonl.

    Args:
        folder: The data set.
        info: Its info.json.
        ours: Whether our writer made it. An interrupted one may leave totals that lag.

    Raises:
        DataError: Files are missing or damaged, or episodes missing, doubled or empty.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any], *, ours: bool) -> None:
        self.source = folder / layout.EPISODES_LINES
        self._folder, self._info = folder, info
        self._per_chunk = info.get("chunks_size", layout.FILES_PER_CHUNK)
        if type(self._per_chunk) is not int or self._per_chunk < 1:
            raise DataError(
                f"{folder / layout.INFO}: expected chunks_size of 1 or more, got {self._per_chunk!r}."
            )
        self.tasks = _texts(folder / layout.TASKS_LINES, "task", ours=ours)
        told = layout.SUBTASK_INDEX in info["features"]
        self.subtasks = _texts(folder / layout.SUBTASKS_LINES, "subtask", ours=ours) if told else ()
        self.episodes = self._episodes(ours=ours)

    def video(self, episode: EpisodeRow, feature: str) -> VideoPlace:
        """Where the pictures of a video feature lie."""
        template = self._info.get("video_path") or layout.VIDEO_PATH_2
        hashes = episode.told.get("sha256")
        known = hashes.get(feature) if isinstance(hashes, Mapping) else None
        return VideoPlace(path=self._path(template, episode.index, feature), begin=0.0, sha256=known)

    def _path(self, template: str, episode: int, feature: str = "") -> Path:
        return layout.safe_path(
            self._folder,
            template,
            video_key=feature,
            episode_chunk=episode // self._per_chunk,
            episode_index=episode,
        )

    def _episodes(self, *, ours: bool) -> tuple[EpisodeRow, ...]:
        rows = load_json_lines(self.source, ours=ours)
        for row in rows:
            if any(type(row.get(name)) is not int for name in ("episode_index", "length")):
                raise DataError(
                    f"{self.source}: expected whole numbers episode_index and length, got "
                    f"{row!r:.120}. {RESTORE}"
                )
        check_count(self.source, len(rows), self._info.get("total_episodes"), 1, ours=ours)
        rows.sort(key=lambda row: row["episode_index"])
        template = self._info.get("data_path") or layout.DATA_PATH_2
        start, episodes = 0, []
        for number, row in enumerate(rows):
            if row["episode_index"] != number or row["length"] < 1:
                raise DataError(
                    f"{self.source}: expected episode {number} of one tick or more next, got episode "
                    f"{row['episode_index']} of {row['length']}. Episodes are missing, doubled or "
                    f"empty. {RESTORE}"
                )
            path = self._path(template, number)
            episodes.append(EpisodeRow(index=number, start=start, length=row["length"], data=path, told=row))
            start += row["length"]
        return tuple(episodes)


def _texts(path: Path, kind: str, *, ours: bool) -> tuple[str, ...]:
    """Every text of meta/tasks.jsonl, or of meta/subtasks.jsonl, by its index."""
    index = f"{kind}_index"
    rows = load_json_lines(path, ours=ours)
    return check_texts(path, index, ((row.get(index), row.get(kind)) for row in rows))
