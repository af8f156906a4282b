"""What repairing has in common whatever the version: the report, tables, videos, words, figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.columns import column_array, column_values
from visuomotor.data.features import Feature
from visuomotor.data.footers import complete
from visuomotor.data.rows import shaped_spread
from visuomotor.data.stats import Spread
from visuomotor.data.tables import SKEW, read_parquet
from visuomotor.errors import DataError

__all__ = [
    "Damaged",
    "Film",
    "RepairReport",
    "Rows",
    "Texts",
    "figures",
    "film",
    "learn_texts",
    "read_rows",
    "renumber",
    "rows_fault",
]


Texts = Mapping[str, Mapping[int, str]]
"""Kind of text, "task" or "subtask", to its texts by index."""


@dataclass(kw_only=True)
class RepairReport:
    """What `repair` did.

    Attributes:
        folder: The repaired data set.
        episodes: Episodes in it.
        ticks: Ticks in it.
        recovered: What was damaged and could be brought back.
        lost: What could not, and why.
        before: Where the damaged data set lies now.
    """

    folder: str
    episodes: int = 0
    ticks: int = 0
    recovered: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    before: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A data set that is to be repaired, with the report that is filled on the way.

    Attributes:
        folder: Where it lies; nothing in it is changed.
        info: Its info.json.
        features: What that says of each column.
        report: What was recovered and lost so far.
    """

    folder: Path
    info: Mapping[str, Any]
    features: Mapping[str, Feature]
    report: RepairReport

    @property
    def rate(self) -> float:
        """Ticks a second."""
        return float(self.info["fps"])

    @property
    def stored(self) -> dict[str, Feature]:
        """The features that are columns of the tables."""
        return {name: feature for name, feature in self.features.items() if feature.dtype != "video"}

    @property
    def filmed(self) -> dict[str, Feature]:
        """The features that are videos."""
        return {name: feature for name, feature in self.features.items() if feature.dtype == "video"}


# ---- tables


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What could be read of a table.

    Attributes:
        table: Its rows, the columns that info.json tells.
        whole: Whether its footer was there, which is written last.
    """

    table: pa.Table
    whole: bool


def read_rows(damaged: Damaged, path: Path) -> Rows | None:
    """The rows of a table, as many as can be read; what is behind the last whole row group is reported."""
    stored, report = damaged.stored, damaged.report
    try:
        return Rows(table=read_parquet(path, list(stored), only=True), whole=True)
    except DataError as error:
        data = path.read_bytes() if path.is_file() else b""
        whole, groups, used = complete(data, _one_row(stored)) if data else (b"", 0, 0)
        if not groups:
            report.lost.append(f"{path}: no whole row group in it ({error})")
            return None
    try:
        table = pq.read_table(pa.BufferReader(whole))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        report.lost.append(f"{path}: its row groups are damaged ({error})")
        return None
    behind = len(data) - used
    if behind:
        report.lost.append(f"{path}: {behind} bytes behind the last whole row group")
    report.recovered.append(f"{path}: footer; {groups} row groups with {len(table)} ticks")
    return Rows(table=table, whole=False)


def _one_row(stored: Mapping[str, Feature]) -> pa.Table:
    """A table with the columns that a recorder writes."""
    columns = {}
    for name, feature in stored.items():
        if feature.dtype == "image":
            columns[name] = layout.stills_array([b"0"])
        elif feature.dtype == "string" or feature.numeric is not None:
            shape = (1,) if feature.single else (1, *feature.shape)
            value = np.full(shape, "x", object) if feature.dtype == "string" else np.zeros(shape)
            columns[name] = column_array(feature, value)
    return pa.table(columns)


def rows_fault(damaged: Damaged, table: pa.Table, texts: Texts) -> str:
    """Why the rows of one episode cannot be kept; empty if they can."""
    for name, feature in damaged.stored.items():
        if feature.dtype != "string" and feature.numeric is None:
            continue
        try:
            values = column_values(damaged.folder, feature, table[name])
        except DataError as error:
            return str(error)
        if name in (layout.STATE, layout.ACTION, layout.EXECUTED) and not np.isfinite(values).all():
            return f"{name!r} has values that are no finite numbers"
    ticks = np.arange(len(table))
    if not np.array_equal(table["frame_index"].to_numpy(), ticks):
        return "its ticks do not count from 0 without gaps"
    if "timestamp" in damaged.features:
        times = table["timestamp"].to_numpy().astype(np.float64)
        if not (np.abs(times * damaged.rate - ticks) <= SKEW).all():
            return f"its time stamps are not those of {damaged.rate:g} ticks a second"
    for kind, known in texts.items():
        unknown = set(table[f"{kind}_index"].to_pylist()) - known.keys()
        if unknown:
            return f"the words of {kind} {', '.join(map(str, sorted(unknown)))} are lost"
    return ""


def renumber(table: pa.Table, number: int, start: int, texts: Texts) -> pa.Table:
    """The rows as episode `number` from row `start` on, with texts counted without gaps."""
    columns = {
        "episode_index": np.full(len(table), number),
        "index": np.arange(start, start + len(table)),
    }
    for kind, known in texts.items():
        places = {index: place for place, index in enumerate(sorted(known))}
        if any(index != place for index, place in places.items()):
            name = f"{kind}_index"
            columns[name] = np.array([places[index] for index in table[name].to_pylist()], np.int64)
    for name, values in columns.items():
        at = table.column_names.index(name)
        field_ = table.schema.field(at).with_type(pa.int64())
        table = table.set_column(at, field_, pa.array(values, pa.int64()))
    return table


# ---- words


def learn_texts(known: Mapping[int, str], hints: Iterable[tuple[set[int], Sequence[str]]]) -> dict[int, str]:
    """Texts with those that were lost and can be told, where an episode leaves one index and one text over.

    Args:
        known: Texts by index.
        hints: Of each episode the indices that its ticks have and the texts that its entry tells.
    """
    found, hints = dict(known), list(hints)
    while True:
        before = len(found)
        for indices, texts in hints:
            missing = indices - found.keys()
            over = set(texts) - {found[index] for index in indices - missing}
            if len(missing) == len(over) == 1:
                found[missing.pop()] = over.pop()
        if len(found) == before:
            return found


# ---- pictures


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video file: how many pictures its index promises, and how many are there, each at its time."""

    path: Path
    promised: int
    whole: int


def film(damaged: Damaged, path: Path, feature: Feature) -> Film:
    """How many pictures a video promises, and how many can be read from the first on."""
    whole = promised = 0
    report = damaged.report
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            promised = stream.frames
            base = float(stream.time_base or 0)
            for frame in container.decode(stream):
                size = (frame.height, frame.width)
                if size != feature.shape[:2]:
                    report.lost.append(f"{path}: its pictures are {size[0]} x {size[1]}")
                    break
                late = frame.pts is None or round(frame.pts * base * damaged.rate) != whole
                if frame.is_corrupt or late:
                    break
                whole += 1
    except (av.FFmpegError, OSError, IndexError, ValueError, AttributeError, OverflowError) as error:
        report.lost.append(f"{path}: cannot be read behind picture {whole} ({error})")
    return Film(path=path, promised=max(promised, whole), whole=whole)


# ---- figures


def figures(damaged: Damaged, table: pa.Table) -> dict[str, Spread]:
    """Figures of every column of numbers."""
    return {
        name: shaped_spread(column_values(damaged.folder, feature, table[name]))
        for name, feature in damaged.features.items()
        if feature.numeric is not None
    }
