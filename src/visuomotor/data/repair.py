"""Recovers what an interrupted LeRobot recording left: tables without footers, cut videos, lost indexes.

LeRobot writes the footers of its tables when it is told that the recording is over; a recorder that
was killed leaves tables that nothing can read, though the episodes are in them. Nothing is guessed:
an episode is kept if all its rows and all its pictures are there, and what is not kept is told.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data import layout
from visuomotor.data.columns import column_array, column_values
from visuomotor.data.features import Feature, parse_features
from visuomotor.data.files import replace_file, replace_json
from visuomotor.data.folder import load_info
from visuomotor.data.footers import complete
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.rows import shaped_spread
from visuomotor.data.stats import Spread, plain
from visuomotor.data.tables import load_json, read_parquet
from visuomotor.data.version3 import read_texts
from visuomotor.data.video import join
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["RepairReport", "repair"]


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


@dataclass
class _Film:
    """A video file: how many pictures its index promises, and how many are there."""

    path: Path
    promised: int
    whole: int


@dataclass
class _Episode:
    """One episode that was found: its rows, and the file and first picture of each video feature."""

    number: int
    rows: pa.Table
    videos: dict[str, tuple[Path, int]] = field(default_factory=dict)


def repair(folder: str | Path, out: str | Path | None = None, *, in_place: bool = False) -> RepairReport:
    """Make a readable data set of what an interrupted recording left.

    Args:
        folder: A LeRobot v3.0 data set that cannot be read, or not to its end. It is not touched.
        out: Where the repaired one is written; missing or empty.
        in_place: Put the repaired one in the place of `folder`, which is renamed to `<folder>.broken`.

    Returns:
        What was recovered and what is lost.

    Raises:
        DataError: Nothing can be recovered, meta/info.json or the words of the tasks are lost, or `out`
            holds something.
        ValueError: Neither or both of `out` and `in_place`.
    """
    source = Path(folder)
    if (out is None) != in_place:
        raise ValueError("repair: expected either a folder for the result (out) or in_place.")
    target = source.with_name(f"{source.name}.repaired") if out is None else Path(out)
    if target.resolve().is_relative_to(source.resolve()) or (target.exists() and any(target.iterdir())):
        raise DataError(f"{target}: holds something, or lies within the data set. Choose another folder.")
    report = RepairReport(folder=str(target), before=str(source))
    info = load_info(source)
    if info["codebase_version"] != layout.VERSION:
        raise DataError(
            f"{source}: LeRobot {info['codebase_version']} has files of its own for each episode; the reader "
            f"names those that are damaged. Only {layout.VERSION} is repaired."
        )
    features = parse_features(source / layout.INFO, info)
    tasks = read_texts(source, "task")
    cut: set[Path] = set()
    episodes = _with_pictures(source, features, _episodes(source, features, report), cut, report)
    if not episodes:
        raise DataError(f"{source}: no episode could be recovered. {' '.join(report.lost)}")
    _write(target, source, info, features, tasks, episodes, cut, report)
    reader = LeRobotReader(target, _bare(info) if not (target / layout.SIDECAR).exists() else None)
    report.episodes, report.ticks = len(reader.episodes), len(reader)
    if in_place:
        broken = source.with_name(f"{source.name}.broken")
        if broken.exists():
            raise DataError(f"{broken}: is there already. The repaired data set is {target}.")
        source.rename(broken)
        target.rename(source)
        report.folder, report.before = str(source), str(broken)
    return report


def _bare(info: Mapping[str, Any]) -> Spec:
    """A spec that asks for nothing, to check the tables of a foreign data set."""
    return Spec(embodiment="any", cameras=(), state=(), action=(), rate=float(info["fps"]))


# ---- rows


def _episodes(source: Path, features: Mapping[str, Feature], report: RepairReport) -> list[_Episode]:
    """Every episode of which all rows are there, in order."""
    found: list[_Episode] = []
    stored = {name: feature for name, feature in features.items() if feature.dtype != "video"}
    for path in sorted((source / "data").glob("chunk-*/file-*.parquet")):
        table = _table(path, stored, report)
        if table is None:
            continue
        numbers, ticks = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(table)]):
            number = int(numbers[start])
            if not np.array_equal(ticks[start:end], np.arange(end - start)):
                report.lost.append(f"{path}: episode {number}: its ticks do not count from 0 without gaps")
            elif any(episode.number == number for episode in found):
                report.lost.append(f"{path}: episode {number} is there twice; the first is kept")
            else:
                found.append(_Episode(number=number, rows=table.slice(start, end - start)))
    return sorted(found, key=lambda episode: episode.number)


def _table(path: Path, stored: Mapping[str, Feature], report: RepairReport) -> pa.Table | None:
    """The rows of a data file, as many as can be read."""
    try:
        return read_parquet(path, list(stored), only=True)
    except DataError as error:
        whole, groups, used = complete(path.read_bytes(), _one_row(stored)) if path.is_file() else (b"", 0, 0)
        if not groups:
            report.lost.append(f"{path}: no whole row group in it ({error})")
            return None
    table = pq.read_table(pa.BufferReader(whole))
    behind = path.stat().st_size - used
    if behind:
        report.lost.append(f"{path}: {behind} bytes behind the last whole row group")
    report.recovered.append(f"{path}: footer; {groups} row groups with {len(table)} ticks")
    return table


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


# ---- pictures


def _with_pictures(
    source: Path,
    features: Mapping[str, Feature],
    episodes: list[_Episode],
    cut: set[Path],
    report: RepairReport,
) -> list[_Episode]:
    """The episodes of which every video has all pictures."""
    kept = episodes
    known = _known_places(source)
    for name in (name for name, feature in features.items() if feature.dtype == "video"):
        films = [
            _film(path, report) for path in sorted((source / "videos" / name).glob("chunk-*/file-*.mp4"))
        ]
        cut |= {film.path for film in films if film.whole < film.promised}
        places = _places(films, episodes, name, known, report)
        kept = [episode for episode in kept if episode.number in places]
        for episode in episodes:
            if episode.number in places:
                episode.videos[name] = places[episode.number]
            else:
                report.lost.append(f"episode {episode.number}: pictures of {name!r} are missing or cut off")
    return kept


def _known_places(source: Path) -> dict[int, Mapping[str, Any]]:
    """Rows of meta/episodes that can be read, by episode."""
    known: dict[int, Mapping[str, Any]] = {}
    for path in sorted((source / "meta/episodes").glob("chunk-*/file-*.parquet")):
        try:
            rows = read_parquet(path, ("episode_index",), skip="stats/").to_pylist()
        except DataError:
            continue
        known |= {row["episode_index"]: row for row in rows}
    return known


def _film(path: Path, report: RepairReport) -> _Film:
    """How many pictures a video promises, and how many can be read."""
    whole = promised = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            promised = stream.frames
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    break
                whole += 1
    except (av.FFmpegError, OSError, IndexError, ValueError, AttributeError) as error:
        report.lost.append(f"{path}: cannot be read behind picture {whole} ({error})")
    if whole < promised:
        report.recovered.append(f"{path}: the first {whole} of {promised} pictures")
    return _Film(path=path, promised=max(promised, whole), whole=whole)


def _places(
    films: Sequence[_Film],
    episodes: Sequence[_Episode],
    feature: str,
    known: Mapping[int, Mapping[str, Any]],
    report: RepairReport,
) -> dict[int, tuple[Path, int]]:
    """File and first picture of each episode whose pictures are all there.

    The index tells where it can be read. Else episodes lie one behind the other, never over two
    files; that holds as long as no episode is missing.
    """
    places: dict[int, tuple[Path, int]] = {}
    at = {film.path: 0 for film in films}
    number = 0
    for expected, episode in enumerate(episodes):
        row, length = known.get(episode.number), len(episode.rows)
        if row is not None and row.get(f"videos/{feature}/from_timestamp") is not None:
            chunk, file = (row[f"videos/{feature}/{name}"] for name in ("chunk_index", "file_index"))
            end = f"chunk-{chunk:03d}/file-{file:03d}.mp4"
            number = next(
                (n for n, film in enumerate(films) if film.path.as_posix().endswith(end)), len(films)
            )
            rate = length / max(
                row[f"videos/{feature}/to_timestamp"] - row[f"videos/{feature}/from_timestamp"], 1e-9
            )
            begin = round(row[f"videos/{feature}/from_timestamp"] * rate)
        elif episode.number != expected:
            report.lost.append(
                f"episode {episode.number}: an episode before it is missing, so its pictures cannot be told"
            )
            continue
        else:
            while number < len(films) and at[films[number].path] + length > films[number].promised:
                number += 1
            begin = at[films[number].path] if number < len(films) else 0
        if number >= len(films):
            continue
        film = films[number]
        at[film.path] = begin + length
        if begin + length <= film.whole:
            places[episode.number] = (film.path, begin)
    return places


# ---- writing


def _write(
    target: Path,
    source: Path,
    info: Mapping[str, Any],
    features: Mapping[str, Feature],
    tasks: Sequence[str],
    episodes: Sequence[_Episode],
    cut: set[Path],
    report: RepairReport,
) -> None:
    """The data set of `episodes`, which are counted anew."""
    rate, start = float(info["fps"]), 0
    films = _copy_videos(source, target, episodes, cut, rate)
    tables, rows = [], []
    for number, episode in enumerate(episodes):
        if number != episode.number:
            report.lost.append(f"episode {episode.number} is now called {number}")
        table, length = episode.rows, len(episode.rows)
        for name, values in (
            ("episode_index", np.full(length, number)),
            ("index", np.arange(start, start + length)),
        ):
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
        words = [tasks[index] for index in dict.fromkeys(table["task_index"].to_pylist())]
        row: dict[str, Any] = {"episode_index": number, "tasks": words, "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": start, "dataset_to_index": start + length}
        for name, (path, first) in episode.videos.items():
            row |= {f"videos/{name}/{key}": index for key, index in layout.place(films[path]).items()}
            row[f"videos/{name}/from_timestamp"] = first / rate
            row[f"videos/{name}/to_timestamp"] = (first + length) / rate
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for name, figures in _figures(source, features, table).items():
            row |= layout.stats_columns(name, figures)
        tables.append(table.combine_chunks())
        rows.append(row)
        start += length
    place = layout.place(0)
    replace_file(target / layout.DATA_PATH.format(**place), lambda path: _write_groups(tables, path))
    replace_file(target / layout.TASKS, lambda path: pq.write_table(layout.tasks_table(tasks), path))
    index = layout.episodes_table(rows)
    replace_file(target / layout.EPISODES_PATH.format(**place), lambda path: pq.write_table(index, path))
    stats = {name: plain(f) for name, f in _figures(source, features, pa.concat_tables(tables)).items()}
    replace_json(target / layout.STATS, {**_picture_stats(source, features, report), **stats})
    for name in (layout.SIDECAR, layout.SUBTASKS):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    told = {
        "total_episodes": len(episodes),
        "total_frames": start,
        "total_tasks": len(tasks),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH,
    }
    replace_json(target / layout.INFO, {**info, **told})


def _copy_videos(
    source: Path, target: Path, episodes: Sequence[_Episode], cut: set[Path], rate: float
) -> dict[Path, int]:
    """Copy each video that is needed, of those that are cut only what is whole; returns their numbers."""
    needed: dict[Path, int] = {}
    for episode in episodes:
        for path, first in episode.videos.values():
            needed[path] = max(needed.get(path, 0), first + len(episode.rows))
    numbers: dict[Path, int] = {}
    for path, pictures in needed.items():
        numbers[path] = int(path.parent.name[6:]) * layout.FILES_PER_CHUNK + int(path.stem[5:])
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path in cut:
            join([(path, pictures)], copy, rate)
        else:
            shutil.copy(path, copy)
    return numbers


def _figures(source: Path, features: Mapping[str, Feature], table: pa.Table) -> dict[str, Spread]:
    """Figures of every column of numbers."""
    found = {}
    for name, feature in features.items():
        if feature.numeric is not None:
            found[name] = shaped_spread(column_values(source, feature, table[name]))
    return found


def _picture_stats(source: Path, features: Mapping[str, Feature], report: RepairReport) -> dict[str, Any]:
    """Figures of pictures, as the recorder left them."""
    wanted = [name for name, feature in features.items() if feature.pictures]
    try:
        told = load_json(source / layout.STATS) if wanted else {}
    except DataError as error:
        report.lost.append(f"statistics of pictures ({error})")
        return {}
    return {name: told[name] for name in wanted if name in told}


def _write_groups(tables: Sequence[pa.Table], path: Path) -> None:
    """One row group a table."""
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
