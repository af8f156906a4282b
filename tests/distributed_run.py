"""One of several processes that train together, one short run after the other, as torchrun starts it:

RANK=0 WORLD_SIZE=2 ... python distributed_run.py DATA JOBS    # as JSON; prints a report for each job
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from killable_run import CONFIG, open_material

from visuomotor.nn.lora import LoRAConfig
from visuomotor.training import step
from visuomotor.training.group import open_group
from visuomotor.training.loop import Progress, TrainConfig, TrainInterrupted

STEPS = replace(CONFIG, steps=8, save_every=4, log_every=1)


def settings(changed: dict[str, Any]) -> TrainConfig:
    """How to train, with adapters as plain data."""
    lora = {} if "lora" not in changed else {"lora": LoRAConfig(**changed["lora"])}
    names = {key: tuple(changed[key]) for key in ("freeze", "recompute") if key in changed}
    return replace(STEPS, **{**changed, **lora, **names})


def work(dataset: str, job: dict[str, Any]) -> dict[str, Any]:
    """One run."""
    os.environ["MASTER_PORT"] = str(job["port"])
    rank = int(os.environ["RANK"])

    def halt(progress: Progress) -> None:
        if progress.step == job.get("at") and rank == 1:
            os.kill(os.getpid(), getattr(signal, job["signal"]))

    one = open_material(Path(dataset), **job.get("policy", {}))
    batches = [one.loader.batch(number) for number in range(2)] if job.get("validate") else []
    with open_group("cpu", job.get("parallel"), job.get("shard", ())) as group:
        config = settings(job.get("config", {}))
        try:
            report = one.train(Path(job["folder"]), config, group=group, validation=batches, progress=halt)
        except TrainInterrupted as stopped:
            report = stopped.report
        except ValueError as error:
            return {"error": str(error)}
    return {"step": report.step, "loss": report.loss, "resumed": report.resumed_from}


def main(dataset: str, jobs: str) -> None:
    step.fast_bf16 = lambda device: True  # emulated, for a few steps
    for job in json.loads(jobs):
        print(json.dumps(work(dataset, job)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
