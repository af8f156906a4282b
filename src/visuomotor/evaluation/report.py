"""The two files of a result: report.json for machines, report.html for people.

The page is made from nothing but the JSON and the videos, so it cannot say anything else.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import visuomotor
from visuomotor.evaluation.origin import Origin
from visuomotor.evaluation.page import render_page
from visuomotor.evaluation.probes import Trial, count_failures
from visuomotor.evaluation.runner import FIRST_SEED, Evaluation
from visuomotor.evaluation.statistics import proportion
from visuomotor.executors import default_execute
from visuomotor.rollout import Episode, plain

__all__ = ["build_report", "replace_file", "write_report"]


def write_report(
    folder: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    command: str = "",
    seed: int | None = None,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write report.json and report.html into `folder` and return the former.

    Args:
        folder: Made if it is not there.
        evaluation: What to report; its videos are put into the page.
        command: The command line that repeats it.
        seed: Of the whole run; that of the training if None, else the first seed of an episode.
        seconds: Wall time of parts that the evaluation does not know ("collect", "train", "total").
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = build_report(evaluation, command=command, seed=seed, seconds=seconds)
    videos = {}
    if evaluation.folder is not None:
        videos = {video.file: (evaluation.folder / video.file).read_bytes() for video in evaluation.videos}
    page = render_page(report, videos)
    replace_file(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    replace_file(folder / "report.html", page)
    return report


def replace_file(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def build_report(
    evaluation: Evaluation,
    *,
    command: str = "",
    seed: int | None = None,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything about an evaluation as plain data for strict JSON; see `write_report` for the arguments."""
    origin, setup = evaluation.origin, evaluation.setup
    main = [trial.episode for trial in evaluation.part("main")]
    failures = evaluation.failures
    first = FIRST_SEED + evaluation.seed_offset
    if seed is None:
        seed = origin.seed if origin is not None and origin.seed is not None else first
    report = {
        "task": _task(evaluation),
        "success": evaluation.success.to_json(),
        "wrong_object": failures.get("wrong object", 0),
        "wrong_place": failures.get("wrong place", 0),
        "failures": failures,
        "tasks": _by_task(main),
        "probes": evaluation.probes,
        "policy": _policy(evaluation),
        "demonstrations": _demonstrations(origin),
        "training": _training(origin),
        "seconds": _seconds(evaluation, seconds or {}),
        "inference_ms": evaluation.inference.to_json(),
        "seed": seed,
        "seeds": {"first": first, "n": len(main), "offset": evaluation.seed_offset},
        "versions": _versions(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "command": command,
        "agent": setup.agent,
        "env": setup.env,
        "env_options": setup.env_options,
        "options": evaluation.options,
        "executor": {
            "name": setup.executor,
            "execute": setup.execute or default_execute(setup.executor, evaluation.horizon),
            "horizon": evaluation.horizon,
            "latency_s": setup.latency,
        },
        "weights": setup.weights,
        "workers": evaluation.workers,
        "instructions": list(dict.fromkeys(episode.instruction for episode in main))[:6],
        "episodes": _rows(evaluation),
        "videos": [video.to_json() for video in evaluation.videos],
    }
    return plain(report)


def _task(evaluation: Evaluation) -> str:
    """The task by name: what the environment was told, what the data say, or the environment itself."""
    options, setup = evaluation.options, evaluation.setup
    told = options.get("task") or setup.env_options.get("task")
    if told is None and evaluation.origin is not None and evaluation.origin.env == setup.env:
        told = evaluation.origin.task
    return str(told or setup.env)


def _by_task(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Success and failures of each task, where episodes had several; goals begin with their task."""
    found: dict[str, list[Episode]] = {}
    for episode in episodes:
        found.setdefault((episode.goal or "").partition(":")[0], []).append(episode)
    if len(found) < 2:
        return {}
    return {
        task: {
            **proportion(sum(episode.success for episode in those), len(those)).to_json(),
            "failures": count_failures(those),
        }
        for task, those in found.items()
    }


def _policy(evaluation: Evaluation) -> dict[str, Any]:
    """Family, size and text encoder; for an agent without a checkpoint its name and nothing else."""
    origin = evaluation.origin
    if origin is None:
        return {"family": evaluation.setup.agent, "parameters": 0, "text": None}
    return {
        "family": origin.family,
        "parameters": origin.parameters,
        "text": origin.text,
        "config": origin.config,
        "weights_sha256": origin.weights.get(f"{evaluation.setup.weights}.safetensors"),
    }


def _demonstrations(origin: Origin | None) -> dict[str, Any]:
    """Kept and dropped demonstrations, and the data sets that they lie in."""
    if origin is None:
        return {"kept": 0, "dropped": 0, "sets": {}}
    sets = {
        key: {name: entry.get(name) for name in ("hash", "kept", "dropped")}
        for key, entry in origin.data.items()
    }
    return {"kept": origin.count("kept"), "dropped": origin.count("dropped"), "sets": sets}


def _training(origin: Origin | None) -> dict[str, Any] | None:
    """Steps, seed and learning curve; None for an agent that was not trained."""
    if origin is None:
        return None
    return {
        "steps": origin.step,
        "seed": origin.seed,
        "versions": origin.versions,
        "curve": [_point(line) for line in origin.curve],
    }


def _point(line: Mapping[str, Any]) -> dict[str, int | float]:
    """The single numbers in a line of a training log, the loss on held-out data among them."""
    point = {name: value for name, value in line.items() if isinstance(value, (int, float))}
    if isinstance(line.get("validation"), Mapping):
        point["validation"] = line["validation"]["loss"]
    return point


def _seconds(evaluation: Evaluation, known: Mapping[str, float]) -> dict[str, float | None]:
    """Wall time of each part; None where nobody measured it."""
    origin = evaluation.origin
    parts: dict[str, float | None] = {
        "collect": origin.sum_seconds() if origin is not None else None,
        "train": origin.seconds if origin is not None else None,
        "evaluate": evaluation.seconds,
        **known,
    }
    parts.setdefault("total", sum(value for value in parts.values() if value is not None))
    return {name: None if value is None else round(value, 2) for name, value in parts.items()}


def _versions() -> dict[str, str | None]:
    """Versions of what decides the numbers; None for what is not installed."""
    found: dict[str, str | None] = {"visuomotor": visuomotor.__version__, "python": platform.python_version()}
    for package in ("torch", "mujoco", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each episode, with its video if it has one."""
    films = {(video.part, video.index): video.file for video in evaluation.videos}

    def row(trial: Trial) -> dict[str, Any]:
        episode = trial.episode
        return {
            "part": trial.part,
            "index": trial.index,
            "seed": episode.seed,
            "instruction": episode.instruction,
            "goal": episode.goal,
            "achieved": episode.achieved,
            "former": trial.former,
            "success": episode.success,
            "failure": episode.failure,
            "progress": round(episode.progress, 4),
            "ticks": episode.ticks,
            "seconds": round(episode.seconds, 4),
            "holds": episode.holds,
            "chunk_failures": len(episode.chunk_failures),
            "digest": episode.digest,
            "video": films.get((trial.part, trial.index)),
        }

    return [row(trial) for trial in evaluation.trials]
