"""The parts of a study, each of which goes on where it was stopped: collect, train, evaluate.

What hears how far they are is a `Tell`; the name of whoever works, such as that of an arm, stands before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from visuomotor.agent.config import differences
from visuomotor.errors import DataError
from visuomotor.evaluation import runner
from visuomotor.experts.collect import CollectReport, collect
from visuomotor.recipes import CollectConfig, Recipe
from visuomotor.training.loop import Progress as TrainProgress
from visuomotor.training.loop import TrainReport
from visuomotor.training.run import train_from_folder

__all__ = [
    "Tell",
    "claim",
    "collect_demonstrations",
    "data_key",
    "evaluate_recipe",
    "evaluation_progress",
    "named",
    "silent",
    "train_recipe",
    "training_progress",
    "write_json",
]

Tell = Callable[[str, int, int, str], None]
"""Called with what is being done, how much of it is done, how much there is, and a note ("" if none)."""


def silent(what: str, done: int, total: int, note: str) -> None:
    """The `Tell` that nobody hears."""


def named(tell: Tell, who: str) -> Tell:
    """`tell` with `who` before what is being done."""
    return lambda what, done, total, note: tell(f"{who}: {what}", done, total, note)


def claim(
    folder: Path,
    file: str,
    mine: Mapping[str, Any],
    *,
    what: str,
    free: tuple[str, ...] = (),
    advice: str = "choose another folder (--out)",
) -> None:
    """Make `folder` the one of `mine`, or see that it is already.

    Args:
        folder: New, empty, or one that was claimed before.
        file: In `folder`, what remembers `mine`.
        mine: Plain data that decides everything in the folder.
        what: What is decided, for messages, such as "recipe".
        free: Keys of `mine` that may have changed; what is there is kept.
        advice: What to do with other options.

    Raises:
        DataError: It holds something else; nothing is overwritten.
    """
    path = folder / file
    if path.is_file():
        try:
            there = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: expected the {what} of a study, got no JSON ({error}).") from error
        before, now = ({key: one[key] for key in one if key not in free} for one in (there, dict(mine)))
        changed = differences(before, now)
        if changed:
            raise DataError(
                f"{folder} holds a study of another {what}: {'; '.join(changed)}. Nothing was overwritten; "
                f"give the same options to go on with it, or {advice}."
            )
        return
    drafts = {_draft(path).name}  # what a kill left
    strangers = sorted({entry.name for entry in folder.iterdir()} - drafts) if folder.is_dir() else []
    if strangers or (folder.exists() and not folder.is_dir()):
        found = ", ".join(strangers[:3]) or "a file"
        raise DataError(
            f"{folder}: expected a new or empty folder or that of a study, found {found}. "
            "Nothing was overwritten; choose another folder (--out)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, mine)


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def write_json(path: Path, data: Any) -> None:
    """JSON, whole or not at all."""
    part = _draft(path)
    part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    os.replace(part, path)


def data_key(env: str, task: str) -> str:
    """What a checkpoint calls the demonstrations of a task."""
    return f"{env}_{task}"


def collect_demonstrations(
    folder: Path, config: CollectConfig, *, workers: int | None, tell: Tell
) -> CollectReport:
    """Demonstrations as `config` asks for."""
    return collect(
        folder,
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


def train_recipe(
    recipe: Recipe, data: Mapping[str, Path], out: Path, *, cache: Path, device: str = "cpu", tell: Tell
) -> TrainReport:
    """The policy of a recipe, trained on `data` (key to folder)."""
    return train_from_folder(
        data,
        out=out,
        policy=recipe.family,
        policy_config=recipe.policy,
        config=recipe.training,
        cache=cache,
        device=device,
        progress=training_progress(tell),
        preparing=lambda what, done, total: tell(what, done, total, ""),
    )


def evaluate_recipe(
    recipe: Recipe, agent: str | Path, out: Path, *, workers: int | None, tell: Tell, **options: Any
) -> runner.Evaluation:
    """An agent in the scenes of a recipe; `options` go to `runner.evaluate` over those of the recipe.

    Raises:
        KeyboardInterrupt: Ctrl-C, with a word on where finished episodes are.
    """
    config = recipe.evaluation
    chosen = {
        "probes": config.probes,
        "executor": config.executor,
        "execute": config.execute,
        "videos": config.videos,
        **options,
    }
    try:
        return runner.evaluate(
            agent,
            episodes=config.episodes,
            probe_episodes=config.probe_episodes,
            seed_offset=config.seed_offset,
            latency=config.latency,
            workers=workers,
            out=out,
            progress=evaluation_progress(tell),
            **chosen,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped while evaluating; finished episodes are saved in {out}.") from None
