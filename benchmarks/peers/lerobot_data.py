"""The part of `benchmarks/data.py` that runs in an environment of its own, with lerobot.

Reads requests, one line of JSON each, from stdin and answers each with a line of JSON on the file
descriptor that the first argument names; stdout and stderr are lerobot's own. Imports nothing of visuomotor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RATE = 10
VIDEO = {"dtype": "video", "names": ["height", "width", "channels"]}


def write(frames: str, folder: str) -> dict[str, Any]:
    """Write the pictures of an .npz file through the interface of LeRobotDataset, with its defaults."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = dict(np.load(frames))
    shutil.rmtree(folder, ignore_errors=True)
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": (data["state"].shape[1],), "names": None},
        "action": {"dtype": "float32", "shape": (data["action"].shape[1],), "names": None},
    }
    for camera in ("front", "wrist"):
        features[f"observation.images.{camera}"] = {**VIDEO, "shape": data[camera].shape[1:]}
    began = time.perf_counter()
    dataset = LeRobotDataset.create(
        "bench/data", RATE, features, root=folder, robot_type="bench", use_videos=True
    )
    tick = 0
    for length in data["lengths"]:
        for _ in range(int(length)):
            row: dict[str, Any] = {
                "observation.state": data["state"][tick].astype(np.float32),
                "action": data["action"][tick].astype(np.float32),
                "task": "put it in the bowl",
            }
            row |= {f"observation.images.{camera}": data[camera][tick] for camera in ("front", "wrist")}
            dataset.add_frame(row)
            tick += 1
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return {"seconds": time.perf_counter() - began, "frames": 2 * tick}


def open_dataset(folder: str, history: list[int], horizon: int) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    deltas = {f"observation.images.{camera}": [t / RATE for t in history] for camera in ("front", "wrist")}
    deltas |= {"observation.state": [t / RATE for t in history]}
    deltas |= {"action": [t / RATE for t in range(horizon)]}
    return LeRobotDataset("bench/data", root=folder, delta_timestamps=deltas, return_uint8=True)


def random(dataset: Any, rows: list[int]) -> dict[str, Any]:
    """Samples of some rows, one after the other."""
    began, cpu = time.perf_counter(), time.process_time()
    for row in rows:
        dataset[row]
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def first_batch(dataset: Any, batch_size: int, workers: int) -> dict[str, Any]:
    """Seconds from the making of a DataLoader with spawned workers to its first batch."""
    import torch

    began = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, multiprocessing_context="spawn"
    )
    iterator = iter(loader)
    next(iterator)
    seconds = time.perf_counter() - began
    del iterator
    return {"seconds": seconds}


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w")
    dataset = None
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("do"):
            case "versions":
                import torch

                torch.set_num_threads(1)
                names = ("lerobot", "torch", "av", "numpy", "datasets", "torchcodec")
                answer: dict[str, Any] = {name: version(name) for name in names} | {
                    "python": sys.version.split()[0]
                }
            case "write":
                answer = write(**request)
            case "open":
                dataset = open_dataset(**request)
                answer = {"ticks": len(dataset)}
            case "random":
                answer = random(dataset, **request)
            case "first_batch":
                answer = first_batch(dataset, **request)
            case "cores":
                for thread in os.listdir("/proc/self/task"):  # those that libraries have started, too
                    os.sched_setaffinity(int(thread), request["cores"])
                answer = {}
            case "values":
                sample = dataset[request["row"]]
                Path(request["out"]).parent.mkdir(parents=True, exist_ok=True)
                import numpy as np

                np.savez(request["out"], **{k: v.numpy() for k, v in sample.items() if hasattr(v, "numpy")})
                answer = {}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
