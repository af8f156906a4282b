"""Checks of what readers usually trust: the times in the tables, and meta/stats.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.check.base import Finding, Survey
from visuomotor.data.stats import spread

__all__ = ["stats_differ", "stats_missing", "time_gaps"]

GAP_TICKS = 0.5
STATS_SHARE = 0.01
_FIGURES = ("min", "max", "mean", "std")
_COLUMNS = ["episode_index", "timestamp"]


def _times(survey: Survey) -> Iterator[tuple[int, np.ndarray]]:
    """Number of each episode with its times (tick,) in seconds, one row group in memory at a time.

    Data sets without times have none.
    """
    known = {entry.index for entry in survey.reader.episodes}
    current, parts = -1, list[np.ndarray]()
    for path in sorted((survey.reader.folder / "data").glob("**/*.parquet")):
        file = pq.ParquetFile(path)
        if not set(_COLUMNS) <= set(file.schema_arrow.names):
            return
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=_COLUMNS)
            numbers, times = (_flat(table[name]) for name in _COLUMNS)
            for index in dict.fromkeys(numbers.tolist()):
                if index != current and parts:
                    yield current, np.concatenate(parts)
                    parts = []
                current = int(index)
                if current in known:  # not what an interrupted writer left
                    parts.append(times[numbers == index].astype(np.float64))
    if parts:
        yield current, np.concatenate(parts)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers, or of lists of one number, as (row,)."""
    values = column.combine_chunks()
    return np.asarray(values.flatten() if pa.types.is_nested(values.type) else values)


def time_gaps(survey: Survey) -> Iterator[Finding]:
    """Ticks that were not taken at their time: frame k of an episode belongs to k / rate seconds."""
    for episode, times in _times(survey):
        late = (times - times[0]) * survey.rate - np.arange(len(times))
        steps = np.diff(late)
        off = np.flatnonzero(np.abs(steps) > GAP_TICKS)
        if len(off):
            tick = int(off[np.abs(steps[off]).argmax()])
            yield Finding(
                episode=episode,
                ticks=(tick, tick + 2),
                value=float(abs(steps[tick])),
                threshold=GAP_TICKS,
                said=f"{(steps[tick] + 1) / survey.rate:.3f} s pass from tick {tick} to the next, expected "
                f"{1 / survey.rate:.3f} s; so at {len(off)} place{'s' * (len(off) > 1)}.",
            )
        elif np.abs(late).max(initial=0) > GAP_TICKS:
            tick = int(np.abs(late).argmax())
            yield Finding(
                episode=episode,
                ticks=(tick, tick + 1),
                value=float(abs(late[tick])),
                threshold=GAP_TICKS,
                said=f"Times drift away from the rate of {survey.rate:g} Hz, by {abs(late[tick]):.1f} ticks.",
            )


def _told(folder: Path) -> Any:
    """What meta/stats.json says; None if it is missing or no JSON object."""
    try:
        told = json.loads((folder / layout.STATS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def stats_missing(survey: Survey) -> Iterator[Finding]:
    """No statistics of state or action in meta/stats.json."""
    told = _told(survey.reader.folder)
    for name in (layout.STATE, layout.ACTION):
        entry = (told or {}).get(name)
        lacks = [figure for figure in _FIGURES if not isinstance(entry, dict) or figure not in entry]
        if lacks:
            what = f"no {', '.join(lacks)} for" if told is not None else "nothing readable about"
            yield Finding(
                dimension=name,
                value=float(len(lacks)),
                threshold=0.0,
                said=f"{layout.STATS} has {what} {name}.",
            )


def stats_differ(survey: Survey) -> Iterator[Finding]:
    """Statistics that are not those of the tables."""
    told = _told(survey.reader.folder) or {}
    for name, values, dimensions in (
        (layout.STATE, survey.reader.state, survey.state_dimensions),
        (layout.ACTION, survey.reader.actions, survey.action_dimensions),
    ):
        if not isinstance(told.get(name), dict):
            continue
        true = spread(values)
        scale = np.maximum(true["max"] - true["min"], 1e-6 * np.maximum(1, np.abs(true["max"])))
        worst: dict[int, tuple[float, str, float]] = {}
        for figure in _FIGURES:
            try:
                said = np.asarray(told[name].get(figure, true[figure]), np.float64).ravel()
            except (TypeError, ValueError):
                said = np.full(len(dimensions), np.nan)
            if said.shape != true[figure].shape:
                said = np.full(len(dimensions), np.nan)
            off = np.where(np.isfinite(said), np.abs(said - true[figure]) / scale, np.inf)
            for number in np.flatnonzero(off > STATS_SHARE).tolist():
                if off[number] > worst.get(number, (0.0, "", 0.0))[0]:
                    worst[number] = (float(off[number]), figure, float(said[number]))
        for number, (size, figure, said_value) in worst.items():
            yield Finding(
                dimension=f"{'state' if name == layout.STATE else 'action'} {dimensions[number].name}",
                value=size,
                threshold=STATS_SHARE,
                said=f"{layout.STATS} says {figure} {said_value:.4g} for {dimensions[number].name}, "
                f"the tables {true[figure][number]:.4g}.",
            )
