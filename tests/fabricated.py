"""An invented evaluation with plausible numbers, for tests of the report. Nothing here was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.evaluation.latency import InferenceTime
from visuomotor.evaluation.origin import Origin
from visuomotor.evaluation.probes import Trial
from visuomotor.evaluation.runner import FIRST_SEED, Evaluation
from visuomotor.evaluation.setup import Setup
from visuomotor.evaluation.videos import Video, VideoWriter, choose, outcome
from visuomotor.rollout import Episode

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cylinder", "bar")
SENTENCES = (
    "put the {} in the {} bowl",
    "drop the {} into the {} bowl",
    "the {} goes in the {} bowl",
    "please place the {} inside the {} bowl",
)


def invent(folder: Path | None = None, *, trained: bool = True, perfect: bool = False) -> Evaluation:
    """100 episodes, four probes of 50, and videos of moving squares if there is a folder."""
    failures = {} if perfect else {"main": {17: "out of time", 41: "wrong place", 88: "dropped"}}
    trials = [_trial("main", index, failures.get("main", {}).get(index)) for index in range(100)]
    bad: dict[str, dict[int, str]] = {
        "swap": {23: "wrong object"},
        "phrasing": {4: "out of time", 30: "wrong place", 31: "out of time"},
        "words": dict.fromkeys(range(0, 50, 4), "wrong object"),
        "blank": dict.fromkeys((index for index in range(50) if index % 8), "wrong object"),
    }
    for part, reasons in bad.items():
        trials += [_trial(part, index, reasons.get(index)) for index in range(50)]
    inference = InferenceTime(median=7.84, p99=9.61, n=200, low=7.79, high=7.91, first=14.2)
    evaluation = Evaluation(
        setup=Setup(agent="outputs/demo/policy" if trained else "expert", env_options={"task": "put_in"}),
        options={},
        seed_offset=0,
        trials=tuple(trials),
        inference=inference,
        horizon=16,
        origin=_origin() if trained else None,
        seconds=61.3,
        workers=2,
        folder=folder,
    )
    if folder is None:
        return evaluation
    videos = tuple(_video(trial, folder) for trial in choose(evaluation.trials, 2))
    return Evaluation(**{**vars(evaluation), "videos": videos})


def _trial(part: str, index: int, failure: str | None) -> Trial:
    generator = np.random.default_rng([index, 5])
    color, bowl = generator.choice(COLORS, size=2, replace=False)
    thing = f"{color} {generator.choice(SHAPES)}"
    goal, other = f"put_in:{thing}>{bowl} bowl", f"put_in:{thing}>white bowl"
    ticks = 100 if failure == "out of time" else int(generator.integers(38, 61))
    achieved = {None: goal, "wrong object": other, "wrong place": other}.get(failure)
    sentence = SENTENCES[int(generator.integers(4))].format(thing, bowl)
    episode = Episode(
        seed=FIRST_SEED + index,
        instruction="" if part == "blank" else sentence,
        success=failure is None,
        progress=1.0 if failure is None else 0.35,
        failure=failure,
        ticks=ticks,
        seconds=ticks / 10,
        goal=goal,
        achieved=achieved,
        digest=f"{index:016x}",
        inference_ms=(7.9, 8.0),
        facts={"goal": goal, "achieved": achieved},
    )
    return Trial(part=part, index=index, episode=episode, goals=8, former=other if part == "swap" else None)


def _origin() -> Origin:
    steps = np.arange(50, 4001, 50)
    noise = np.random.default_rng(1).normal(0, 0.04, size=len(steps))
    loss = 0.075 + 0.9 * np.exp(-steps / 500) + 0.05 * np.exp(noise)
    curve: list[dict[str, Any]] = [
        {"step": int(step), "loss": float(value), "seconds": float(step * 0.0378)}
        for step, value in zip(steps, loss)
    ]
    for line in curve[3::4]:
        line["validation"] = {"loss": line["loss"] * 1.12 + 0.004}
    data = {
        "hash": "9f4c1e77aa02b6d1",
        "kept": 600,
        "dropped": 7,
        "seconds": 48.0,
        "env": "tabletop",
        "task": "put_in",
    }
    return Origin(
        folder=Path("outputs/demo/policy/checkpoint"),
        family="compact",
        config={"text": "minilm"},
        parameters=3_142_880,
        text="minilm",
        data={"demonstrations": data},
        seeds=frozenset(range(607)),
        env="tabletop",
        task="put_in",
        seed=0,
        step=4000,
        versions={"visuomotor": "0.1.0", "torch": "2.13.0"},
        weights={"ema.safetensors": "c0ffee" + "0" * 58},
        curve=tuple(curve),
        seconds=151.2,
    )


def _video(trial: Trial, folder: Path) -> Video:
    name = f"videos/{trial.part}-{trial.index:03d}.mp4"
    with VideoWriter(folder / name, rate=10.0) as writer:
        for tick in range(12):
            picture = np.full((64, 64, 3), 225, np.uint8)
            picture[20:34, 3 * tick : 3 * tick + 14] = (
                (200, 60, 40) if trial.episode.failure else (30, 120, 110)
            )
            writer.add(picture)
    return Video(file=name, part=trial.part, index=trial.index, outcome=outcome(trial))
