"""The folder of an invented comparison, as if arms had been trained and played. Nothing here was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fabricated import invent

from visuomotor.evaluation.report import write_report
from visuomotor.evaluation.runner import Evaluation
from visuomotor.evaluation.videos import choose
from visuomotor.recipes import get_recipe
from visuomotor.study.arms import Arm, exam_of
from visuomotor.study.gathering import ARM, COMMON
from visuomotor.study.parts import write_json

RATES = {"compact": 0.93, "bc-mse": 0.41, "bc-mixture": 0.8, "act": 0.88}


def played(evaluation: Evaluation, rate: float, seed: int) -> Evaluation:
    """The same evaluation with other outcomes, alike for neighbors in `rate`."""
    draws = np.random.default_rng(0).random(1000) * 0.8 + np.random.default_rng(seed).random(1000) * 0.2
    trials = []
    for number, trial in enumerate(evaluation.trials):
        good = bool(draws[number] < rate)
        episode = replace(trial.episode, success=good, failure=None if good else "wrong object")
        trials.append(replace(trial, episode=episode))
    return replace(evaluation, trials=tuple(trials))


def invent_comparison(folder: Path, rates: dict[str, float] | None = None, *, films: bool = False) -> Path:
    """A comparison of arms with about the given success."""
    recipe = get_recipe("demo")
    common = {"format": 1, "data": {"hash": "ab"}, "exam": exam_of(Arm(name="demo", recipe=recipe))}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / COMMON, {**common, "unequal": ""})
    for number, (name, rate) in enumerate((rates or RATES).items()):
        place = folder / "arms" / name
        arm = Arm(name=name, recipe=recipe, source=f"demo-{name}")
        told: dict[str, Any] = {"format": 1, "arm": arm.to_json(), "history": [0], "place": number}
        place.mkdir(parents=True)
        write_json(place / ARM, {**told, "source": arm.source})
        evaluation = played(invent(place / "evaluation" if films else None), rate, number)
        if films:
            videos = {(video.part, video.index): video for video in evaluation.videos}
            first = choose(evaluation.trials, 0, first=2)
            kept = [
                replace(next(iter(videos.values())), part=trial.part, index=trial.index) for trial in first
            ]
            evaluation = replace(evaluation, videos=tuple(kept))
        assert evaluation.origin is not None
        curve = tuple(
            {**line, "loss": line["loss"] * (number + 1) ** 2 - number} for line in evaluation.origin.curve
        )
        origin = replace(evaluation.origin, family=name, curve=curve)
        write_report(place, replace(evaluation, origin=origin))
        write_report(place / "untrained", played(invent(), 0.04, number))
    for name, rate in {"expert": 1.0, "random": 0.0}.items():
        write_report(folder / "references" / name, played(invent(trained=False), rate, 9))
    return folder
