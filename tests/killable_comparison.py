"""A comparison of tiny arms in a world that takes no time, in this process or, to be killed, in its own:

python killable_comparison.py DATA OUT ARM STEP    # SIGKILL to itself after STEP steps of ARM
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_policy import TinyConfig

from visuomotor.data.synthetic import SPEC, make_episode
from visuomotor.data.writer import LeRobotWriter
from visuomotor.recipes import EvaluateConfig, Recipe
from visuomotor.study import Arm, Comparison, compare_arms
from visuomotor.training.loop import TrainConfig

TRAINING = TrainConfig(steps=12, batch_size=8, warmup=2, save_every=5, log_every=2, ema_decay=0.5)
EXAM = EvaluateConfig(episodes=5, probes=(), probe_episodes=1, videos=0)


def make_arm(name: str, *, width: int = 8, history: tuple[int, ...] = (0,), **training: Any) -> Arm:
    recipe = Recipe(
        family="tiny_policy:TinyPolicy",
        policy=TinyConfig(width=width, history=history),
        training=replace(TRAINING, **training),
        evaluation=EXAM,
    )
    return Arm(name=name, recipe=recipe, source=f"{name}.json")


def make_data(folder: Path) -> Path:
    """Demonstrations whose body is the one of `slide_world`."""
    with LeRobotWriter(
        folder, SPEC, executed=True, meta={"env": "slide_world:SlideWorld", "task": "slide"}
    ) as writer:
        writer.add(*(make_episode(seed, ticks=8) for seed in range(4)))
    return folder


def run(data: Path, out: Path, arms: list[Arm], **options: Any) -> Comparison:
    return compare_arms(out, arms, data=data, workers=0, **options)


def main(data: str, out: str, arm: str, step: str) -> None:
    def tell(what: str, done: int, total: int, note: str) -> None:
        if what == f"{arm}: train the policy" and done == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(data), Path(out), [make_arm("narrow"), make_arm("wide", width=16)], tell=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
