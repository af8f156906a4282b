"""What the policy families are: paper, sizes with their exact numbers of weights, and weights they load."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from visuomotor.nn.weights import unfilled
from visuomotor.registry import lookup, names
from visuomotor.types import Camera, Dimension, Spec

__all__ = ["BODY", "describe_families", "describe_family"]

BODY = Spec(
    embodiment="aloha",
    cameras=(Camera(name="top", height=480, width=640),),
    state=tuple(Dimension(name=f"state {n}") for n in range(14)),
    action=tuple(Dimension(name=f"action {n}") for n in range(14)),
    rate=50.0,
)
"""Whose policies are counted, where their numbers of weights depend on the body: that of ACT's paper."""


def describe_families() -> dict[str, dict[str, Any]]:
    """`describe_family` of every registered family."""
    return {name: describe_family(name) for name in names("policy")}


def describe_family(name: str) -> dict[str, Any]:
    """A family as plain data.

    Args:
        name: Registered, or "package.module:Class".

    Returns:
        `what`: one line; `paper`: where it comes from; `sizes`: name of a size of its config to the number
        of `parameters` for `BODY`; `weights`: published ones that it loads. Nothing is computed: the
        networks are made without values.
    """
    kind: Any = lookup("policy", name)
    told = (sys.modules[kind.__module__].__doc__ or "").strip().split("\n\n")
    sizes = {}
    for size in _sizes(kind.Config):
        config = kind.Config() if size == "default" else getattr(kind.Config, size)()
        with unfilled():
            policy = kind(config, {"data": BODY})
        sizes[size] = {"parameters": sum(weight.numel() for weight in policy.parameters())}
    return {
        "what": told[0].replace("\n", " "),
        "paper": told[1].replace("\n", " ") if len(told) > 1 else "",
        "sizes": sizes,
        "weights": list(kind.released),
    }


def _sizes(config: type) -> list[str]:
    """Named sizes: the classmethods that take nothing; "default" if none of them is published."""
    found = [
        name
        for name, member in inspect.getmembers(config, inspect.ismethod)
        if not name.startswith("_")
        and name != "tiny"
        and all(p.default is not p.empty for p in inspect.signature(member).parameters.values())
    ]
    return found if "published" in found else ["default", *found]
