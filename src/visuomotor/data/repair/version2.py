"""Repairs recordings of LeRobot v2.1 and v2.0: a table and a video an episode, listed in JSON lines.

The recorder appends the words of an episode, writes its table, makes its videos of single pictures, and
appends its lines; v2.0 makes the videos and the statistics when the recording is over. A table is
written at once, so one with a footer is whole, and says how long the episode is. Without a footer, the
line of the episode or its videos have to say so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.features import Feature
from visuomotor.data.files import replace_file, replace_json
from visuomotor.data.repair.parts import (
    Damaged,
    Rows,
    Texts,
    figures,
    film,
    learn_texts,
    read_rows,
    renumber,
    rows_fault,
)
from visuomotor.data.repair.pictures import clip_of_stills, left_pictures, still_figures, video_figures
from visuomotor.data.stats import Spread, merge, plain
from visuomotor.data.stills import decode_still, still_bytes
from visuomotor.data.video import decode
from visuomotor.errors import DataError

__all__ = ["repair_version2"]

_FIGURES = ("min", "max", "mean", "std", "count")
Lines = dict[int, dict[str, Any]]
"""Lines of a file of JSON objects by their index."""


class _Lost(Exception):
    """Why an episode cannot be kept."""


@dataclass
class _Result:
    """What was written so far."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    stats: list[dict[str, Spread]] = field(default_factory=list)
    ticks: int = 0


def repair_version2(damaged: Damaged, target: Path) -> None:
    """Write the episodes that are whole to `target`; nothing is written if there are none.

    Args:
        damaged: The data set; its report is filled.
        target: A folder that is missing or empty.
    """
    report = damaged.report
    lines = read_lines(damaged, layout.EPISODES_LINES, "episode")
    numbers = sorted({*lines, *_tables(damaged)})
    texts = _texts(damaged, lines, numbers)
    told = _told_figures(damaged)
    done = _Result()
    for number in numbers:
        try:
            _keep(damaged, target, number, lines.get(number), texts, told.get(number), done)
        except (_Lost, DataError) as error:
            report.lost.append(f"episode {number}: {error}")
            continue
        if number != len(done.lines) - 1:
            report.lost.append(f"episode {number} is now called {len(done.lines) - 1}")
    for number, names in left_pictures(damaged.folder).items():
        if number not in numbers:
            report.lost.append(
                f"episode {number}: pictures of {', '.join(names)}, but its rows were never written"
            )
    if done.lines:
        _write_meta(damaged, target, texts, done)


# ---- lists


