"""A checkpoint with adapters as a plain one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visuomotor.agent.disk import new_folder, seal
from visuomotor.agent.folder import check_golden, check_saved, load_policy, read_adapters, write_agent
from visuomotor.agent.golden import instruction_of
from visuomotor.agent.weights import read_tensors
from visuomotor.errors import CheckpointError
from visuomotor.nn.lora import merge, merged_tensors

__all__ = ["Merged", "merge_adapters"]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged checkpoint.

    Attributes:
        folder: Where it is.
        layers: Names of the layers whose correction is now part of their weight.
        difference: Largest deviation from the golden answers of the adapted policy, in model space.
    """

    folder: Path
    layers: tuple[str, ...]
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {"folder": str(self.folder), "layers": list(self.layers), "difference": self.difference}


def merge_adapters(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Merged:
    """Write a checkpoint whose weights contain the adapters of another, weights and average alike.

    Args:
        folder: A checkpoint with adapters, or the folder of a training run that holds one.
        out: Does not exist, is empty, or is a checkpoint, which is replaced.

    Raises:
        CheckpointError: There are no adapters, or the merged policy answers otherwise.
    """
    loaded = load_policy(folder, weights="model")
    place, policy, target = loaded.folder, loaded.policy, Path(out)
    adapters = read_adapters(place)
    if adapters is None:
        raise CheckpointError(f"{place}: has no adapters; there is nothing to merge.")
    if target.resolve() == place.resolve():
        raise CheckpointError(f"{out}: is the checkpoint itself. Choose another folder.")
    average = merged_tensors(read_tensors(place / "ema.safetensors"), adapters)
    layers = merge(policy)
    difference = check_golden(place, policy, loaded.pipelines, "model", thorough=True) or 0.0
    kept = {name: value for name, value in loaded.provenance.items() if name != "files"}
    merged = {"folder": str(place.resolve()), "weights": loaded.provenance["files"]["ema.safetensors"]}
    with new_folder(target) as part:
        write_agent(
            part,
            policy,
            loaded.stats,
            average=average,
            sentences=loaded.sentences,
            instruction=instruction_of(place / "golden.npz"),
        )
        parameters = sum(weight.numel() for weight in policy.parameters())
        seal(part, {**kept, "parameters": parameters, "merged": merged})
        check_saved(part, loaded.sentences)
    return Merged(folder=target, layers=tuple(layers), difference=difference)
