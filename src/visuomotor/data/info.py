"""What is in a data set, in plain values and in words for a person."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data import layout
from visuomotor.data.reader import LeRobotReader
from visuomotor.types import Dimension, Spec

__all__ = ["describe", "summary"]

_EXAMPLES = 3
_BINS = 8
_BAR = 30
"""Letters of the longest bar."""


def describe(
    folder: str | os.PathLike[str], spec: Spec | None = None, *, keys: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Name to plain value of everything worth knowing about the data set in `folder`.

    Args:
        folder: A LeRobot data set.
        spec: Meaning of its numbers, for a data set that does not bring one.
        keys: Features that have other names than LeRobot's, as `LeRobotReader` takes them.

    Raises:
        DataError: It is damaged, foreign, or of another spec.
    """
    reader = LeRobotReader(Path(folder), spec, keys=keys)
    meta, body = reader.meta, reader.spec
    lengths = [episode.length for episode in reader.episodes]
    wordings = list(reader.tasks)
    seeds = sorted(reader.seeds)
    sizes = _sizes(reader.folder)
    return {
        "folder": str(reader.folder),
        "hash": reader.hash,
        "environment": meta.get("env"),
        "task": meta.get("task"),
        "embodiment": body.embodiment,
        "control": meta.get("control"),
        "episodes": len(lengths),
        "dropped": meta.get("dropped"),
        "ticks": len(reader),
        "minutes": round(len(reader) / reader.rate / 60, 2),
        "ticks_per_episode": [min(lengths), max(lengths)] if lengths else [],
        "lengths": _histogram(lengths),
        "rate": reader.rate,
        "cameras": [f"{camera.name} {camera.height}x{camera.width}" for camera in body.cameras],
        "video": _video(reader),
        "state": [dimension.name for dimension in body.state],
        "actions": [dimension.name for dimension in body.action],
        "features": {
            "state": _features(reader.state, body.state),
            "action": _features(reader.actions, body.action),
        },
        "executed": reader.executed is not None,
        "wordings": len(wordings),
        "examples": wordings[:_EXAMPLES],
        "instructions": _counts(reader.tasks, reader.task_index),
        "subtasks": {} if reader.subtask_index is None else _counts(reader.subtasks, reader.subtask_index),
        "seeds": [seeds[0], seeds[-1]] if seeds else [],
        "megabytes": round(sum(sizes.values()), 1),
        "megabytes_of": {name: round(size, 1) for name, size in sizes.items()},
    }


def _sizes(folder: Path) -> dict[str, float]:
    """Size on disk in megabytes of videos, tables and what describes them."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).parts[0]] += path.stat().st_size
    return {name: found[name] / 1e6 for name in ("videos", "data", "meta") if name in found}


def _histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """How many episodes have a length in each of a few ranges: `from`, `to` (ticks), `episodes`."""
    low, high = min(lengths), max(lengths)
    edges = np.unique(np.linspace(low, high + 1, min(_BINS, high + 1 - low) + 1).round().astype(int))
    counts, _ = np.histogram(lengths, edges)
    return [
        {"from": int(a), "to": int(b) - 1, "episodes": int(n)} for a, b, n in zip(edges, edges[1:], counts)
    ]


def _video(reader: LeRobotReader) -> dict[str, str]:
    """Camera to codec and pixel format, as meta/info.json tells."""
    told = json.loads((reader.folder / layout.INFO).read_text(encoding="utf-8"))["features"]
    found = {}
    for camera in reader.spec.cameras:
        entry = told[reader.keys[camera.name]]
        info = entry.get("info") or entry.get("video_info") or {}
        known = [info.get(f"video.{key}") for key in ("codec", "pix_fmt")]
        found[camera.name] = " ".join(str(value) for value in known if value) or "not told"
    return found


def _features(values: np.ndarray, dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Name, unit, kind and range of each number."""
    low, mean, high = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
    return [
        {
            "name": dimension.name,
            "unit": dimension.unit,
            "kind": dimension.kind,
            "min": round(float(low[n]), 6),
            "mean": round(float(mean[n]), 6),
            "max": round(float(high[n]), 6),
        }
        for n, dimension in enumerate(dimensions)
    ]


def _counts(texts: Sequence[str], index: np.ndarray) -> dict[str, int]:
    """Text to the ticks that have it, the most frequent first."""
    counts = np.bincount(index, minlength=len(texts))
    return {texts[n]: int(counts[n]) for n in np.argsort(-counts, kind="stable")}


def summary(report: Mapping[str, Any]) -> str:
    """What `describe` gives, as a page of text."""
    dropped = f", {report['dropped']} failed ones dropped" if report["dropped"] else ""
    what = [str(report[key]) for key in ("environment", "task", "control") if report[key]]
    lengths, sizes = report["ticks_per_episode"], report["megabytes_of"]
    size = ", ".join(f"{name} {megabytes:g}" for name, megabytes in sizes.items())
    cameras = [f"{camera} ({report['video'][camera.split()[0]]})" for camera in report["cameras"]]
    facts = {
        "folder": report["folder"],
        "content": report["hash"][:12],
        "embodiment": report["embodiment"] + (f", {' '.join(what)}" if what else ""),
        "episodes": f"{report['episodes']:,}{dropped}",
        "ticks": f"{report['ticks']:,}, {lengths[0]} to {lengths[1]} an episode",
        "time": f"{report['minutes']:g} min at {report['rate']:g} Hz",
        "cameras": ", ".join(cameras) or "none",
        "seeds": f"{report['seeds'][0]} to {report['seeds'][1]}" if report["seeds"] else "none",
        "on disk": f"{report['megabytes']:g} MB ({size})",
    }
    lines = [f"{name:12}{value}" for name, value in facts.items()]
    lines += ["", "episode length (ticks)", *_bars(report["lengths"])]
    for name, features in report["features"].items():
        also = " (and what was executed)" if name == "action" and report["executed"] else ""
        lines += ["", f"{name}{also}", *_columns(features)]
    for title in ("instructions", "subtasks"):
        if report[title]:
            lines += ["", *_most(title, report[title], report["ticks"])]
    return "\n".join(lines)


def _bars(histogram: Sequence[Mapping[str, int]]) -> list[str]:
    most = max(entry["episodes"] for entry in histogram)
    wide = len(str(histogram[-1]["to"]))
    return [
        f"  {entry['from']:>{wide}} to {entry['to']:>{wide}}  "
        f"{'#' * -(-_BAR * entry['episodes'] // most):{_BAR}}  {entry['episodes']}"
        for entry in histogram
    ]


def _columns(features: Sequence[Mapping[str, Any]]) -> list[str]:
    wide = max(len(entry["name"]) for entry in features)
    lines = []
    for entry in features:
        unit = "" if entry["unit"] == "1" else entry["unit"]
        span = f"{entry['min']:>9.4g} to {entry['max']:<9.4g} {unit}"
        lines.append(f"  {entry['name']:{wide}}  {entry['kind']:14}  {span}".rstrip())
    return lines


def _most(title: str, counts: Mapping[str, int], ticks: int, shown: int = 8) -> list[str]:
    """The most frequent texts with their share of the ticks."""
    lines = [f"{title}: {len(counts):,} wording{'s' * (len(counts) != 1)}"]
    lines += [f"  {100 * count / ticks:5.1f} %  {text}" for text, count in list(counts.items())[:shown]]
    return [*lines, f"  and {len(counts) - shown:,} more"] if len(counts) > shown else lines
