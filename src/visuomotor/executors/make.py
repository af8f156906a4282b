"""Executors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from visuomotor.errors import unknown_name
from visuomotor.executors.asynchronous import Asynchronous
from visuomotor.executors.base import Executor
from visuomotor.executors.chunks import OpenLoop
from visuomotor.executors.ensemble import TemporalEnsemble
from visuomotor.registry import lookup

__all__ = ["default_execute", "make_executor"]


def make_executor(
    name: str, *, horizon: int, execute: int | None = None, options: Mapping[str, Any] | None = None
) -> Executor:
    """A fresh executor by its registered name.

    Args:
        name: "receding_horizon", "open_loop", "temporal_ensemble", "asynchronous", "real_time",
            "trained_real_time" or a registered one, which is called with `execute`.
        horizon: Length of the chunks to come.
        execute: Ticks from one chunk to the next; `default_execute` if None. Open loop has no choice.
        options: Further arguments of its class, such as {"order": "uniform"}.
    """
    kind = lookup("executor", name)
    options = _checked(name, kind, options or {})
    if kind is Asynchronous and "threshold" in options:
        if execute is not None:
            raise ValueError("asynchronous: execute and threshold say the same; pass one of them.")
        return kind(**options)
    execute = default_execute(name, horizon) if execute is None else execute
    if not 1 <= execute <= horizon:
        raise ValueError(f"execute must lie between 1 and the horizon {horizon}, got {execute}.")
    if kind is OpenLoop:
        if execute != horizon:
            raise ValueError(
                f"open loop plays all {horizon} actions, got execute={execute}. Use receding_horizon."
            )
        return OpenLoop()
    if kind is TemporalEnsemble:
        return kind(every=execute, **options)
    if kind is Asynchronous:
        return kind(threshold=(horizon - execute + 0.5) / horizon, **options)
    return kind(execute=execute, **options)


def default_execute(name: str, horizon: int, options: Mapping[str, Any] | None = None) -> int:
    """Ticks from one chunk to the next if nobody chose.

    All for open loop, 1 for an ensemble, what its threshold makes of it for asynchronous, else half.
    """
    kind = lookup("executor", name)
    if kind is OpenLoop:
        return horizon
    if kind is Asynchronous:
        threshold = (options or {}).get("threshold", 0.7)
        played = (tick for tick in range(1, horizon) if horizon - tick < threshold * horizon)
        return next(played, horizon)
    return 1 if kind is TemporalEnsemble else (horizon + 1) // 2


def _checked(name: str, kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, whole numbers as such. Raises `ValueError` for one that `kind` does not have."""
    own = inspect.signature(kind).parameters
    known = [option for option in own if option not in ("execute", "every")]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return {
        option: int(value) if isinstance(own[option].default, int) and value == int(value) else value
        for option, value in options.items()
    }
