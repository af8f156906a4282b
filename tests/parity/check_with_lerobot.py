"""Opens data sets with lerobot 0.6.1 and writes down all that it reads; `test_lerobot_reads_ours.py` runs it.

    LEROBOT_PYTHON tests/parity/check_with_lerobot.py ANSWERS.npz FOLDER

A v2.1 data set is first converted, in place, by lerobot's own converter. How to make an environment with
lerobot stands in `make_lerobot_golden.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset


def main(answers: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    if json.loads((folder / "meta/info.json").read_text())["codebase_version"] == "v2.1":
        convert_dataset(repo_id="ours/any", root=folder, push_to_hub=False)
    dataset = LeRobotDataset("ours/any", root=folder, video_backend="pyav", return_uint8=True)
    rows = [dataset[tick] for tick in range(len(dataset))]
    kept = {
        key: np.array([value if isinstance(value, (str, list)) else value.numpy() for value in values])
        for key, values in ((key, [row[key] for row in rows]) for key in rows[0])
    }
    kept["stats"] = np.array(json.dumps({k: v["mean"].tolist() for k, v in dataset.meta.stats.items()}))
    np.savez_compressed(answers, **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
