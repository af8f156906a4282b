"""First weights from a checkpoint: what is taken, what is new, and nothing dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.agent.config import differences, to_plain
from visuomotor.agent.disk import PROVENANCE, check_hashes, locate, read_json
from visuomotor.agent.folder import policy_name, read_adapters, read_config
from visuomotor.agent.tokenizers import put_tokenizer
from visuomotor.agent.weights import named_weights, read_tensors
from visuomotor.errors import CheckpointError
from visuomotor.nn.lora import merged_tensors
from visuomotor.nn.patterns import choose
from visuomotor.perception.bodies import BodyTable
from visuomotor.policies.base import Policy

__all__ = ["Beginning", "begin_from"]

_WEIGHTS = "ema.safetensors"
_KNOWN = ("folder", "hash", "seeds", "env", "task")
"""What is handed on of the data that the first weights were trained on."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a policy took from a checkpoint.

    Attributes:
        taken: Names of weights.
        new: Names of weights that stay as they were drawn.
        dropped: Names of weights of the checkpoint that the policy has not.
        bodies: Embodiments that the checkpoint does not know, where the policy has a row for each.
        changes: Where config and bodies differ: "config.horizon: 8 there, 16 here".
        origin: What the provenance of later checkpoints says of it, plain data.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    bodies: tuple[str, ...]
    changes: tuple[str, ...]
    origin: Mapping[str, Any]


@torch.no_grad()
def begin_from(
    policy: Policy,
    folder: str | os.PathLike[str],
    *,
    fresh: Sequence[str] = (),
    encoder_hash: str | None = None,
) -> Beginning:
    """Copy the averaged weights of a checkpoint of the same family into `policy`; adapters come merged.

    Config and bodies may differ. A weight that only one side has, or that has another shape, must be
    named in `fresh`, so that nothing learned is lost by accident. A table with a row for each embodiment
    keeps the rows of the bodies that both sides know. A policy that names the same tokenizer reads with the
    checkpoint's copy.

    Args:
        policy: New; keeps its own numbers where nothing is taken.
        folder: A checkpoint, or the folder of a training run that holds one.
        fresh: Name patterns (`visuomotor.nn.patterns`) of weights that begin anew.
        encoder_hash: Of the sentence encoder, for a policy that reads encoded sentences.

    Raises:
        CheckpointError: Another family or sentence encoder, a damaged file, or weights without a
            counterpart that `fresh` does not name.
        UnknownNameError: A pattern in `fresh` matches no weight of either side.
    """
    place = locate(folder)
    check_hashes(place, ("config.json", "specs.json", _WEIGHTS))
    provenance = read_json(place / PROVENANCE)
    kind, config = read_config(place)
    _check_kin(policy, kind, provenance, encoder_hash, place)
    there, here = read_tensors(place / _WEIGHTS), named_weights(policy)
    if adapters := read_adapters(place):
        there = merged_tensors(there, adapters)
    specs = read_json(place / "specs.json")
    bodies = _carry_over(policy, there, sorted({spec["embodiment"] for spec in specs.values()}))
    anew = choose({**here, **there}, fresh, "weights to begin anew")
    _check_counterparts(here, there, anew, place)
    taken = sorted(name for name in here if name in there and name not in anew)
    for name in taken:
        here[name].copy_(there[name])
    changes = [
        *differences(to_plain(config), to_plain(policy.config), "config"),
        *differences(specs, {key: spec.to_json() for key, spec in policy.bodies.items()}, "bodies"),
    ]
    if not any(change.partition(":")[0].endswith(".tokenizer") for change in changes):
        put_tokenizer(place, policy)
    return Beginning(
        taken=tuple(taken),
        new=tuple(sorted(set(here) - set(taken))),
        dropped=tuple(sorted(set(there) - set(here))),
        bodies=tuple(bodies),
        changes=tuple(changes),
        origin=_origin(place, provenance, fresh, changes, len(taken)),
    )


def _check_kin(
    policy: Policy, kind: type[Policy], provenance: Mapping[str, Any], encoder_hash: str | None, place: Path
) -> None:
    """Raise `CheckpointError` unless the checkpoint in `place` is of the same family and heard the same."""
    if kind is not type(policy):
        raise CheckpointError(
            f"{place}: holds a policy of the family {policy_name(kind)!r}, but "
            f"{policy_name(policy)!r} is to be trained. Begin from a checkpoint of the same family."
        )
    text = provenance.get("text") or {}
    if policy.sentence_encoder and text.get("encoder") and text["hash"] != encoder_hash:
        raise CheckpointError(
            f"{place}: was trained with the sentence encoder {text['encoder']!r} of hash {text['hash']}, "
            f"not with that of hash {encoder_hash}. Pass the path of its weights (--text-path)."
        )


def _carry_over(policy: Policy, there: dict[str, Tensor], known: Sequence[str]) -> list[str]:
    """Bring each table of bodies in `there` into the order of `policy`; gives the bodies that are new."""
    new: list[str] = []
    for path, part in policy.named_modules():
        name = f"{path}.weight"
        if isinstance(part, BodyTable) and name in there and there[name].shape[1:] == part.weight.shape[1:]:
            there[name], new = part.rows_of(known, policy.embodiments, there[name])
    return new


def _check_counterparts(
    here: Mapping[str, Tensor], there: Mapping[str, Tensor], anew: set[str], place: Path
) -> None:
    """Raise `CheckpointError` unless every weight without a counterpart is in `anew`."""
    alone = {
        **{name: "not in the checkpoint" for name in here if name not in there},
        **{name: "only in the checkpoint" for name in there if name not in here},
        **{
            name: f"{tuple(there[name].shape)} in the checkpoint, {tuple(here[name].shape)} here"
            for name in here
            if name in there and here[name].shape != there[name].shape
        },
    }
    left = {name: why for name, why in sorted(alone.items()) if name not in anew}
    if left:
        shown = "; ".join(f"{name} ({why})" for name, why in list(left.items())[:5])
        more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
        raise CheckpointError(
            f"{place}: {len(left)} weights have no counterpart: {shown}{more}. Change the config of the "
            f"policy to that of the checkpoint, or name what shall begin anew: --fresh {' '.join(left)}"
        )


def _origin(
    place: Path, provenance: Mapping[str, Any], fresh: Sequence[str], changes: Sequence[str], taken: int
) -> dict[str, Any]:
    """What is kept of the checkpoint and of the one that it began from: above all the seeds of the data."""
    data = provenance.get("data", {})
    return {
        "folder": str(place.resolve()),
        "weights": provenance["files"][_WEIGHTS],
        "step": provenance.get("step"),
        "seed": provenance.get("seed"),
        "data": {key: {name: told[name] for name in _KNOWN if name in told} for key, told in data.items()},
        "taken": taken,
        "fresh": list(fresh),
        "changes": list(changes),
        **({"from": provenance["from"]} if "from" in provenance else {}),
    }
