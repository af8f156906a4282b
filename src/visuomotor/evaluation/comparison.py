"""Several agents on the same scenes: the differences between them, each with its interval.

Every function here takes what evaluations left behind and computes nothing but statistics of it, so a
comparison can be made again, and made larger, without playing an episode twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from visuomotor.errors import DataError
from visuomotor.evaluation.probes import MAIN
from visuomotor.evaluation.runner import Evaluation
from visuomotor.evaluation.statistics import Difference, holm, paired_difference
from visuomotor.rollout import plain

__all__ = ["compare", "compare_all", "read_report", "summarize_arm"]

Played = Evaluation | Mapping[str, Any] | str | os.PathLike[str]
"""An evaluation, its report, or the folder or file that holds the report."""


def compare(first: Played, second: Played) -> Difference:
    """The success of two agents on the main episodes that both played: second minus first.

    Args:
        first: An evaluation, its report, its output folder or report.json.
        second: Likewise.

    Raises:
        ValueError: They share no seed, or the environments or reset options differ.
        DataError: No report.
    """
    worlds, outcomes = zip(*(_outcomes(one) for one in (first, second)), strict=True)
    if worlds[0] != worlds[1]:
        different = sorted(key for key in worlds[0] if worlds[0][key] != worlds[1][key])
        raise ValueError(
            f"these evaluations cannot be compared, for they differ in {', '.join(different)}. "
            "Evaluate both in the same environment with the same options."
        )
    common = sorted(set(outcomes[0]) & set(outcomes[1]))
    if not common:
        raise ValueError(
            "these evaluations share no seed. Evaluate both with the same seed_offset (--seed-offset)."
        )
    return paired_difference([outcomes[0][seed] for seed in common], [outcomes[1][seed] for seed in common])


def compare_all(evaluations: Mapping[str, Played]) -> list[dict[str, Any]]:
    """The difference of every pair, later minus earlier, as plain data.

    Intervals are those of each pair by itself. `p_holm` is the p-value adjusted to the number of pairs:
    calling those below 0.05 different errs anywhere with probability at most 0.05.

    Args:
        evaluations: Name to evaluation; two or more.

    Returns:
        For each pair `first`, `second`, what `Difference` has, and `p_holm`.
    """
    if len(evaluations) < 2:
        raise ValueError(f"expected two evaluations or more to compare, got {list(evaluations)}.")
    pairs = [
        {"first": first, "second": second, **compare(evaluations[first], evaluations[second]).to_json()}
        for first, second in combinations(evaluations, 2)
    ]
    for pair, adjusted in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair["p_holm"] = adjusted
    return pairs


def read_report(place: str | os.PathLike[str]) -> dict[str, Any]:
    """The report of an evaluation, from its folder or report.json.

    Raises:
        DataError: There is none, or it is something else.
    """
    path = Path(place)
    path = path / "report.json" if path.is_dir() else path
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        _outcomes(report)
        return report
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Pass the output folder of `visuomotor evaluate`.") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the report of an evaluation, got a problem with it: {error!r}."
        ) from error


def _outcomes(played: Played) -> tuple[dict[str, Any], dict[int, bool]]:
    """Environment with options, and seed to success of the main part."""
    if isinstance(played, Evaluation):
        setup = played.setup
        world = {"env": setup.env, "env_options": dict(setup.env_options), "options": dict(played.options)}
        return plain(world), {trial.episode.seed: trial.episode.success for trial in played.part(MAIN)}
    report = played if isinstance(played, Mapping) else read_report(played)
    world = {key: report[key] for key in ("env", "env_options", "options")}
    return world, {row["seed"]: row["success"] for row in report["episodes"] if row["part"] == MAIN}


def summarize_arm(
    report: Mapping[str, Any], untrained: Mapping[str, Any] | None, *, history: int, recipe: str | None
) -> dict[str, Any]:
    """What a comparison says of one arm, from the report of its evaluation.

    Args:
        report: Of the trained policy.
        untrained: Of the same policy with its first weights, if it was played.
        history: Ticks that it looks at.
        recipe: Where the arm comes from, in words.
    """
    training = report["training"] or {}
    curve = training.get("curve", [])
    executor, probes = report["executor"], report["probes"]
    rates = ("rate", "low", "high", "n", "successes")
    return {
        "family": report["policy"]["family"],
        "recipe": recipe,
        "text": report["policy"]["text"],
        "parameters": report["policy"]["parameters"],
        "success": report["success"],
        "failures": report["failures"],
        "tasks": {task: {key: one[key] for key in rates} for task, one in report["tasks"].items()},
        "probes": {
            name: {key: one[key] for key in (*rates, "title", "against_main", "chance") if key in one}
            for name, one in probes.items()
        },
        "untrained": None if untrained is None else untrained["success"],
        "against_untrained": None if untrained is None else compare(untrained, report).to_json(),
        "steps": training.get("steps"),
        "train_seconds": report["seconds"]["train"],
        "loss": _last(curve, "loss"),
        "validation": _last(curve, "validation"),
        "curve": [
            {key: line[key] for key in ("step", "loss", "validation") if key in line} for line in curve
        ],
        "inference_ms": report["inference_ms"],
        "executor": executor,
        "history": history,
        "weights_sha256": report["policy"].get("weights_sha256"),
        "machine": report["machine"],
    }


def _last(curve: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last value of a curve that has it."""
    return next((line[name] for line in reversed(curve) if name in line), None)
