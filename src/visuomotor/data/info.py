"""What is in a data set, in a few plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from visuomotor.data.reader import LeRobotReader
from visuomotor.types import Spec

__all__ = ["describe"]

_EXAMPLES = 3


def describe(folder: str | os.PathLike[str], spec: Spec | None = None) -> dict[str, Any]:
    """Name to plain value of everything worth knowing about the data set in `folder`.

    Args:
        folder: A LeRobot v3.0 data set.
        spec: Meaning of its numbers, for a data set that does not bring one.

    Raises:
        DataError: It is damaged, foreign, or of another spec.
    """
    reader = LeRobotReader(Path(folder), spec)
    meta, body = reader.meta, reader.spec
    lengths = [episode.length for episode in reader.episodes]
    wordings = list(reader.tasks)
    seeds = sorted(reader.seeds)
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
        "ticks_per_episode": [min(lengths), max(lengths)] if lengths else [],
        "rate": reader.rate,
        "cameras": [f"{camera.name} {camera.height}x{camera.width}" for camera in body.cameras],
        "state": [dimension.name for dimension in body.state],
        "actions": [dimension.name for dimension in body.action],
        "wordings": len(wordings),
        "examples": wordings[:_EXAMPLES],
        "seeds": [seeds[0], seeds[-1]] if seeds else [],
        "megabytes": round(sum(f.stat().st_size for f in reader.folder.rglob("*") if f.is_file()) / 1e6, 1),
    }
