"""The tables of a LeRobot v3.0 data set as NumPy, checked value by value.

Nothing here looks at pictures. Every error names the file, what was expected, what came, and what
to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.errors import DataError

__all__ = ["Tables", "load_json", "load_tables"]

_RESTORE = "Restore the file from a copy or collect the data again."
_DATA_PLACE = ("data/chunk_index", "data/file_index")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the parquet files hold.

    Attributes:
        tasks: Every instruction, by task index.
        episodes: One row an episode with the columns of meta/episodes, statistics left out.
        vectors: Feature name to float32 (tick, dimension).
        task_index: Which instruction holds at each tick, int64 (tick,).
        subtasks: Every subtask, by subtask index; empty if ticks have none.
        subtask_index: Which subtask holds at each tick, int64 (tick,); None if ticks have none.
    """

    tasks: tuple[str, ...]
    episodes: tuple[Mapping[str, Any], ...]
    vectors: Mapping[str, np.ndarray]
    task_index: np.ndarray
    subtasks: tuple[str, ...] = ()
    subtask_index: np.ndarray | None = None


def load_json(path: Path) -> Any:
    """The content of a JSON file of a data set."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: file is missing. {_RESTORE}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected JSON, but it cannot be read ({error}). {_RESTORE}") from error


def load_tables(folder: Path, info: Mapping[str, Any], widths: Mapping[str, int], *, ours: bool) -> Tables:
    """All tables of a data set.

    Args:
        folder: The data set.
        info: Its info.json.
        widths: Vector features that are wanted, with the length that each must have.
        ours: Whether our writer made it. An interrupted one may leave rows behind the last finished
            episode; such rows are left out. In a foreign data set they are an error.
    """
    tasks = _load_tasks(folder)
    told = layout.SUBTASK_INDEX in info["features"]
    subtasks = _load_tasks(folder, "subtask") if told else ()
    episodes = _load_episodes(folder, info, ours=ours)
    total = episodes[-1]["dataset_to_index"]
    more = (layout.SUBTASK_INDEX,) if told else ()
    columns = _load_data(folder, info, episodes, widths, more)
    index = columns["index"]
    if len(index) < total or not (index[:total] == np.arange(total)).all():
        raise DataError(
            f"{folder}/data: expected rows with index 0 to {total - 1} in order, as meta/episodes says; "
            f"found {len(index)} rows{_first_wrong(index, total)}. A data file is missing or damaged. "
            + _RESTORE
        )
    if len(index) > total and not ours:
        raise DataError(
            f"{folder}/data: {len(index)} rows, but the episodes of meta/episodes have {total}. {_RESTORE}"
        )
    columns = {name: values[:total] for name, values in columns.items()}
    _check_rows(folder, episodes, columns)
    _check_words(folder, columns["task_index"], "task", len(tasks))
    if told:
        _check_words(folder, columns[layout.SUBTASK_INDEX], "subtask", len(subtasks))
    vectors = {name: np.ascontiguousarray(columns[name]) for name in widths}
    for name, values in vectors.items():
        _check_finite(folder, name, values, episodes)
    return Tables(
        tasks=tasks,
        episodes=episodes,
        vectors=vectors,
        task_index=columns["task_index"],
        subtasks=subtasks,
        subtask_index=columns.get(layout.SUBTASK_INDEX),
    )


def read_parquet(
    path: Path, needed: Sequence[str] = (), *, only: bool = False, skip: str | None = None
) -> pa.Table:
    """The columns of a parquet file.

    Args:
        path: The file.
        needed: Columns that it must have.
        only: Read nothing but `needed`.
        skip: Do not read columns that begin with this.
    """
    if not path.is_file():
        raise DataError(f"{path}: file is missing. {_RESTORE}")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        missing = [name for name in needed if name not in names]
        if missing:
            raise DataError(f"{path}: no column {', '.join(map(repr, missing))}, only {names}. {_RESTORE}")
        wanted = needed if only else [name for name in names if skip is None or not name.startswith(skip)]
        return file.read(columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({error}); it may be cut off. {_RESTORE}"
        ) from error


def _load_tasks(folder: Path, kind: str = "task") -> tuple[str, ...]:
    """Every text of meta/tasks.parquet, or of meta/subtasks.parquet, by its index."""
    path, index = folder / "meta" / f"{kind}s.parquet", f"{kind}_index"
    table = read_parquet(path, [index])
    # pandas writes an index without a name as __index_level_0__; older LeRobot versions did so
    names = [name for name in (kind, "__index_level_0__") if name in table.column_names]
    if not names:
        raise DataError(
            f"{path}: expected a column {kind!r} or '__index_level_0__', found {table.column_names}."
        )
    pairs = dict(zip(table[index].to_pylist(), table[names[0]].to_pylist()))
    if sorted(pairs) != list(range(len(pairs))) or not all(isinstance(task, str) for task in pairs.values()):
        raise DataError(f"{path}: expected {index} 0 to {len(pairs) - 1} with one text each. {_RESTORE}")
    return tuple(pairs[index] for index in range(len(pairs)))


def _load_episodes(folder: Path, info: Mapping[str, Any], *, ours: bool) -> tuple[Mapping[str, Any], ...]:
    where = folder / "meta" / "episodes"
    paths = sorted(where.glob("chunk-*/file-*.parquet"))
    rows: list[dict[str, Any]] = []
    for path in paths:
        needed = ("episode_index", "length", "dataset_from_index", "dataset_to_index", *_DATA_PLACE)
        rows += read_parquet(path, needed, skip="stats/").to_pylist()
    declared = info.get("total_episodes")
    if not rows:
        raise DataError(
            f"{where}: the data set holds no finished episode. "
            "Collect again into the same folder, or delete it."
        )
    if len(rows) < (declared or 0) or (len(rows) != declared and not ours):
        raise DataError(
            f"{where}: {len(rows)} episodes in {len(paths)} files, but {layout.INFO} says {declared}. "
            f"A file is missing. {_RESTORE}"
        )
    rows.sort(key=lambda row: row["episode_index"])
    start = 0
    for number, row in enumerate(rows):
        found = (row["episode_index"], row["dataset_from_index"], row["dataset_to_index"])
        expected = (number, start, start + row["length"])
        if found != expected or row["length"] < 1:
            raise DataError(
                f"{where}: episode {number}: expected (episode_index, dataset_from_index, dataset_to_index) "
                f"{expected}, got {found}. Episodes are missing, doubled or empty. {_RESTORE}"
            )
        start += row["length"]
    return tuple(rows)


def _load_data(
    folder: Path,
    info: Mapping[str, Any],
    episodes: Sequence[Mapping[str, Any]],
    widths: Mapping[str, int],
    more: Sequence[str],
) -> dict[str, np.ndarray]:
    """Every wanted column of all data files that an episode lies in, concatenated in order."""
    places = sorted({tuple(row[name] for name in _DATA_PLACE) for row in episodes})
    scalars = ("index", "episode_index", "frame_index", "task_index", *more)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*widths, *scalars)}
    for chunk, file in places:
        path = layout.safe_path(
            folder, info.get("data_path", layout.DATA_PATH), chunk_index=int(chunk), file_index=int(file)
        )
        table = read_parquet(path, list(parts), only=True)
        for name in scalars:
            parts[name].append(_numbers(path, name, table[name]).astype(np.int64))
        for name, width in widths.items():
            parts[name].append(_matrix(path, name, table[name], width))
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(
            f"{path}: column {name!r}: expected numbers, got {column.type} with {column.null_count} nulls."
        )
    return column.to_numpy()


def _matrix(path: Path, name: str, column: pa.ChunkedArray, width: int) -> np.ndarray:
    """float32 (row, width) from a column of lists (or of numbers, if width is 1)."""
    kind = column.type
    if width == 1 and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return _numbers(path, name, column).astype(np.float32)[:, None]
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DataError(f"{path}: column {name!r}: expected lists of {width} numbers, got {kind}.")
    lengths = np.unique(pc.list_value_length(column).to_numpy())
    if column.null_count or not np.array_equal(lengths, [width]):
        raise DataError(
            f"{path}: column {name!r}: expected lists of {width} numbers, got lengths {lengths.tolist()}."
        )
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks])
    return _numbers(path, name, flat).astype(np.float32).reshape(-1, width)


def _first_wrong(index: np.ndarray, total: int) -> str:
    wrong = np.flatnonzero(index[:total] != np.arange(min(len(index), total)))
    return f", row {wrong[0]} with index {index[wrong[0]]}" if len(wrong) else ""


def _check_rows(
    folder: Path, episodes: Sequence[Mapping[str, Any]], columns: Mapping[str, np.ndarray]
) -> None:
    """Rows count episodes and ticks as meta/episodes says."""
    lengths = np.array([row["length"] for row in episodes])
    starts = np.cumsum(lengths) - lengths
    for name, expected in (
        ("episode_index", np.repeat(np.arange(len(lengths)), lengths)),
        ("frame_index", np.arange(lengths.sum()) - np.repeat(starts, lengths)),
    ):
        wrong = np.flatnonzero(columns[name] != expected)
        if len(wrong):
            row = wrong[0]
            raise DataError(
                f"{folder}/data: row {row}: expected {name} {expected[row]}, got {columns[name][row]}. "
                + _RESTORE
            )


def _check_words(folder: Path, index: np.ndarray, kind: str, known: int) -> None:
    """The words of every row exist."""
    wrong = np.flatnonzero((index < 0) | (index >= known))
    if len(wrong):
        raise DataError(
            f"{folder}/data: row {wrong[0]}: {kind}_index {index[wrong[0]]}, "
            f"but meta/{kind}s.parquet has {known} {kind}s. {_RESTORE}"
        )


def _check_finite(folder: Path, name: str, values: np.ndarray, episodes: Sequence[Mapping[str, Any]]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return
    row, dimension = bad[0]
    episode = next(e for e in episodes if e["dataset_from_index"] <= row < e["dataset_to_index"])
    raise DataError(
        f"{folder}/data: episode {episode['episode_index']}, tick {row - episode['dataset_from_index']}: "
        f"{name!r} dimension {dimension} is {values[row, dimension]}, one of {len(bad)} such values. "
        "Remove the episodes that hold them."
    )
