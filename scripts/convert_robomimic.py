"""Turn a pickled checkpoint of robomimic's behavior cloning into files that this package reads.

    python scripts/convert_robomimic.py model_epoch_600.pth folder

writes `folder/model.safetensors`, for `visuomotor.policies.bc.load_released`, and `folder/told.json`:
name and shape of what was observed ("observations", in the order in which the network reads it), how many
numbers an action has ("action"), robomimic's own config ("config"), and mean and spread of the observations
if they were normalized ("moments"). The package itself never unpickles anything; this script reads tensors
and plain values only (`weights_only=True`).
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PARTS = ("model", "config", "algo_name", "shape_metadata")


def read(path: Path) -> dict[str, Any]:
    """The parts of a checkpoint, or an error that says what is wrong with it."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SystemExit(f"{path}: expected tensors and plain values only; not read. {error}") from error
    missing = [part for part in PARTS if not isinstance(found, dict) or part not in found]
    if missing:
        raise SystemExit(
            f"{path}: expected {missing}, which robomimic 0.3 writes into its checkpoints, and did not find "
            "them. Is this one of its model_epoch_*.pth files?"
        )
    if found["algo_name"] != "bc":
        raise SystemExit(f'{path}: expected the algorithm "bc", got {found["algo_name"]!r}.')
    return found


def observed(checkpoint: dict[str, Any]) -> dict[str, list[int]]:
    """Name to shape of what the network reads, in its order.

    Of what the data had, those that the config names; others it never saw.
    """
    asked = json.loads(checkpoint["config"])["observation"]["modalities"]["obs"]
    used = {name for names in asked.values() for name in names}
    shapes = checkpoint["shape_metadata"]["all_shapes"]
    return {name: [int(size) for size in shape] for name, shape in shapes.items() if name in used}


def main(arguments: list[str]) -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="model_epoch_*.pth")
    parser.add_argument("folder", type=Path, help="where to write model.safetensors and told.json")
    options = parser.parse_args(arguments)
    checkpoint = read(options.checkpoint)
    # Some entries are two names of one weight; each gets its own.
    weights = {name: value.detach().clone().contiguous() for name, value in checkpoint["model"].items()}
    told = {
        "observations": observed(checkpoint),
        "action": int(checkpoint["shape_metadata"]["ac_dim"]),
        "config": json.loads(checkpoint["config"]),
        "moments": checkpoint.get("obs_normalization_stats"),
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.folder / "model.safetensors")
    (options.folder / "told.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{options.folder}: {len(weights)} tensors; observed: {', '.join(told['observations'])}.")


if __name__ == "__main__":
    main(sys.argv[1:])
