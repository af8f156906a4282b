"""Turn a pickled checkpoint of the original ACT code into files that this package reads.

    python scripts/convert_act.py policy_best.ckpt dataset_stats.pkl folder

writes `folder/model.safetensors`, for `visuomotor.policies.act.load_released(..., "original")`, with the
mean and the spread of states and actions in it ("stats.state.mean" and so on), for `released_stats`. The
package itself never unpickles anything; this script reads tensors only (`weights_only=True`) and, of the
statistics, arrays of numbers only: a pickle that asks for anything else is refused.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}
"""All that a pickled array needs."""
MOMENTS = {"state": ("qpos_mean", "qpos_std"), "action": ("action_mean", "action_std")}


class ArraysOnly(pickle.Unpickler):
    """Refuses everything but arrays, numbers, strings and containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        """A constructor of arrays, or an error."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"expected arrays of numbers, got {module}.{name}; not read.")
        return super().find_class(module, name)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint; entries that share memory get their own."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise SystemExit(
            f"{path}: expected the state dict that the original code writes as policy_best.ckpt, "
            f"got {type(found).__name__}."
        )
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def read_moments(path: Path) -> dict[str, torch.Tensor]:
    """Mean and spread of states and actions in `dataset_stats.pkl`, float64."""
    with path.open("rb") as file:
        found = ArraysOnly(file).load()
    missing = [name for names in MOMENTS.values() for name in names if name not in found]
    if missing:
        raise SystemExit(f"{path}: expected {missing} among the statistics, got {sorted(found)}.")
    return {
        f"stats.{feature}.{moment}": torch.from_numpy(np.array(found[name], np.float64).ravel())
        for feature, names in MOMENTS.items()
        for moment, name in zip(("mean", "std"), names, strict=True)
    }


def main(arguments: list[str]) -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="policy_best.ckpt")
    parser.add_argument("stats", type=Path, help="dataset_stats.pkl")
    parser.add_argument("folder", type=Path, help="where to write model.safetensors")
    options = parser.parse_args(arguments)
    weights, moments = read_weights(options.checkpoint), read_moments(options.stats)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(weights | moments, options.folder / "model.safetensors")
    print(f"{options.folder}: {len(weights)} tensors, and moments of {', '.join(MOMENTS)}.")


if __name__ == "__main__":
    main(sys.argv[1:])
