"""A page to look through a data set: videos of all cameras beside plots, unusual episodes first.

The page needs no network and no server: beside it lie, for each episode, a small script with its
numbers (browsers load scripts from disk, but do not let pages read other files), a strip of
thumbnails, and a video of each camera that every browser plays. They are loaded when they are shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from visuomotor import __version__
from visuomotor.data.check.base import Finding, Survey
from visuomotor.data.check.page import refuse_other_page
from visuomotor.data.check.run import CheckReport, check_survey, merge_reports
from visuomotor.data.check.scores import Score, score
from visuomotor.data.check.table import CHECKS
from visuomotor.data.files import replace_file
from visuomotor.data.reader import EpisodeEntry, LeRobotReader
from visuomotor.data.thumbnails import enlarge, jpeg, shrink
from visuomotor.data.video import ClipEncoder, VideoSettings
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Spec

__all__ = ["view"]

_SETTINGS = VideoSettings(gap=10, crf=18, preset="veryfast", pixels="yuv420p")
_LEAST = 240
"""Pixels of the shorter side of a video; enlarged by whole squares, halved colors do no harm."""
_THUMBS, _THUMB_HEIGHT = 24, 72
"""Thumbnails in a strip, and their height in pixels."""

Progress = Callable[[str, int, int], object]


def view(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    spec: Spec | None = None,
    keys: Mapping[str, str] | None = None,
    most: int = 50,
    episodes: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a page about the data set in `folder` and return its path.

    Which episodes are shown is decided by their numbers, so that videos of no others are decoded, and checks
    of pictures see these alone; `data check` looks at all. The page is written last: what was stopped leaves
    files beside it, but no page that lacks them.

    Args:
        folder: A LeRobot data set.
        out: A folder for index.html, or a file that ends with ".html"; the folder NAME_files beside it
            holds the rest.
        spec: Meaning of the numbers, for data sets that do not bring one.
        keys: Features that have other names than LeRobot's, as `LeRobotReader` takes them.
        most: How many episodes to show: half of them the most unusual, the others evenly from the rest.
        episodes: Numbers of the episodes to show instead.
        progress: Told how far it is.

    Raises:
        DataError: The data set cannot be read, or the page would replace one that is not ours.
        ValueError: An episode that does not exist.
    """
    page = Path(out) if Path(out).suffix == ".html" else Path(out) / "index.html"
    refuse_other_page(page, "data view")
    if most < 1:
        raise ValueError(f"expected at least one episode to show, got {most}.")
    survey = Survey(reader=LeRobotReader(Path(folder), spec, keys=keys, timed=False))
    _refuse_missing(survey, episodes or ())
    of_pictures = {one.name for one in CHECKS if one.scope == "pictures"}
    report = check_survey(survey, only=[one.name for one in CHECKS if one.name not in of_pictures])
    chosen = _choose(survey, score(survey, report), most, episodes)
    seen = check_survey(survey, only=of_pictures, shown=chosen, progress=progress)
    report = merge_reports(report, seen)
    scores = score(survey, report)
    chosen = _most_unusual_first(scores, chosen)
    beside = page.with_name(f"{page.stem}_files")
    beside.mkdir(parents=True, exist_ok=True)
    rows = []
    for done, place in enumerate(chosen):
        if progress is not None:
            progress("write episodes", done, len(chosen))
        rows.append(_write(survey, report, scores[place], place, beside))
    if progress is not None:
        progress("write episodes", len(chosen), len(chosen))
    html = _render(survey, report, rows, beside.name)
    _save(page, html.encode())
    return page


def _refuse_missing(survey: Survey, wanted: Sequence[int]) -> None:
    numbers = [entry.index for entry in survey.reader.episodes]
    for number in wanted:
        if number not in numbers:
            raise ValueError(f"no episode {number}; there are {len(numbers)}, from {min(numbers)}.")


def _most_unusual_first(scores: Sequence[Score], places: Iterable[int]) -> list[int]:
    return sorted(places, key=lambda place: -scores[place].total)


