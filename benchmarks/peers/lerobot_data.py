"""The part of `benchmarks/data.py` that runs in an environment of its own, with lerobot.

Imports nothing of visuomotor.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from serve import cores, serve, timed, versions

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
    return timed(lambda: [dataset[row] for row in rows])


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


def values(dataset: Any, row: int, out: str) -> dict[str, Any]:
    """Write a sample into an .npz file."""
    import numpy as np

    sample = dataset[row]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, **{k: v.numpy() for k, v in sample.items() if hasattr(v, "numpy")})
    return {}


def start() -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return versions("lerobot", "torch", "av", "numpy", "datasets", "torchcodec")


def main() -> None:
    opened: list[Any] = []

    def open_one(**request: Any) -> dict[str, Any]:
        opened[:] = [open_dataset(**request)]
        return {"ticks": len(opened[0])}

    serve(
        {
            "versions": start,
            "cores": cores,
            "write": write,
            "open": open_one,
            "random": lambda rows: random(opened[0], rows),
            "first_batch": lambda **request: first_batch(opened[0], **request),
            "values": lambda **request: values(opened[0], **request),
        }
    )


if __name__ == "__main__":
    main()
