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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visuomotor.agent.config import differences, to_plain
from visuomotor.errors import DataError
from visuomotor.evaluation import runner
from visuomotor.evaluation.report import write_report
from visuomotor.experts.collect import CollectReport, collect
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.training.loop import Progress as TrainProgress
from visuomotor.training.loop import TrainReport
from visuomotor.training.run import train_from_folder

__all__ = ["Study", "Tell", "demo", "evaluation_progress", "training_progress"]

Tell = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is done, how much there is, and a note ("" if none)."""


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
    tell = tell or (lambda *_: None)
    clock = _Clock(folder / "seconds.json")
    with clock.running("collect"):
        collected = _collect(folder, recipe, workers, tell)
    with clock.running("train"):
        trained = _train(folder, recipe, tell)
    with clock.running("evaluate"):
        evaluation = _evaluate(folder, recipe, workers, tell)
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
    """Make `folder` the study of `recipe`, or see that it is already.

    Raises:
        DataError: It holds something else.
    """
    mine = {"format": 1, "recipe": to_plain(recipe)}
    path = folder / "recipe.json"
    if path.is_file():
        try:
            there = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: expected the recipe of a study, got no JSON ({error}).") from error
        changed = differences(there, mine)
        if changed:
            raise DataError(
                f"{folder} holds a study of another recipe: {'; '.join(changed)}. Nothing was overwritten; "
                "give the same options to go on with it, or choose another folder (--out)."
            )
        return
    strangers = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if strangers or (folder.exists() and not folder.is_dir()):
        found = ", ".join(strangers[:3]) or "a file"
        raise DataError(
            f"{folder}: expected a new or empty folder or that of a study, found {found}. "
            "Nothing was overwritten; choose another folder (--out)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, mine)


def _write(path: Path, data: Any) -> None:
    """JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    os.replace(part, path)


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
            _write(self.path, self.seconds)


def _collect(folder: Path, recipe: Recipe, workers: int | None, tell: Tell) -> CollectReport:
    config = recipe.collect
    return collect(
        folder / "demonstrations",
        env=config.env,
        task=config.task,
        episodes=config.episodes,
        seed=config.seed,
        phrasings=config.phrasings,
        noise=config.noise,
        control=config.control,
        env_options=config.env_options,
        options=config.options,
        workers=workers,
        progress=lambda kept, episodes: tell("collect demonstrations", kept, episodes, ""),
    )


def training_progress(tell: Tell) -> Callable[[TrainProgress], None]:
    """What `train` calls after every step, in the words of `tell`."""

    def step(progress: TrainProgress) -> None:
        note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        tell("train the policy", progress.step, progress.steps, note)

    return step


def evaluation_progress(tell: Tell) -> Callable[[runner.Progress], None]:
    """What `evaluate` calls after every episode, in the words of `tell`."""
    stages = {"episodes": "play unseen scenes", "timing": "time the policy", "videos": "film"}

    def play(progress: runner.Progress) -> None:
        counts = progress.stage == "episodes" and progress.played > 0
        note = f"{progress.successes} of {progress.played} succeeded" if counts else ""
        tell(stages[progress.stage], progress.done, progress.total, note)

    return play


def _train(folder: Path, recipe: Recipe, tell: Tell) -> TrainReport:
    return train_from_folder(
        {f"{recipe.collect.env}_{recipe.collect.task}": folder / "demonstrations"},
        out=folder / "policy",
        policy=recipe.family,
        policy_config=recipe.policy,
        config=recipe.training,
        cache=folder / "cache",
        progress=training_progress(tell),
        preparing=lambda what, done, total: tell(what, done, total, ""),
    )


def _evaluate(folder: Path, recipe: Recipe, workers: int | None, tell: Tell) -> runner.Evaluation:
    config = recipe.evaluation
    try:
        return runner.evaluate(
            folder / "policy",
            episodes=config.episodes,
            probes=config.probes,
            probe_episodes=config.probe_episodes,
            seed_offset=config.seed_offset,
            executor=config.executor,
            execute=config.execute,
            latency=config.latency,
            videos=config.videos,
            workers=workers,
            out=folder / "evaluation",
            progress=evaluation_progress(tell),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped while evaluating; finished episodes are saved in {folder / 'evaluation'}."
        ) from None
