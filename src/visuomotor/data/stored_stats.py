"""The statistics that a data set brings along, from the files of its version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data import layout
from visuomotor.data.stats import Spread, merge
from visuomotor.data.tables import RESTORE, load_json, load_json_lines
from visuomotor.errors import DataError

__all__ = ["load_stats"]

_FIGURES = ("min", "max", "mean", "std", "count")


def load_stats(folder: Path, version: str, *, ours: bool) -> dict[str, Spread]:
    """Feature to its figures over the whole data set: meta/stats.json, or the episodes of v2.1 merged.

    Raises:
        DataError: There are none, or they are damaged.
    """
    if version != layout.VERSION_21:
        path = folder / layout.STATS
        told = load_json(path)
        if not isinstance(told, dict) or not told:
            raise DataError(f"{path}: expected an object of figures by feature. {RESTORE}")
        return {name: _figures(f"{path}: {name!r}", entry) for name, entry in told.items()}
    path = folder / layout.STATS_LINES
    rows = load_json_lines(path, ours=ours)
    parts: dict[str, list[Spread]] = {}
    for row in rows:
        stats = row.get("stats")
        if not isinstance(stats, dict):
            raise DataError(
                f"{path}: episode {row.get('episode_index')}: expected 'stats', got {stats!r:.60}."
            )
        for name, entry in stats.items():
            where = f"{path}: episode {row.get('episode_index')}: {name!r}"
            parts.setdefault(name, []).append(_figures(where, entry, counted=True))
    if not parts:
        raise DataError(f"{path}: holds no statistics. {RESTORE}")
    try:
        return {name: merge(episodes) for name, episodes in parts.items()}
    except ValueError as error:
        raise DataError(f"{path}: the figures of episodes differ in shape ({error}). {RESTORE}") from error


def _figures(where: str, entry: Any, *, counted: bool = False) -> Spread:
    """The arrays of one feature; v2.0 has no count."""
    needed = _FIGURES if counted else _FIGURES[:-1]
    if not isinstance(entry, Mapping) or not all(name in entry for name in needed):
        raise DataError(f"{where}: expected figures {', '.join(needed)}, got {entry!r:.80}. {RESTORE}")
    try:
        return {name: np.atleast_1d(np.asarray(values, np.float64)) for name, values in entry.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected numbers ({error}). {RESTORE}") from error
