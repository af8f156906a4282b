"""The tables of a LeRobot data set as NumPy, checked value by value.

Nothing here looks at pictures. Every error names the file, what was expected, what came, and what
to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.catalog import Catalog, EpisodeRow
from visuomotor.data.columns import matrix, numbers
from visuomotor.errors import DataError

__all__ = [
    "RESTORE",
    "SKEW",
    "Tables",
    "check_count",
    "check_texts",
    "load_json",
    "load_json_lines",
    "load_tables",
    "read_parquet",
]

RESTORE = "Restore the file from a copy, try `visuomotor data repair`, or collect the data again."
SKEW = 0.25
"""Ticks by which a timestamp may differ from its place; beyond, the rate is not the one of the data."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the parquet files hold.

    Attributes:
        vectors: Feature name to float32 (tick, dimension).
        task_index: Which instruction holds at each tick, int64 (tick,).
        subtask_index: Which subtask holds at each tick, int64 (tick,); None if ticks have none.
        files: Parquet file to the row of the data set with which it begins.
    """

    vectors: Mapping[str, np.ndarray]
    task_index: np.ndarray
    subtask_index: np.ndarray | None
    files: Mapping[Path, int]


def load_json(path: Path) -> Any:
    """The content of a JSON file of a data set."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: file is missing. {RESTORE}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, but it cannot be read ({error}). {RESTORE}") from error


