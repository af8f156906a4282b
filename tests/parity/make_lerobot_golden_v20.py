"""Makes tests/parity/lerobot_golden/v20: a LeRobot v2.0 data set, and what lerobot 0.3.3 reads from it.

lerobot 0.3.3 is the last release that reads v2.0 (and warns). It records v2.1, which differs from v2.0 in
its statistics alone: of each episode there, of the whole here. So what it recorded is laid out as v2.0, by
what its own converter does, backwards; pictures are PNG inside of the tables, as this release decodes video
by a part of torchvision that is gone.

    python3.12 -m venv /tmp/old-lerobot-env
    /tmp/old-lerobot-env/bin/pip install "lerobot==0.3.3"
    /tmp/old-lerobot-env/bin/python tests/parity/make_lerobot_golden_v20.py

The files that are kept were made with torch 2.11 in the place of the older one that 0.3.3 asks for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset

PLACE = Path(__file__).parent / "lerobot_golden" / "v20"
RATE = 10
LENGTHS = (4, 2, 5)
TASKS = ("push the red cube", "lift it")
FRONT = "observation.images.front"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "gripper"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["da", "gripper"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "exact.vector": {"dtype": "float64", "shape": (2,), "names": None},
    "count": {"dtype": "int64", "shape": (1,), "names": None},
    "small": {"dtype": "int32", "shape": (2,), "names": None},
    "flags": {"dtype": "bool", "shape": (3,), "names": None},
    FRONT: {"dtype": "image", "shape": (24, 32, 3), "names": ["height", "width", "channels"]},
}
DELTAS = {"observation.state": [-0.3, -0.1, 0.0], "action": [0.0, 0.1, 0.2, 0.3], FRONT: [-0.3, -0.1, 0.0]}


def value(feature: dict, generator: np.random.Generator) -> np.ndarray:
    """A random value of a feature."""
    dtype, shape = feature["dtype"], feature["shape"]
    if dtype == "image":
        return generator.integers(0, 256, shape).astype(np.uint8)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith("int"):
        return generator.integers(0, 200, shape).astype(dtype)
    return generator.normal(size=shape).astype(dtype)


def record(folder: Path) -> None:
    """A data set of v2.1, laid out as v2.0 afterwards."""
    dataset = LeRobotDataset.create("golden/v20", RATE, FEATURES, root=folder, robot_type="golden")
    generator = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for tick in range(length):
            frame = {name: value(feature, generator) for name, feature in FEATURES.items()}
            dataset.add_frame(frame, task=TASKS[(episode + tick // 2) % 2])
        dataset.save_episode()
    stats = aggregate_stats(list(dataset.meta.episodes_stats.values()))
    (folder / "meta/episodes_stats.jsonl").unlink()
    kept = {
        name: {how: figure.tolist() for how, figure in figures.items() if how != "count"}
        for name, figures in stats.items()
    }
    (folder / "meta/stats.json").write_text(json.dumps(kept, indent=1) + "\n")
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "codebase_version": "v2.0"}, indent=1) + "\n")
    shutil.rmtree(folder / "images", ignore_errors=True)


def answer(folder: Path) -> None:
    """What LeRobotDataset says at every tick, pictures as uint8: one array a key, first axis tick."""
    kept: dict[str, np.ndarray] = {"ticks": np.arange(sum(LENGTHS))}
    for kind, deltas in (("plain", None), ("deltas", DELTAS)):
        dataset = LeRobotDataset("golden/v20", root=folder, delta_timestamps=deltas)
        rows = [dataset[tick] for tick in range(len(dataset))]
        for key in rows[0]:
            if deltas is None or key.removesuffix("_is_pad") in deltas:
                values = [row[key] if isinstance(row[key], str) else row[key].numpy() for row in rows]
                found = np.stack([np.array(one) for one in values])
                kept[f"{kind}|{key}"] = np.rint(found * 255).astype(np.uint8) if key == FRONT else found
    np.savez_compressed(folder.parent / "answers.npz", **kept)
    (folder.parent / "deltas.json").write_text(json.dumps(DELTAS) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(PLACE, ignore_errors=True)
    record(PLACE / "set")
    answer(PLACE / "set")
    size = sum(path.stat().st_size for path in PLACE.rglob("*") if path.is_file())
    print(f"{size / 1000:.0f} KB in {PLACE}")
