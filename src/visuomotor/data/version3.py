"""The index of a LeRobot v3.0 data set: many episodes a file, listed in parquet tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.data import layout
from visuomotor.data.catalog import EpisodeRow, VideoPlace
from visuomotor.data.tables import RESTORE, check_count, check_texts, read_parquet
from visuomotor.errors import DataError

__all__ = ["Version3", "read_texts"]

_DATA_PLACE = ("data/chunk_index", "data/file_index")
_NEEDED = ("episode_index", "length", "dataset_from_index", "dataset_to_index", *_DATA_PLACE)


class Version3:
    """A `Catalog` of meta/episodes, meta/tasks.parquet and, where there are any, meta/subtasks.parquet.

    Args:
        folder: The data set.
        info: Its info.json.
        ours: Whether our writer made it. An interrupted one may leave totals that lag.

    Raises:
        DataError: Files are missing or damaged, or episodes missing, doubled or empty.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any], *, ours: bool) -> None:
        self.source = folder / "meta" / "episodes"
        self._folder, self._info = folder, info
        self.tasks = read_texts(folder, "task")
        self.subtasks = read_texts(folder, "subtask") if layout.SUBTASK_INDEX in info["features"] else ()
        self.episodes = self._episodes(ours=ours)

    def video(self, episode: EpisodeRow, feature: str) -> VideoPlace:
        """Where the pictures of a video feature lie; `DataError` if the index does not say."""
        names = [f"videos/{feature}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        values: list[Any] = [episode.told.get(name) for name in names]
        if not all(isinstance(value, int | float) and value >= 0 for value in values):
            raise DataError(
                f"{self.source}: episode {episode.index}: expected columns {names} for {feature!r}, found "
                f"{'no value' if None in values else values}."
            )
        chunk, file, begin = values
        template = self._info.get("video_path") or layout.VIDEO_PATH
        path = layout.safe_path(
            self._folder, template, video_key=feature, chunk_index=int(chunk), file_index=int(file)
        )
        return VideoPlace(path=path, begin=float(begin), sha256=episode.told.get(f"videos/{feature}/sha256"))

    def _episodes(self, *, ours: bool) -> tuple[EpisodeRow, ...]:
        paths = sorted(self.source.glob("chunk-*/file-*.parquet"))
        rows: list[dict[str, Any]] = []
        for path in paths:
            found = read_parquet(path, _NEEDED, skip="stats/").to_pylist()
            for row in found:
                wrong = [name for name in _NEEDED if type(row[name]) is not int or row[name] < 0]
                if wrong:
                    raise DataError(
                        f"{path}: episode {row['episode_index']}: expected whole numbers in {wrong}, got "
                        f"{[row[name] for name in wrong]}. {RESTORE}"
                    )
            rows += found
        check_count(self.source, len(rows), self._info.get("total_episodes"), len(paths), ours=ours)
        rows.sort(key=lambda row: row["episode_index"])
        start, episodes = 0, []
        for number, row in enumerate(rows):
            got = (row["episode_index"], row["dataset_from_index"], row["dataset_to_index"])
            expected = (number, start, start + row["length"])
            if got != expected or row["length"] < 1:
                raise DataError(
                    f"{self.source}: episode {number}: expected (episode_index, dataset_from_index, "
                    f"dataset_to_index) {expected}, got {got}. Episodes are missing, doubled or "
                    f"empty. {RESTORE}"
                )
            chunk, file = (row[name] for name in _DATA_PLACE)
            template = self._info.get("data_path") or layout.DATA_PATH
            path = layout.safe_path(self._folder, template, chunk_index=chunk, file_index=file)
            episodes.append(EpisodeRow(index=number, start=start, length=row["length"], data=path, told=row))
            start += row["length"]
        return tuple(episodes)


def read_texts(folder: Path, kind: str) -> tuple[str, ...]:
    """Every text of meta/tasks.parquet, or of meta/subtasks.parquet, by its index."""
    path, index = folder / "meta" / f"{kind}s.parquet", f"{kind}_index"
    table = read_parquet(path, [index])
    # pandas writes an index without a name as __index_level_0__; older LeRobot versions did so
    names = [name for name in (kind, "__index_level_0__") if name in table.column_names]
    if not names:
        raise DataError(
            f"{path}: expected a column {kind!r} or '__index_level_0__', found {table.column_names}."
        )
    return check_texts(path, index, zip(table[index].to_pylist(), table[names[0]].to_pylist()))
