"""One JSON file of results for the machines that read it: a policy a name, merged arm by arm.

{"policies": {"act": {"success": 0.83, "success_interval": [0.75, 0.89], "n": 100, "swap": ..., ...}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.errors import DataError

__all__ = ["family_entry", "merge_families"]


def family_entry(
    arm: Mapping[str, Any], *, task: str, seed: int, batch_size: int, command: str
) -> dict[str, Any]:
    """The line of one arm: each number beside its n and its interval, and what repeats it.

    Args:
        arm: What `summarize_arm` gives.
        task: Name of the task.
        seed: Of demonstrations, first weights and training noise.
        batch_size: Samples a step.
        command: The command line.
    """
    inference = arm["inference_ms"]
    return {
        "family": arm["family"],
        "success": arm["success"]["rate"],
        "success_interval": _interval(arm["success"]),
        "n": arm["success"]["n"],
        **_probe(arm, "swap"),
        **_probe(arm, "phrasing"),
        "against_untrained": _against(arm["against_untrained"]),
        "parameters": arm["parameters"],
        "train_seconds": arm["train_seconds"],
        "steps": arm["steps"],
        "batch_size": batch_size,
        "inference_ms": inference["median"],
        "inference_ms_interval": _interval(inference),
        "inference_n": inference["n"],
        "task": task,
        "seed": seed,
        "command": command,
    }


def _interval(result: Mapping[str, Any]) -> list[float]:
    return [result["low"], result["high"]]


def _probe(arm: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Rate, interval and n of a probe; null where it was not played."""
    result = arm["probes"].get(name)
    if result is None:
        return {name: None, f"{name}_interval": None, f"{name}_n": 0}
    return {name: result["rate"], f"{name}_interval": _interval(result), f"{name}_n": result["n"]}


def _against(difference: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {key: difference[key] for key in ("difference", "low", "high", "p_value", "n")}


def merge_families(
    path: Path, entries: Mapping[str, Mapping[str, Any]], *, section: str = "policies"
) -> None:
    """Put `entries` into one section of a JSON file and leave everything else in it as it is.

    Args:
        path: Made if it is not there.
        entries: Name to entry; an entry of the same name is replaced.
        section: Top-level key.

    Raises:
        DataError: The file holds something else; nothing is overwritten.
    """
    known: Any = {}
    if path.is_file():
        try:
            known = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: expected results as JSON, got a problem with it: {error}.") from error
    if not isinstance(known, dict) or not isinstance(known.get(section, {}), dict):
        raise DataError(f"{path}: expected an object with {section!r} as an object. Nothing was overwritten.")
    merged = {**known, section: {**known.get(section, {}), **entries}}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(merged, indent=1, allow_nan=False) + "\n")
    draft.replace(path)