def load_json_lines(path: Path, *, ours: bool) -> list[dict[str, Any]]:
    """Every line of a file of JSON objects.

    Args:
        path: The file.
        ours: Whether our writer made it. An interrupted one may leave a last line without its end, which
            is left out.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace" if ours else "strict")
    except FileNotFoundError as error:
        raise DataError(f"{path}: file is missing. {RESTORE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected lines of JSON, but it cannot be read ({error}). {RESTORE}"
        ) from error
    lines = text.split("\n")
    rows = []
    for number, line in enumerate(lines[:-1] if ours else lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number}: expected JSON ({error}). {RESTORE}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number}: expected an object, got {row!r:.80}. {RESTORE}")
        rows.append(row)
    return rows


def read_parquet(
    path: Path,
    needed: Sequence[str] = (),
    *,
    only: bool = False,
    skip: str | None = None,
    besides: Sequence[str] = (),
) -> pa.Table:
    """The columns of a parquet file.

    Args:
        path: The file.
        needed: Columns that it must have.
        only: Read nothing but `needed`.
        skip: Do not read columns that begin with this.
        besides: Columns that it must have and that are not read.
    """
    if not path.is_file():
        raise DataError(f"{path}: file is missing. {RESTORE}")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        missing = [name for name in (*needed, *besides) if name not in names]
        if missing:
            raise DataError(f"{path}: no column {', '.join(map(repr, missing))}, only {names}. {RESTORE}")
        wanted = needed if only else [name for name in names if skip is None or not name.startswith(skip)]
        table = file.read(columns=list(wanted))
        table.validate(full=True)
        return table.select(list(wanted)) if only else table  # a prefix of a name would bring more
    except (pa.ArrowException, OSError, KeyError, MemoryError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({error}); it may be cut off. {RESTORE}"
        ) from error


def check_count(source: Path, found: int, declared: Any, files: int, *, ours: bool) -> None:
    """There are episodes, and as many as info.json says; our own totals may lag behind."""
    if not found:
        raise DataError(
            f"{source}: the data set holds no finished episode. "
            + (
                "Collect again into the same folder, or delete it."
                if ours
                else "If its recording was interrupted, try `visuomotor data repair`."
            )
        )
    if declared is None and ours:
        return
    if type(declared) is not int or found < declared or (found != declared and not ours):
        raise DataError(
            f"{source}: {found} episodes in {files} files, but {layout.INFO} says {declared!r}. "
            f"A file is missing. {RESTORE}"
        )


def check_texts(path: Path, index: str, pairs: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    """Texts by their index, which counts from 0 without gaps."""
    known: dict[Any, Any] = {}
    for number, text in pairs:
        if type(number) is not int or not isinstance(text, str) or number in known:
            raise DataError(
                f"{path}: expected {index} 0 to N with one text each, got {number!r} for "
                f"{text!r:.60}. {RESTORE}"
            )
        known[number] = text
    if sorted(known) != list(range(len(known))):
        raise DataError(f"{path}: expected {index} 0 to {len(known) - 1} with one text each. {RESTORE}")
    return tuple(known[number] for number in range(len(known)))


def load_tables(
    catalog: Catalog,
    info: Mapping[str, Any],
    widths: Mapping[str, int],
    *,
    pictures: Sequence[str] = (),
    ours: bool,
    timed: bool = True,
) -> Tables:
    """The numbers of every tick.

    Args:
        catalog: The index of the data set.
        info: Its info.json.
        widths: Vector features that are wanted, with the length that each must have.
        pictures: Columns of pictures that must be there as well; they are not read.
        ours: Whether our writer made it. An interrupted one may leave rows behind the last finished
            episode; such rows are left out. In a foreign data set they are an error.
        timed: Whether time stamps must fit the rate.
    """
    told = layout.SUBTASK_INDEX in info["features"]
    more = ((layout.SUBTASK_INDEX,) if told else ()) + (
        ("timestamp",) if "timestamp" in info["features"] else ()
    )
    last = catalog.episodes[-1]
    total = last.start + last.length
    columns, files = _load_data(catalog.episodes, widths, more, pictures, ours=ours)
    index = columns["index"]
    data = catalog.episodes[0].data.parent.parent
    if len(index) < total or not (index[:total] == np.arange(total)).all():
        raise DataError(
            f"{data}: expected rows with index 0 to {total - 1} in order, as {catalog.source} says; "
            f"found {len(index)} rows{_first_wrong(catalog, index, total)}. "
            f"A data file is missing or damaged. {RESTORE}"
        )
    if len(index) > total and not ours:
        raise DataError(
            f"{data}: {len(index)} rows, but the episodes of {catalog.source} have {total}. {RESTORE}"
        )
    columns = {name: values[:total] for name, values in columns.items()}
    _check_rows(catalog, columns)
    if timed and "timestamp" in columns:
        _check_times(catalog, columns["timestamp"], columns["frame_index"], float(info["fps"]))
    _check_words(catalog, columns["task_index"], "task", len(catalog.tasks))
    if told:
        _check_words(catalog, columns[layout.SUBTASK_INDEX], "subtask", len(catalog.subtasks))
    vectors = {name: np.ascontiguousarray(columns[name]) for name in widths}
    for name, values in vectors.items():
        _check_finite(catalog, name, values)
    return Tables(
        vectors=vectors,
        task_index=columns["task_index"],
        subtask_index=columns.get(layout.SUBTASK_INDEX),
        files=files,
    )


def _load_data(
    episodes: Sequence[EpisodeRow],
    widths: Mapping[str, int],
    more: Sequence[str],
    pictures: Sequence[str],
    *,
    ours: bool,
) -> tuple[dict[str, np.ndarray], dict[Path, int]]:
    """Every wanted column of all files that an episode lies in, in order, and where each file begins."""
    scalars = ("index", "episode_index", "frame_index", "task_index", *more)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*widths, *scalars)}
    files: dict[Path, int] = {}
    rows = 0
    within: dict[Path, list[EpisodeRow]] = {}
    for episode in episodes:
        within.setdefault(episode.data, []).append(episode)
    for number, (path, inside) in enumerate(within.items()):
        table = read_parquet(path, list(parts), only=True, besides=pictures)
        if ours and number + 1 < len(within):
            table = table.slice(0, sum(episode.length for episode in inside))
        place = _places(inside)
        for name in scalars:
            values = numbers(path, name, table[name], place)
            parts[name].append(values if name == "timestamp" else values.astype(np.int64))
        for name, width in widths.items():
            parts[name].append(matrix(path, name, table[name], width, place))
        files[path] = rows
        rows += len(table)
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}, files


def _places(episodes: Sequence[EpisodeRow]) -> Callable[[int], str]:
    """Says of a row of a file with these episodes to which of them, and to which tick, it belongs."""
    ends = np.cumsum([episode.length for episode in episodes])

    def place(row: int) -> str:
        number = min(int(np.searchsorted(ends, row, side="right")), len(episodes) - 1)
        episode = episodes[number]
        return f"episode {episode.index}, tick {row - int(ends[number]) + episode.length}"

    return place


def where(catalog: Catalog, row: int) -> str:
    """The file, episode and tick of a row of the data set, for messages."""
    starts = [episode.start for episode in catalog.episodes]
    episode = catalog.episodes[int(np.searchsorted(starts, row, side="right")) - 1]
    return f"{episode.data}: episode {episode.index}, tick {row - episode.start}"


def _first_wrong(catalog: Catalog, index: np.ndarray, total: int) -> str:
    wrong = np.flatnonzero(index[:total] != np.arange(min(len(index), total)))
    if not len(wrong):
        return ""
    return f", row {wrong[0]} with index {index[wrong[0]]} ({where(catalog, int(wrong[0]))})"


def _check_rows(catalog: Catalog, columns: Mapping[str, np.ndarray]) -> None:
    """Rows count episodes and ticks as the index of the data set says."""
    lengths = np.array([episode.length for episode in catalog.episodes])
    starts = np.cumsum(lengths) - lengths
    for name, expected in (
        ("episode_index", np.repeat(np.arange(len(lengths)), lengths)),
        ("frame_index", np.arange(lengths.sum()) - np.repeat(starts, lengths)),
    ):
        wrong = np.flatnonzero(columns[name] != expected)
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{where(catalog, row)}: expected {name} {expected[row]}, got {columns[name][row]}. {RESTORE}"
            )


def _check_times(catalog: Catalog, times: np.ndarray, ticks: np.ndarray, rate: float) -> None:
    """Time stamps fit the rate."""
    wrong = np.flatnonzero(~(np.abs(times.astype(np.float64) * rate - ticks) <= SKEW))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where(catalog, row)}: expected timestamp {ticks[row] / rate:.4f} at {rate:g} ticks a "
            f"second, got "
            f"{times[row]:.4f}. The fps of {layout.INFO} is not the rate of the data, or ticks were dropped."
        )


def _check_words(catalog: Catalog, index: np.ndarray, kind: str, known: int) -> None:
    """The words of every row exist."""
    wrong = np.flatnonzero((index < 0) | (index >= known))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where(catalog, row)}: {kind}_index {index[row]}, but the data set has {known} "
            f"{kind}s. {RESTORE}"
        )


def _check_finite(catalog: Catalog, name: str, values: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return
    row, dimension = bad[0]
    raise DataError(
        f"{where(catalog, int(row))}: {name!r} dimension {dimension} is {values[row, dimension]}, "
        f"one of {len(bad)} such values. Remove the episodes that hold them."
    )
