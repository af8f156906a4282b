"""What a checkpoint says about where its policy comes from. Reads JSON only, loads no weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visuomotor.agent.disk import PROVENANCE, locate, read_json, training_seeds
from visuomotor.errors import unknown_name

__all__ = ["Origin", "read_curve", "read_origin", "world_of"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a policy comes from.

    Attributes:
        folder: The checkpoint.
        family: Name of the policy's class.
        config: Its config, as saved.
        parameters: Number of weights.
        text: Name of the sentence encoder; "scratch" if words are learned from the data.
        data: Data-set key to what is known of it; without the seeds.
        seeds: Every seed that the data were collected with.
        env: Environment of the data, if they say so.
        env_options: Arguments of its constructor.
        task: Task of the data, if they say so.
        seed: Of the training run.
        step: Of the weights.
        versions: Of the software that trained it.
        weights: sha256 of each file of weights.
        curve: Lines of the training log, oldest first.
        seconds: Of training, if the log says so.
    """

    folder: Path
    family: str
    config: Mapping[str, Any]
    parameters: int
    text: str
    data: Mapping[str, Mapping[str, Any]]
    seeds: frozenset[int]
    env: str | None = None
    env_options: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    seed: int | None = None
    step: int | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    curve: tuple[Mapping[str, Any], ...] = ()
    seconds: float | None = None

    def count(self, name: str) -> int | None:
        """Sum of a count such as "kept" over all data sets; None if no data set says it."""
        found = [entry[name] for entry in self.data.values() if entry.get(name) is not None]
        return int(sum(found)) if found else None

    def sum_seconds(self) -> float | None:
        """Seconds of collecting all data sets; None if no data set says it."""
        found = [entry["seconds"] for entry in self.data.values() if entry.get("seconds") is not None]
        return float(sum(found)) if found else None


def read_origin(folder: str | os.PathLike[str], key: str | None = None) -> Origin:
    """The origin of the checkpoint in `folder`.

    Args:
        folder: The checkpoint, or the run that it belongs to.
        key: Which data set says where the policy acts; all, which must say the same, if None.

    Raises:
        CheckpointError: There is no checkpoint, or a file of it is damaged.
        ValueError: It was not trained on a data set of that key.
    """
    place = locate(folder)
    provenance = read_json(place / PROVENANCE)
    config = read_json(place / "config.json", ("format", "policy", "config"), ("lora",))
    seeds = training_seeds(provenance)
    data = {
        key: {name: value for name, value in entry.items() if name != "seeds"}
        for key, entry in provenance.get("data", {}).items()
    }
    if key is not None and key not in data:
        raise unknown_name("data-set key", key, data)
    env, env_options, task = world_of(data if key is None else {key: data[key]})
    curve = read_curve(place.parent)
    return Origin(
        folder=place,
        family=str(config["policy"]),
        config=config["config"],
        parameters=int(provenance.get("parameters") or 0),
        text=(provenance.get("text") or {}).get("encoder") or _reader(config["config"]),
        data=data,
        seeds=seeds,
        env=env,
        env_options=env_options,
        task=task,
        seed=provenance.get("seed"),
        step=provenance.get("step"),
        versions=provenance.get("versions", {}),
        weights={
            name: digest
            for name, digest in provenance.get("files", {}).items()
            if name.endswith(".safetensors")
        },
        curve=tuple(curve),
        seconds=next((float(line["seconds"]) for line in reversed(curve) if "seconds" in line), None),
    )


def world_of(data: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, dict[str, Any], str | None]:
    """Environment, its options and task, if all data sets that name one name the same.

    Args:
        data: Data-set key to what the data set says of itself.
    """
    worlds = []
    for entry in data.values():
        if entry.get("env"):
            told = {name: entry[name] for name in ("task", "control") if entry.get(name) is not None}
            more = (entry.get("collect") or {}).get("env_options") or {}
            worlds.append((str(entry["env"]), {**told, **more}, entry.get("task")))
    if not worlds or any(world != worlds[0] for world in worlds):
        return None, {}, None
    return worlds[0]


def read_curve(run: Path) -> list[dict[str, Any]]:
    """Lines of the log of a training run; a line cut off by a crash ends them. Empty without a log."""
    path = run / "log.jsonl"
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _reader(config: Mapping[str, Any]) -> str:
    """How a policy with such a config reads its instruction; "none" if it does not say."""
    return str((config.get("language") or {}).get("reader", "none"))
