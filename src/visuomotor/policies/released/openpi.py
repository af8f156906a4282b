"""Statistics that belong to the released weights of pi0, pi0-FAST and pi0.5.

A checkpoint of openpi has a file for each robot: `assets/ROBOT/norm_stats.json`, with mean, standard
deviation and the quantiles of 1 % and 99 % of states, and of actions as the network learns them: of
relative ones, where it learned those. Without the right file a released policy answers nonsense, in the
right shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.policies.base import Policy
from visuomotor.transforms.relative import RELATIVE
from visuomotor.types import Dimension, Stats, Summary

__all__ = ["released_stats"]

FILE = "norm_stats.json"
FIGURES = ("mean", "std", "q01", "q99")
ZERO = 1e-6
"""What is nearer to 0 is padding: released quantiles come from histograms whose ends are a bit wider."""


def released_stats(assets: str | os.PathLike[str], robot: str, policy: Policy, key: str) -> Stats:
    """Statistics of a released checkpoint, for `policy.transforms(key, ...)` and `save_agent`.

    What such files do not tell, smallest and largest, is NaN. Released code cuts statistics to the numbers
    of the robot; here they must be padding that is cut away, and nothing else.

    Args:
        assets: The folder `assets` of the checkpoint.
        robot: Folder in it, such as "droid" or "physical-intelligence/libero".
        policy: Says how wide states and actions are, and whether joints are relative.
        key: Which of its bodies.

    Raises:
        CheckpointError: A file, a key or a number is missing, unknown, or does not fit the body.
        ValueError: Unknown robot or key, with the closest name.
    """
    spec, folder = policy.check_key(key), Path(assets)
    file = folder / robot / FILE
    if not file.is_file():
        known = [path.parent.relative_to(folder).as_posix() for path in sorted(folder.rglob(FILE))]
        if not known:
            raise CheckpointError(
                f"{folder}: no ROBOT/{FILE} in it. Expected the folder `assets` of a checkpoint of openpi."
            )
        raise unknown_name("robot with released statistics", robot, known)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected JSON, got a problem with it: {error}.") from error
    found = _keys(told, ("norm_stats",), str(file))["norm_stats"]
    found = _keys(found, ("state", "actions"), f"{file}: norm_stats")
    action = "action" if policy.relative(key) is None else RELATIVE
    features = {
        "state": _summary(found["state"], spec.state, f"{file}: state"),
        action: _summary(found["actions"], spec.action, f"{file}: actions"),
    }
    return Stats(source=f"openpi/{robot}", features=features)


def _keys(told: Any, expected: Sequence[str], where: str, optional: Iterable[str] = ()) -> Mapping[str, Any]:
    """`told`, if it is an object with exactly these keys; those in `optional` may be missing."""
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{where}: expected an object with {', '.join(expected)}, got {told!r:.60}.")
    missing = [name for name in expected if name not in told and name not in optional]
    unknown = [str(name) for name in told if name not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"{where}: expected {', '.join(expected)}; missing: {', '.join(missing) or 'none'}, "
            f"unknown: {', '.join(unknown) or 'none'}. Is it a file that openpi wrote?"
        )
    return told


def _summary(told: Any, dimensions: Sequence[Dimension], where: str) -> Summary:
    """Statistics of the numbers of a body; z-scores need no quantiles, and without them they are NaN."""
    told = _keys(told, FIGURES, where, optional=("q01", "q99"))
    figures = {}
    for name in FIGURES:
        if told.get(name) is None and name in ("q01", "q99"):
            continue
        try:
            row = np.asarray(told[name], np.float64)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {name}: expected numbers, got {told[name]!r:.60}.") from error
        if row.ndim != 1 or not np.isfinite(row).all():
            raise CheckpointError(
                f"{where}: {name}: expected a row of finite numbers, got {told[name]!r:.60}."
            )
        figures[name] = row
    widths = {name: len(row) for name, row in figures.items()}
    if len(set(widths.values())) > 1:
        raise CheckpointError(f"{where}: expected rows of one length, got {widths}.")
    unknown = np.full(widths["mean"], np.nan)
    low, high = (figures.get(name, unknown) for name in ("q01", "q99"))
    if (figures["std"] < 0).any() or (low > high).any():
        raise CheckpointError(f"{where}: expected std of at least 0, and q01 below q99. The file is damaged.")
    names = [dimension.name for dimension in dimensions]
    if widths["mean"] < len(names):
        raise CheckpointError(
            f"{where}: {widths['mean']} numbers, the body has {len(names)}: none for "
            f"{', '.join(names[widths['mean'] :])}. Choose the robot's own statistics, or a spec with the "
            "numbers that the policy was trained with, in their order."
        )
    mean, std = (figures[name][len(names) :] for name in ("mean", "std"))
    used = (np.abs(mean) > ZERO) | ((std > ZERO) & (std != 1))
    if used.any():
        raise CheckpointError(
            f"{where}: {widths['mean']} numbers, the body has {len(names)} ({', '.join(names)}), and number "
            f"{len(names) + int(used.argmax())} is no padding. Choose the robot's own statistics, or a spec "
            "with all numbers that the policy was trained with."
        )
    cut = {name: row[: len(names)] for name, row in figures.items()}
    nothing = unknown[: len(names)]
    return Summary(**{"q01": nothing, "q99": nothing, **cut}, min=nothing, max=nothing, count=0)