def _choose(survey: Survey, scores: list[Score], most: int, wanted: Sequence[int] | None) -> list[int]:
    """Places of the episodes to show, the most unusual first."""
    order = _most_unusual_first(scores, range(len(scores)))
    if wanted is not None:
        return [place for place in order if survey.reader.episodes[place].index in set(wanted)]
    if len(order) <= most:
        return order
    first = order[: -(-most // 2)]
    rest = order[len(first) :]
    if most > len(first):
        places = np.linspace(0, len(rest) - 1, most - len(first)).round().astype(int)
        first = first + [rest[place] for place in places]
    return first


def _write(survey: Survey, report: CheckReport, score: Score, place: int, beside: Path) -> dict[str, Any]:
    """Write the files of one episode; returns its line in the list."""
    reader, entry = survey.reader, survey.reader.episodes[place]
    name = f"{entry.index:06d}"
    videos: dict[str, str] = {}
    strip: dict[str, Any] | None = None
    for camera in reader.spec.cameras:
        try:
            thumbs = _film(reader, place, camera, beside / f"{name}-{camera.name}.mp4", strip is None)
        except DataError:
            continue  # it is a finding of its own, which the page shows
        videos[camera.name] = f"{name}-{camera.name}.mp4"
        if strip is None:
            image = jpeg(np.concatenate(thumbs, axis=1))
            _save(beside / f"{name}.jpg", image)
            strip = {"file": f"{name}.jpg", "count": len(thumbs), "aspect": camera.width / camera.height}
    rows = slice(entry.start, entry.start + entry.length)
    content = {
        "state": _columns(reader.state[rows]),
        "action": _columns(reader.actions[rows]),
        "words": _stretches(reader.tasks, reader.task_index[rows]),
        "subtasks": []
        if reader.subtask_index is None
        else _stretches(reader.subtasks, reader.subtask_index[rows]),
        "videos": videos,
    }
    script = f"showEpisode({entry.index}, {_plain(content)});\n"
    _save(beside / f"{name}.js", script.encode())
    return {
        "index": entry.index,
        "file": f"{name}.js",
        "length": entry.length,
        "seed": entry.seed,
        "words": entry.instructions[0] if entry.instructions else "",
        "strip": strip,
        "score": asdict(score),
        "findings": [_mark(one) for one in report.findings if one.episode == entry.index],
    }


def _film(reader: LeRobotReader, place: int, camera: Camera, path: Path, thumbs: bool) -> list[np.ndarray]:
    """Write the video of one camera; returns thumbnails from all of its length, if wanted."""
    length = reader.episodes[place].length
    kept = set(np.linspace(0, length - 1, min(_THUMBS, length)).round().astype(int).tolist())
    encoder: ClipEncoder | None = None
    found = []
    for tick, picture in enumerate(reader.frames(place, camera.name)):
        large = enlarge(picture, _LEAST)
        large = np.pad(large, ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)), mode="edge")
        if encoder is None:
            size = Camera(name=camera.name, height=large.shape[0], width=large.shape[1])
            encoder = ClipEncoder(size, reader.rate, _SETTINGS)
        encoder.add(large)
        if thumbs and tick in kept:
            found.append(shrink(picture, _THUMB_HEIGHT))
    assert encoder is not None  # an episode has at least one tick
    _save(path, encoder.finish().data)
    return found


def _save(path: Path, content: bytes) -> None:
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def _columns(values: np.ndarray) -> list[list[float]]:
    """Each dimension of `values` (tick, dimension) as a list, five digits."""
    return [[float(f"{value:.5g}") for value in column] for column in values.T.tolist()]


def _stretches(texts: Sequence[str], index: np.ndarray) -> list[list[Any]]:
    """First tick and text of each stretch of ticks with the same text."""
    tick, found = 0, list[list[Any]]()
    for number, group in groupby(index.tolist()):
        found.append([tick, texts[number]])
        tick += len(list(group))
    return found


def _mark(finding: Finding) -> dict[str, Any]:
    """What the page shows of a finding."""
    return {
        "check": finding.check,
        "severity": finding.severity,
        "ticks": finding.ticks,
        "dimension": finding.dimension,
        "camera": finding.camera,
        "said": finding.said,
        "advice": finding.advice,
    }


def _dimensions(dimensions: Sequence[Dimension], values: np.ndarray) -> Iterator[dict[str, Any]]:
    """Name, unit and range in the whole data set, so that plots of episodes can be compared."""
    for number, dimension in enumerate(dimensions):
        column = values[:, number]
        yield {
            "name": dimension.name,
            "unit": "" if dimension.unit == "1" else dimension.unit,
            "low": float(column.min()),
            "high": float(column.max()),
        }


def _plain(content: Any) -> str:
    """JSON that may stand in a script of a page."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _render(survey: Survey, report: CheckReport, rows: list[dict[str, Any]], beside: str) -> str:
    reader = survey.reader
    static = files("visuomotor.data").joinpath("static")
    entries: tuple[EpisodeEntry, ...] = reader.episodes
    content = {
        "name": reader.folder.resolve().name,
        "body": reader.spec.embodiment,
        "rate": reader.rate,
        "files": beside,
        "total": len(entries),
        "ticks": len(reader),
        "state": list(_dimensions(reader.spec.state, reader.state)),
        "action": list(_dimensions(reader.spec.action, reader.actions)),
        "cameras": [asdict(camera) for camera in reader.spec.cameras],
        "findings": [_mark(one) for one in report.findings if one.episode is None],
        "episodes": rows,
    }
    return Template(static.joinpath("view.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{content['name']} · visuomotor"),
        version=escape(__version__),
        style=files("visuomotor").joinpath("static/page.css").read_text(encoding="utf-8")
        + static.joinpath("view.css").read_text(encoding="utf-8"),
        data=_plain(content),
        script=static.joinpath("view.js").read_text(encoding="utf-8"),
    )
