"""A short training run, in this process or, to be killed, in one of its own:

python killable_run.py DATA RUN STEP    # SIGKILL to itself after STEP steps
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_policy import TinyConfig

from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader
from visuomotor.data.store import FrameStore
from visuomotor.data.windows import Windows
from visuomotor.policies.base import Policy
from visuomotor.registry import lookup
from visuomotor.training.fitting import normalized_chunks
from visuomotor.training.loop import Progress, TrainConfig, TrainReport, train
from visuomotor.training.run import build_policy
from visuomotor.types import Stats

CONFIG = TrainConfig(
    steps=24,
    batch_size=8,
    warmup=4,
    save_every=7,
    log_every=5,
    learning_rate=0.01,
    ema_decay=0.9,
    accumulate=2,
)


@dataclass
class Material:
    policy: Policy
    loader: Loader
    stats: dict[str, Stats]
    data: dict[str, dict[str, Any]]

    def train(self, folder: Path, config: TrainConfig = CONFIG, **more: Any) -> TrainReport:
        return train(
            self.policy,
            self.loader,
            config=config,
            folder=folder,
            stats=self.stats,
            **{"data": self.data, **more},
        )


def open_material(
    dataset: Path, *, family: str = "tiny_policy:TinyPolicy", batch_size: int = 4, **config: Any
) -> Material:
    reader = LeRobotReader(dataset)
    tiny = (
        TinyConfig(dropout=0.1, smoothness=True) if ":" in family else lookup("policy", family).Config.tiny()
    )
    if "trunk" in config:  # as plain data
        config["trunk"] = replace(tiny.trunk, **config["trunk"])
    policy = build_policy(family, replace(tiny, **config), {"set": reader.spec}, seed=0)
    windows = Windows(reader, FrameStore.of(reader, dataset.parent / "cache"), policy.window, "set")
    if policy.unfitted:
        chunks = normalized_chunks(policy, {"set": windows}, {"set": reader.stats}, None)
        policy = build_policy(family, policy.fitted(chunks), {"set": reader.spec}, seed=0)
    pipelines = {"set": policy.transforms("set", reader.stats)}
    loader = Loader(windows, pipelines, batch_size=batch_size, seed=0)
    data = {"set": {"hash": reader.hash, "seeds": sorted(reader.seeds)}}
    return Material(policy=policy, loader=loader, stats={"set": reader.stats}, data=data)


def main(dataset: str, folder: str, last: str) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    open_material(Path(dataset)).train(Path(folder), progress=kill)


if __name__ == "__main__":
    main(*sys.argv[1:])
