"""What a comparison found so far, read from its folder; nothing is trained or played here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.evaluation.comparison import compare_all, read_report, summarize_arm
from visuomotor.evaluation.probes import MAIN
from visuomotor.evaluation.setup import BASELINES
from visuomotor.study.arms import budget_of, unequal_budgets

__all__ = ["ARM", "COMMON", "budgets_of", "gather", "is_reported", "known_arms", "reason_of"]

COMMON = "comparison.json"
"""In the folder of a comparison: what all arms have in common."""
ARM = "arm.json"
"""In the folder of an arm: what decides it."""


def is_reported(place: Path) -> bool:
    """Whether an evaluation was finished in `place`."""
    return (place / "report.json").is_file() and (place / "report.html").is_file()


def known_arms(folder: Path) -> dict[str, dict[str, Any]]:
    """Name to arm.json of every arm that is there, finished or not, in the order in which they came."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"arms/*/{ARM}"))}
    return dict(sorted(found.items(), key=lambda item: item[1]["place"]))


def budgets_of(known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arm to its budget, from `known_arms`."""
    return {name: budget_of(one["arm"], one["history"]) for name, one in known.items()}


def reason_of(folder: Path) -> str:
    """Why the budgets of a comparison may differ; empty if nobody said, or if there is none yet."""
    path = folder / COMMON
    return str(json.loads(path.read_text())["unequal"]) if path.is_file() else ""


def gather(
    folder: Path, *, data: Mapping[str, Any], diverged: Mapping[str, str], command: str, films: int
) -> dict[str, Any]:
    """Content of the comparison's report.json.

    Args:
        folder: Of the comparison.
        data: What is said of the data set.
        diverged: Arm to how its training failed.
        command: The command line.
        films: First scenes whose films are shown.
    """
    known = known_arms(folder)
    places = {name: folder / "arms" / name for name in known}
    places = {name: place for name, place in places.items() if is_reported(place)}
    reports = {name: read_report(place) for name, place in places.items()}
    others = {name: folder / "references" / name for name in BASELINES}
    others = {name: place for name, place in others.items() if is_reported(place)}
    references = {name: read_report(place) for name, place in others.items()}
    budgets = budgets_of(known)
    world = next(iter([*reports.values(), *references.values()]), {})
    shown = ("task", "env", "env_options", "seeds", "versions", "machine")
    return {
        "arms": {name: _arm(places[name], known[name], report) for name, report in reports.items()},
        "references": {name: {"success": report["success"]} for name, report in references.items()},
        "differences": compare_all(reports) if len(reports) > 1 else [],
        "waiting": [name for name in known if name not in reports and name not in diverged],
        "diverged": dict(diverged),
        "budget": {
            key: value
            for key, value in next(iter(budgets.values())).items()
            if all(one[key] == value for one in budgets.values())
        },
        "unequal": {"differences": unequal_budgets(budgets), "reason": reason_of(folder)},
        "data": dict(data),
        "films": _films(folder, {**places, **others}, {**reports, **references}, films),
        "command": command,
        **{key: world.get(key) for key in shown},
    }


def _arm(place: Path, about: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """One arm, with the same policy before it learned anything."""
    fresh = place / "untrained"
    untrained = read_report(fresh) if is_reported(fresh) else None
    found = summarize_arm(report, untrained, history=len(about["history"]), recipe=about["source"])
    page = f"{place.parent.name}/{place.name}/report.html"
    return {**found, "batch_size": about["arm"]["training"]["batch_size"], "page": page}


def _films(
    folder: Path, places: Mapping[str, Path], reports: Mapping[str, Mapping[str, Any]], count: int
) -> list[dict[str, Any]]:
    """Films of the first main scenes, scene by scene, with who plays in them."""
    found = []
    for name, report in reports.items():
        for row in report["episodes"]:
            if row["part"] == MAIN and row["index"] < count and row["video"]:
                file = (places[name] / "evaluation" / row["video"]).relative_to(folder)
                kept = ("index", "seed", "instruction", "success", "failure", "ticks", "seconds")
                found.append({"arm": name, "file": file.as_posix(), **{key: row[key] for key in kept}})
    return sorted(found, key=lambda film: film["index"])
