"""Repairs recordings of LeRobot v3.0: many episodes a file, footers written last, an index in tables."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
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
    Film,
    Texts,
    figures,
    film,
    learn_texts,
    read_rows,
    renumber,
    rows_fault,
)
from visuomotor.data.repair.pictures import left_pictures, still_figures, video_figures
from visuomotor.data.stats import Spread, merge, plain
from visuomotor.data.tables import load_json, read_parquet
from visuomotor.data.version3 import read_texts
from visuomotor.data.video import join
from visuomotor.errors import DataError

__all__ = ["repair_version3"]

_Index = Mapping[int, Mapping[str, Any]]
"""Rows of meta/episodes by episode."""


@dataclass
class _Episode:
    """One episode that was found: its rows, and the file and first picture of each video feature."""

    number: int
    rows: pa.Table
    videos: dict[str, tuple[Path, int]] = field(default_factory=dict)


def repair_version3(damaged: Damaged, target: Path) -> None:
    """Write the episodes that are whole to `target`; nothing is written if there are none.

    Args:
        damaged: The data set; its report is filled.
        target: A folder that is missing or empty.
    """
    known = _known(damaged.folder)
    found = _found(damaged)
    texts = _texts(damaged, known, found)
    sound = []
    for episode in found:
        fault = rows_fault(damaged, episode.rows, texts)
        if fault:
            damaged.report.lost.append(f"episode {episode.number}: {fault}")
        else:
            sound.append(episode)
    for number, names in left_pictures(damaged.folder).items():
        if all(episode.number != number for episode in found):
            damaged.report.lost.append(
                f"episode {number}: pictures of {', '.join(names)}, but its rows were never written"
            )
    cut: set[Path] = set()
    episodes = _with_pictures(damaged, sound, found, known, cut)
    if episodes:
        _write(damaged, target, texts, episodes, cut)


# ---- rows


def _found(damaged: Damaged) -> list[_Episode]:
    """Every episode that has rows, in order."""
    found: dict[int, _Episode] = {}
    for path in sorted((damaged.folder / "data").glob("chunk-*/file-*.parquet")):
        rows = read_rows(damaged, path)
        if rows is None or not len(rows.table):
            continue
        numbers = rows.table["episode_index"].to_numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
        for start, end in zip(starts, [*starts[1:], len(numbers)]):
            number = int(numbers[start])
            if number in found:
                damaged.report.lost.append(f"{path}: episode {number} is there twice; the first is kept")
            else:
                found[number] = _Episode(number=number, rows=rows.table.slice(start, end - start))
    return [found[number] for number in sorted(found)]


def _known(folder: Path) -> _Index:
    """Rows of meta/episodes that can be read."""
    known: dict[int, Mapping[str, Any]] = {}
    for path in sorted((folder / "meta/episodes").glob("chunk-*/file-*.parquet")):
        try:
            rows = read_parquet(path, ("episode_index",), skip="stats/").to_pylist()
        except DataError:
            continue
        known |= {row["episode_index"]: row for row in rows}
    return known


def _texts(damaged: Damaged, known: _Index, found: Sequence[_Episode]) -> Texts:
    """The words, from their tables or from what the index of episodes tells of them."""
    texts = {}
    for kind in ("task", "subtask"):
        if f"{kind}_index" not in damaged.features:
            continue
        try:
            texts[kind] = dict(enumerate(read_texts(damaged.folder, kind)))
        except DataError as error:
            hints = [
                (set(episode.rows[f"{kind}_index"].to_pylist()), known[episode.number].get(f"{kind}s") or ())
                for episode in found
                if episode.number in known
            ]
            texts[kind] = learn_texts({}, hints)
            damaged.report.lost.append(f"meta/{kind}s.parquet ({error})")
            damaged.report.recovered.append(f"{len(texts[kind])} {kind}s from the index of episodes")
    return texts


# ---- pictures


def _with_pictures(
    damaged: Damaged,
    sound: Sequence[_Episode],
    found: Sequence[_Episode],
    known: _Index,
    cut: set[Path],
) -> list[_Episode]:
    """The episodes of `sound` of which all pictures are there; `cut` gets the videos that are not whole."""
    kept, report = list(sound), damaged.report
    counted = [e for e in found if np.array_equal(e.rows["frame_index"].to_numpy(), np.arange(len(e.rows)))]
    for name, feature in damaged.filmed.items():
        paths = sorted((damaged.folder / "videos" / name).glob("chunk-*/file-*.mp4"))
        films = [film(damaged, path, feature) for path in paths]
        for one in films:
            if one.whole < one.promised:
                cut.add(one.path)
                report.recovered.append(f"{one.path}: the first {one.whole} of {one.promised} pictures")
        places = _places(films, counted, name, known, damaged)
        kept = [episode for episode in kept if episode.number in places]
        for episode in sound:
            if episode.number in places:
                episode.videos[name] = places[episode.number]
            else:
                report.lost.append(f"episode {episode.number}: pictures of {name!r} are missing or cut off")
    return kept


def _places(
    films: Sequence[Film],
    episodes: Sequence[_Episode],
    feature: str,
    known: _Index,
    damaged: Damaged,
) -> dict[int, tuple[Path, int]]:
    """File and first picture of each episode whose pictures are all there.

    The index tells where it can be read. Else episodes lie one behind the other, never over two
    files; that holds as long as no episode is missing.
    """
    places: dict[int, tuple[Path, int]] = {}
    at = {one.path: 0 for one in films}
    number = 0
    for expected, episode in enumerate(episodes):
        row, length = known.get(episode.number), len(episode.rows)
        if row is not None and row.get(f"videos/{feature}/from_timestamp") is not None:
            chunk, file = (row[f"videos/{feature}/{name}"] for name in ("chunk_index", "file_index"))
            end = f"chunk-{chunk:03d}/file-{file:03d}.mp4"
            number = next((n for n, one in enumerate(films) if one.path.as_posix().endswith(end)), len(films))
            rate = length / max(
                row[f"videos/{feature}/to_timestamp"] - row[f"videos/{feature}/from_timestamp"], 1e-9
            )
            begin = round(row[f"videos/{feature}/from_timestamp"] * rate)
        elif episode.number != expected:
            damaged.report.lost.append(
                f"episode {episode.number}: an episode before it is missing, so its pictures cannot be told"
            )
            continue
        else:
            while number < len(films) and at[films[number].path] + length > films[number].promised:
                number += 1
            begin = at[films[number].path] if number < len(films) else 0
        if number >= len(films):
            continue
        at[films[number].path] = begin + length
        if begin + length <= films[number].whole:
            places[episode.number] = (films[number].path, begin)
    return places


# ---- writing


def _write(
    damaged: Damaged, target: Path, texts: Texts, episodes: Sequence[_Episode], cut: set[Path]
) -> None:
    """The data set of `episodes`, which are counted anew."""
    rate, start = damaged.rate, 0
    films = _copy_videos(damaged, target, episodes, cut)
    tables, rows = [], []
    for number, episode in enumerate(episodes):
        if number != episode.number:
            damaged.report.lost.append(f"episode {episode.number} is now called {number}")
        length = len(episode.rows)
        words = [texts["task"][index] for index in dict.fromkeys(episode.rows["task_index"].to_pylist())]
        row: dict[str, Any] = {"episode_index": number, "tasks": words, "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": start, "dataset_to_index": start + length}
        for name, (path, first) in episode.videos.items():
            row |= {f"videos/{name}/{key}": index for key, index in layout.place(films[path]).items()}
            row[f"videos/{name}/from_timestamp"] = first / rate
            row[f"videos/{name}/to_timestamp"] = (first + length) / rate
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        table = renumber(episode.rows, number, start, texts)
        for name, figure in figures(damaged, table).items():
            row |= layout.stats_columns(name, figure)
        tables.append(table.combine_chunks())
        rows.append(row)
        start += length
    place = layout.place(0)
    replace_file(target / layout.DATA_PATH.format(**place), lambda path: _write_groups(tables, path))
    index = layout.episodes_table(rows)
    replace_file(target / layout.EPISODES_PATH.format(**place), lambda path: pq.write_table(index, path))
    stats = {name: plain(figure) for name, figure in figures(damaged, pa.concat_tables(tables)).items()}
    stats = {**_picture_stats(damaged, episodes), **stats}
    _write_meta(damaged, target, texts, stats, (len(episodes), start))


def _write_meta(
    damaged: Damaged, target: Path, texts: Texts, stats: Mapping[str, Any], counts: tuple[int, int]
) -> None:
    """Words, statistics, our own file, and totals: (episodes, ticks)."""
    replace_json(target / layout.STATS, stats)
    for kind, known in texts.items():
        words = layout.tasks_table([known[index] for index in sorted(known)], kind)
        replace_file(
            target / f"meta/{kind}s.parquet",
            lambda path, words=words: pq.write_table(words, path),  # type: ignore[misc]
        )
    if (damaged.folder / layout.SIDECAR).is_file():
        shutil.copy(damaged.folder / layout.SIDECAR, target / layout.SIDECAR)
    told = {
        "total_episodes": counts[0],
        "total_frames": counts[1],
        "total_tasks": len(texts["task"]),
        "splits": {"train": f"0:{counts[0]}"},
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH,
    }
    replace_json(target / layout.INFO, {**damaged.info, **told})


def _copy_videos(
    damaged: Damaged, target: Path, episodes: Sequence[_Episode], cut: set[Path]
) -> dict[Path, int]:
    """Copy each video that is needed, of those that are cut only what is whole; returns their numbers."""
    needed: dict[Path, int] = {}
    for episode in episodes:
        for path, first in episode.videos.values():
            needed[path] = max(needed.get(path, 0), first + len(episode.rows))
    numbers: dict[Path, int] = {}
    for path, pictures in needed.items():
        numbers[path] = int(path.parent.name[6:]) * layout.FILES_PER_CHUNK + int(path.stem[5:])
        copy = target / path.relative_to(damaged.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path in cut:
            join([(path, pictures)], copy, damaged.rate)
        else:
            shutil.copy(path, copy)
    return numbers


def _picture_stats(damaged: Damaged, episodes: Sequence[_Episode]) -> dict[str, Any]:
    """Figures of pictures: as the recorder left them, or made anew."""
    colored = [f for f in damaged.features.values() if f.pictures and not f.depth and f.shape[2] == 3]
    try:
        told = load_json(damaged.folder / layout.STATS) if colored else {}
    except DataError:
        told = {}
    found: dict[str, Any] = {}
    for feature in colored:
        name = feature.name
        if isinstance(told, Mapping) and name in told:
            found[name] = told[name]
            continue
        damaged.report.recovered.append(f"{layout.STATS}: figures of {name!r}, made anew")
        found[name] = plain(merge([_picture_figures(damaged, episode, feature) for episode in episodes]))
    return found


def _picture_figures(damaged: Damaged, episode: _Episode, feature: Feature) -> Spread:
    if feature.dtype == "image":
        return still_figures(damaged.folder, episode.rows[feature.name], feature)
    path, first = episode.videos[feature.name]
    return video_figures(path, damaged.rate, len(episode.rows), first)


def _write_groups(tables: Sequence[pa.Table], path: Path) -> None:
    """One row group a table."""
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
