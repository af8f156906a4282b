"""A study: demonstrations, a policy that learns from them, and its measured success, in one folder.

    recipe.json        what decides the study
    demonstrations/    LeRobot data set
    policy/            training run with its checkpoint
    evaluation/        episodes and videos
    report.html        for people, report.json the same for programs
    seconds.json       how long each part took, over all sittings
    cache/             decoded pictures and encoded sentences; may be deleted

Each part goes on where it was stopped, so the same call finishes a study whatever happened to it before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visuomotor.agent.config import to_plain
from visuomotor.evaluation.report import write_report
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.study.parts import (
    Tell,
    claim,
    collect_demonstrations,
    data_key,
    evaluate_recipe,
    silent,
    train_recipe,
    write_json,
)

__all__ = ["Study", "demo"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished study.

    Attributes:
        folder: Where everything is.
        report: Content of report.json.
        finished_before: It was finished already, and nothing was done.
    """

    folder: Path
    report: Mapping[str, Any]
    finished_before: bool

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.folder / "report.html"


def demo(
    out: str | os.PathLike[str] = "outputs/demo",
    *,
    recipe: str | Recipe = "demo",
    workers: int | None = None,
    tell: Tell | None = None,
    command: str = "",
) -> Study:
    """Collect demonstrations, train a policy on them, measure it in unseen scenes, and report.

    Args:
        out: Folder of the study: new, empty, or the same study, which goes on.
        recipe: Name of a recipe, or a recipe of one's own.
        workers: Processes that demonstrate and evaluate; one for each core if None.
        tell: Hears how far it is.
        command: What the report names as the command that repeats it.

    Raises:
        DataError: `out` holds something else or a study of another recipe; nothing is overwritten.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once the state is saved.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    folder = Path(out)
    _claim(folder, recipe)
    report, page = folder / "report.json", folder / "report.html"
    if report.is_file() and page.is_file():
        return Study(folder=folder, report=json.loads(report.read_text()), finished_before=True)
    tell = tell or silent
    clock, demonstrations = _Clock(folder / "seconds.json"), folder / "demonstrations"
    with clock.running("collect"):
        collected = collect_demonstrations(demonstrations, recipe.collect, workers=workers, tell=tell)
    with clock.running("train"):
        data = {data_key(recipe.collect.env, recipe.collect.task): demonstrations}
        trained = train_recipe(recipe, data, folder / "policy", cache=folder / "cache", tell=tell)
    with clock.running("evaluate"):
        evaluation = evaluate_recipe(
            recipe, folder / "policy", folder / "evaluation", workers=workers, tell=tell
        )
    seconds = {
        "collect": max(clock.seconds["collect"], collected.seconds),
        "train": max(clock.seconds["train"], trained.seconds),
        "evaluate": clock.seconds["evaluate"],
    }
    written = write_report(
        folder,
        evaluation,
        command=command,
        seed=recipe.training.seed,
        seconds={**seconds, "total": sum(seconds.values())},
    )
    return Study(folder=folder, report=written, finished_before=False)


def _claim(folder: Path, recipe: Recipe) -> None:
    """Make `folder` the study of `recipe`, or see that it is already."""
    claim(folder, "recipe.json", {"format": 1, "recipe": to_plain(recipe)}, what="recipe")


class _Clock:
    """Wall seconds of each part, over all sittings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Adds the time of the block to `part`, also if it is left by an error."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(part, 0.0) + time.perf_counter() - began
            self.seconds[part] = round(spent, 3)
            write_json(self.path, self.seconds)