def read_lines(damaged: Damaged, name: str, kind: str) -> Lines:
    """Every line of a list that is whole, by its `<kind>_index`; the others are reported."""
    path, found, report = damaged.folder / name, {}, damaged.report
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        report.lost.append(f"{path}: cannot be read ({error})")
        return {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            index = row[f"{kind}_index"]
        except (ValueError, RecursionError, KeyError, TypeError):
            report.lost.append(f"{path}: line {number} is cut off or damaged")
            continue
        if type(index) is not int or index < 0 or index in found:
            report.lost.append(f"{path}: line {number}: {kind} {index!r:.20} is there twice, or no number")
        else:
            found[index] = row
    return found


def _tables(damaged: Damaged) -> set[int]:
    """Numbers of the episodes that have a table."""
    found = set()
    for path in (damaged.folder / "data").rglob("*.parquet"):
        digits = re.search(r"(\d{1,9})\.parquet$", path.name)
        if digits:
            found.add(int(digits[1]))
    return found


def _texts(damaged: Damaged, lines: Lines, numbers: Sequence[int]) -> Texts:
    """The words by their index, those that are lost learned from what the lines of episodes tell."""
    texts = {}
    scratch = Damaged(
        folder=damaged.folder,
        info=damaged.info,
        features=damaged.features,
        report=type(damaged.report)(folder=""),
    )
    for kind, name in (("task", layout.TASKS_LINES), ("subtask", layout.SUBTASKS_LINES)):
        if f"{kind}_index" not in damaged.features:
            continue
        read = read_lines(damaged, name, kind)
        known = {index: row[kind] for index, row in read.items() if isinstance(row.get(kind), str)}
        hints = []
        for number in numbers:
            rows = read_rows(scratch, _table_path(damaged, number))
            words = lines.get(number, {}).get(f"{kind}s")
            if rows is not None and f"{kind}_index" in rows.table.column_names:
                told = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
                hints.append((set(rows.table[f"{kind}_index"].to_pylist()), told))
        texts[kind] = learn_texts(known, hints)
        for index in sorted(texts[kind].keys() - known.keys()):
            damaged.report.recovered.append(
                f"{name}: {kind} {index}, {texts[kind][index]!r}, from the episodes"
            )
    return texts


def _told_figures(damaged: Damaged) -> dict[int, dict[str, Spread]]:
    """Figures of pictures by episode, as far as the recorder wrote them; v2.0 has none of episodes."""
    if damaged.info["codebase_version"] != layout.VERSION_21:
        return {}
    names = [name for name, feature in damaged.features.items() if feature.pictures]
    rows = read_lines(damaged, layout.STATS_LINES, "episode")
    return {number: _usable(row.get("stats"), names) for number, row in rows.items()}


def _usable(stats: Any, names: Sequence[str]) -> dict[str, Spread]:
    """The figures of `names` that are whole."""
    found: dict[str, Spread] = {}
    for name in names:
        entry = stats.get(name) if isinstance(stats, Mapping) else None
        try:
            told = {how: np.asarray(entry[how], np.float64) for how in _FIGURES if how in entry}  # type: ignore[index,operator]
        except (TypeError, ValueError):
            continue
        if told.keys() == set(_FIGURES) and all(told[how].shape == (3, 1, 1) for how in _FIGURES[:-1]):
            found[name] = told
    return found


# ---- one episode


def _table_path(damaged: Damaged, number: int) -> Path:
    return _place(damaged, damaged.info.get("data_path") or layout.DATA_PATH_2, number)


def _place(damaged: Damaged, template: str, number: int, feature: str = "") -> Path:
    """Where a file of an episode lies in the damaged data set."""
    per_chunk = damaged.info.get("chunks_size")
    per_chunk = per_chunk if type(per_chunk) is int and per_chunk > 0 else layout.FILES_PER_CHUNK
    return layout.safe_path(
        damaged.folder,
        template,
        video_key=feature,
        episode_chunk=number // per_chunk,
        episode_index=number,
    )


def _keep(
    damaged: Damaged,
    target: Path,
    number: int,
    line: Mapping[str, Any] | None,
    texts: Texts,
    told: Mapping[str, Spread] | None,
    done: _Result,
) -> None:
    """Write one episode; `_Lost` or `DataError`, with nothing written, if it is not whole."""
    rows, new = _rows(damaged, number, texts), len(done.lines)
    length = len(rows.table)
    declared = line.get("length") if line else None
    table = _with_pictures_inside(damaged, rows.table)
    videos = {
        name: _video(damaged, number, feature, line, length, sure=rows.whole or declared == length)
        for name, feature in damaged.filmed.items()
    }
    if not rows.whole and declared != length and not videos:
        raise _Lost(f"its table has no footer, and nothing says that {length} ticks are all")
    path = target / _new_place(layout.DATA_PATH_2, new)
    fresh = renumber(table, new, done.ticks, texts)
    source = _table_path(damaged, number)
    if rows.whole and fresh.equals(rows.table):
        replace_file(path, lambda temporary: shutil.copyfile(source, temporary))
    else:
        replace_file(path, lambda temporary: pq.write_table(fresh, temporary))
    for name, video in videos.items():
        copy = target / _new_place(layout.VIDEO_PATH_2, new, name)
        if isinstance(video, bytes):
            replace_file(copy, lambda temporary, data=video: temporary.write_bytes(data))  # type: ignore[misc]
        else:
            replace_file(copy, lambda temporary, data=video: shutil.copyfile(data, temporary))  # type: ignore[misc]
    done.stats.append(_all_figures(damaged, target, new, fresh, told))
    done.lines.append(_line(damaged, number, new, line, fresh, texts, videos))
    done.ticks += length


def _rows(damaged: Damaged, number: int, texts: Texts) -> Rows:
    """The rows of an episode; `_Lost` if they are missing or make no sense."""
    path = _table_path(damaged, number)
    if not path.is_file():
        raise _Lost(f"its table {path} is missing")
    rows = read_rows(damaged, path)
    if rows is None or not len(rows.table):
        raise _Lost("its table cannot be read" if rows is None else "its table has no rows")
    if set(rows.table["episode_index"].to_pylist()) != {number}:
        raise _Lost("its table says that its rows belong to another episode")
    fault = rows_fault(damaged, rows.table, texts)
    if fault:
        raise _Lost(fault)
    return rows


def _with_pictures_inside(damaged: Damaged, table: pa.Table) -> pa.Table:
    """The rows with every picture read, and those taken into the table that are files of their own."""
    for name, feature in damaged.stored.items():
        if feature.dtype != "image":
            continue
        column, pictures = table[name], []
        for tick, value in enumerate(column.to_pylist()):
            where = f"tick {tick}: {name!r}"
            pictures.append(still_bytes(where, damaged.folder, value))
            decode_still(where, pictures[-1], feature)
        kept = layout.stills_array(pictures)
        inside = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
        if (
            not inside
            or pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], pa.binary()).null_count
        ):
            table = table.set_column(table.column_names.index(name), name, kept)
    return table


