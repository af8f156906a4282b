"""Recovers what an interrupted LeRobot recording left: damaged tables, cut videos, lost and lagging indexes.

A recorder that was killed leaves tables without footers, lists that end in the middle of a line, totals
that lag, videos that were never made of their pictures. Nothing is guessed: an episode is kept if all its
rows and all its pictures are there, and what is not kept is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.data import layout
from visuomotor.data.features import parse_features
from visuomotor.data.folder import load_info, load_sidecar
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.repair.parts import Damaged, RepairReport
from visuomotor.data.repair.version2 import repair_version2
from visuomotor.data.repair.version3 import repair_version3
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["repair"]


def repair(folder: str | Path, out: str | Path | None = None, *, in_place: bool = False) -> RepairReport:
    """Make a readable data set of what an interrupted recording left.

    Args:
        folder: A LeRobot data set of any version that cannot be read, or not to its end. It is not touched.
        out: Where the repaired one is written, in the same version; missing or empty.
        in_place: Put the repaired one in the place of `folder`, which is renamed to `<folder>.broken`.

    Returns:
        What was recovered and what is lost.

    Raises:
        DataError: Nothing can be recovered, meta/info.json is lost, or `out` holds something.
        ValueError: Neither or both of `out` and `in_place`.
    """
    source = Path(folder)
    if (out is None) != in_place:
        raise ValueError("repair: expected either a folder for the result (out) or in_place.")
    target = source.with_name(f"{source.name}.repaired") if out is None else Path(out)
    if target.resolve().is_relative_to(source.resolve()) or (target.exists() and any(target.iterdir())):
        raise DataError(f"{target}: holds something, or lies within the data set. Choose another folder.")
    broken = source.with_name(f"{source.name}.broken")
    if in_place and broken.exists():
        raise DataError(f"{broken}: is there already. Move it away, or choose a folder for the result.")
    report = RepairReport(folder=str(target), before=str(source))
    info = load_info(source)
    load_sidecar(source)
    damaged = Damaged(
        folder=source, info=info, features=parse_features(source / layout.INFO, info), report=report
    )
    by_version = repair_version3 if info["codebase_version"] == layout.VERSION else repair_version2
    by_version(damaged, target)
    if not (target / layout.INFO).exists():
        raise DataError(f"{source}: no episode could be recovered. {' '.join(report.lost)}")
    reader = LeRobotReader(target, _bare(info) if not (target / layout.SIDECAR).exists() else None)
    report.episodes, report.ticks = len(reader.episodes), len(reader)
    if in_place:
        source.rename(broken)
        target.rename(source)
        report.folder, report.before = str(source), str(broken)
    return report


def _bare(info: Mapping[str, Any]) -> Spec:
    """A spec that asks for nothing, to check the tables of a foreign data set."""
    return Spec(embodiment="any", cameras=(), state=(), action=(), rate=float(info["fps"]))
