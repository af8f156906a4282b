"""Strict loading of foreign weights: every name on either side is accounted for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from visuomotor.errors import CheckpointError

__all__ = ["load_named"]


def load_named(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    where: str,
    names: Mapping[str, str] | None = None,
    unused: Sequence[str] = (),
) -> None:
    """Copy foreign weights into a network; a name that is missing, unknown or of another shape is an error.

    Args:
        network: Keeps its device and its types.
        weights: Foreign name to tensor.
        where: What the weights are, for messages: a path, or the name of a layout.
        names: Our name to the foreign one, for every entry of the network's state dict; None if they
            are the same.
        unused: Patterns (`fc.*`) of foreign names that are known and that this network has no use for.

    Raises:
        CheckpointError: With the closest name on the other side of each name that does not fit. The
            network is then as it was.
    """
    own = network.state_dict()
    names = {name: name for name in own} if names is None else names
    if set(names) != set(own):
        raise ValueError(
            f"{where}: the table of names and the network differ in {sorted(set(names) ^ set(own))}."
        )
    found = {name for name in weights if not any(fnmatchcase(name, pattern) for pattern in unused)}
    missing, unknown = sorted(set(names.values()) - found), sorted(found - set(names.values()))
    if missing or unknown:
        raise CheckpointError(
            f"{where}: {len(missing)} weights are missing{_closest(missing, unknown or found)}; "
            f"{len(unknown)} are unknown{_closest(unknown, missing or names.values())}. "
            "Were they saved from a network of this architecture and this configuration?"
        )
    for ours, theirs in names.items():
        if own[ours].shape != weights[theirs].shape:
            raise CheckpointError(
                f"{where}: {theirs!r}: expected shape {tuple(own[ours].shape)}, got "
                f"{tuple(weights[theirs].shape)}. Does the configuration belong to these weights?"
            )
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(weights[theirs])


def _closest(names: Sequence[str], others: Iterable[str], shown: int = 3) -> str:
    """The first few names, each with the one on the other side that is most like it."""
    others = list(others)
    lines = []
    for name in names[:shown]:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.4)
        lines.append(f"{name!r}" + (f" (closest: {close[0]!r})" if close else ""))
    return " (" + ", ".join(lines) + (", ..." if len(names) > shown else "") + ")" if lines else ""