def _video(
    damaged: Damaged,
    number: int,
    feature: Feature,
    line: Mapping[str, Any] | None,
    length: int,
    *,
    sure: bool,
) -> Path | bytes:
    """The video of an episode as a file that is whole, or made anew from the pictures that were left."""
    name, report = feature.name, damaged.report
    path = _place(damaged, damaged.info.get("video_path") or layout.VIDEO_PATH_2, number, name)
    told = "is missing"
    if path.is_file():
        found = film(damaged, path, feature)
        if found.whole == length or (found.whole > length and (line or {}).get("length") == length):
            hashes = (line or {}).get("sha256")
            known = hashes.get(name) if isinstance(hashes, Mapping) else None
            for _ in decode(path, rate=damaged.rate, count=length, sha256=known) if known else ():
                pass  # raises if it is another video
            return path
        told = f"has {found.whole} whole pictures for {length} ticks"
    folder = damaged.folder / f"images/{name}/episode_{number:06d}"
    if sure and folder.is_dir():
        clip = clip_of_stills(damaged, folder, feature, length)
        report.recovered.append(
            f"episode {number}: the video of {name!r} {told}; made of its pictures in {folder}"
        )
        return clip
    raise _Lost(f"its video {path} {told}")


def _new_place(template: str, number: int, feature: str = "") -> str:
    return template.format(
        episode_chunk=number // layout.FILES_PER_CHUNK, episode_index=number, video_key=feature
    )


def _all_figures(
    damaged: Damaged, target: Path, number: int, table: pa.Table, told: Mapping[str, Spread] | None
) -> dict[str, Spread]:
    """Figures of every column and of the pictures of one episode, in the order of info.json."""
    found = figures(damaged, table)
    for name, feature in damaged.features.items():
        if not feature.pictures or feature.shape[2] != 3:
            continue
        if told is not None and name in told:
            found[name] = dict(told[name])
        elif feature.dtype == "video":
            path = target / _new_place(layout.VIDEO_PATH_2, number, name)
            found[name] = video_figures(path, damaged.rate, len(table))
        else:
            found[name] = still_figures(damaged.folder, table[name], feature)
    return {name: found[name] for name in damaged.features if name in found}


def _line(
    damaged: Damaged,
    number: int,
    new: int,
    line: Mapping[str, Any] | None,
    table: pa.Table,
    texts: Texts,
    videos: Mapping[str, Path | bytes],
) -> dict[str, Any]:
    """The line of an episode; what else it told is kept."""
    words = [text for _, text in sorted(texts["task"].items())]
    used = [words[index] for index in dict.fromkeys(table["task_index"].to_pylist())]
    if line is None:
        damaged.report.recovered.append(f"episode {number}: its line in {layout.EPISODES_LINES}")
    elif line.get("length") != len(table):
        damaged.report.recovered.append(
            f"episode {number}: its line said {line.get('length')!r:.20} ticks, its table has {len(table)}"
        )
    row = {**(line or {}), "episode_index": new, "tasks": used, "length": len(table)}
    hashes = row.pop("sha256", None)
    if isinstance(hashes, Mapping):
        kept = {name: value for name, value in hashes.items() if isinstance(videos.get(name), Path)}
        row = {**row, "sha256": kept} if kept else row
    return row


# ---- the whole


def _write_meta(damaged: Damaged, target: Path, texts: Texts, done: _Result) -> None:
    """Lists, statistics, our own file, and totals."""
    _write_lines(target / layout.EPISODES_LINES, done.lines)
    for kind, name in (("task", layout.TASKS_LINES), ("subtask", layout.SUBTASKS_LINES)):
        if kind in texts:
            known = [texts[kind][index] for index in sorted(texts[kind])]
            _write_lines(target / name, ({f"{kind}_index": n, kind: text} for n, text in enumerate(known)))
    if damaged.info["codebase_version"] == layout.VERSION_21:
        rows = [
            {"episode_index": number, "stats": {name: _plain(part) for name, part in parts.items()}}
            for number, parts in enumerate(done.stats)
        ]
        _write_lines(target / layout.STATS_LINES, rows)
    else:
        names = list(done.stats[0])
        stats = {name: _plain(merge([parts[name] for parts in done.stats])) for name in names}
        replace_json(target / layout.STATS, stats)
    if (damaged.folder / layout.SIDECAR).is_file():
        shutil.copyfile(damaged.folder / layout.SIDECAR, target / layout.SIDECAR)
    episodes = len(done.lines)
    totals = {
        "total_episodes": episodes,
        "total_frames": done.ticks,
        "total_tasks": len(texts["task"]),
        "total_videos": episodes * len(damaged.filmed),
        "total_chunks": -(-episodes // layout.FILES_PER_CHUNK),
        "chunks_size": layout.FILES_PER_CHUNK,
        "splits": {"train": f"0:{episodes}"},
        "data_path": layout.DATA_PATH_2,
        "video_path": layout.VIDEO_PATH_2 if damaged.filmed else None,
    }
    for name, value in totals.items():
        if name.startswith("total_") and damaged.info.get(name) != value:
            damaged.report.recovered.append(
                f"{layout.INFO}: {name} was {damaged.info.get(name)!r:.20}, it is {value}"
            )
    replace_json(target / layout.INFO, {**damaged.info, **totals})


def _plain(figure: Spread) -> dict[str, Any]:
    return plain({how: figure[how] for how in _FIGURES})


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
