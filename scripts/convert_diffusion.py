"""Turn a checkpoint of the original Diffusion Policy code into files that this package reads.

    python scripts/convert_diffusion.py latest.ckpt folder

writes `folder/model.safetensors`, for `load_released` and `released_stats` of
`visuomotor.policies.released.diffusion` with layout "original", and `folder/told.json`: names and shapes
of what was observed, in the order in which the network reads it ("observations"; null if it is not told).
The weights are those of the moving average, with which the code is evaluated; `--weights model` takes those
that were trained.

Such a checkpoint is a pickle of the whole program's state. The package never unpickles anything, and this
script makes nothing of it but tensors and plain containers: whatever else the pickle names is not imported,
but replaced by an object that does nothing and only keeps the numbers and strings that were to go into it.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "str"): str,
    ("builtins", "bool"): bool,
}
"""All that is made as it is asked for."""
TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Inert:
    """Stands for an object of any other class; keeps what it was made of and does nothing."""

    def __new__(cls, *given: Any, **named: Any) -> Inert:
        """An empty one, whatever it is called with."""
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.state = given, named

    def __call__(self, *given: Any, **named: Any) -> Inert:
        """Nothing is called: another one."""
        return Inert(*given, **named)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of what was a dict."""

    def append(self, value: Any) -> None:
        """Items of what was a list."""

    def extend(self, values: Any) -> None:
        """Items of what was a list."""

    def __hash__(self) -> int:
        return id(self)


class TensorsOnly(pickle.Unpickler):
    """Makes tensors and plain containers, and inert objects of everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """A constructor that is allowed, or one of inert objects; nothing is imported."""
        if module == "torch" and name in TYPES:
            return getattr(torch, name)
        return ALLOWED.get((module, name), Inert)


class Reader:
    """What `torch.load` takes for a module that unpickles."""

    Unpickler = TensorsOnly
    __name__ = "tensors_only"

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """The object in a file."""
        return TensorsOnly(file, **options).load()


def read(path: Path, which: str) -> tuple[dict[str, torch.Tensor], Any]:
    """The state dict, and the configuration as far as it could be read."""
    found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=Reader)
    parts = found.get("state_dicts") if isinstance(found, dict) else None
    if not isinstance(parts, dict):
        raise SystemExit(f"{path}: expected a checkpoint with state_dicts, as the original code writes it.")
    if which not in parts:
        known = [name for name in ("ema_model", "model") if name in parts]
        raise SystemExit(f"{path}: no weights {which!r}, only {known}; pass one of them as --weights.")
    weights = {}
    for name, value in parts[which].items():
        if not isinstance(value, torch.Tensor):
            raise SystemExit(f"{path}: {name!r}: expected a tensor, got {type(value).__name__}.")
        # Some entries are two names of one weight; each gets its own.
        weights[name] = value.detach().clone().contiguous()
    return weights, found.get("cfg")


def plain(value: Any) -> Any:
    """The plain data in a configuration of OmegaConf, whose nodes keep it as `_content` or `_val`."""
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return plain(state.get("_content", state.get("_val")))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None


def observed(config: Any) -> dict[str, list[int]] | None:
    """Name to shape of what the network reads, in its order; None if the configuration does not say."""
    told = plain(config)
    shapes = ((told or {}).get("shape_meta") or {}).get("obs") if isinstance(told, dict) else None
    if not isinstance(shapes, dict):
        return None
    found = {name: (entry or {}).get("shape") for name, entry in shapes.items()}
    if not all(isinstance(shape, list) for shape in found.values()):
        return None
    return {name: [int(size) for size in shape] for name, shape in found.items()}


def main(arguments: list[str]) -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file")
    parser.add_argument("folder", type=Path, help="where to write model.safetensors and told.json")
    parser.add_argument("--weights", default="ema_model", help="ema_model, or model")
    options = parser.parse_args(arguments)
    weights, config = read(options.checkpoint, options.weights)
    observations = observed(config)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.folder / "model.safetensors")
    (options.folder / "told.json").write_text(json.dumps({"observations": observations}, indent=1) + "\n")
    said = ", ".join(observations) if observations else "not told"
    print(f"{options.folder}: {len(weights)} tensors; observed: {said}.")


if __name__ == "__main__":
    main(sys.argv[1:])
