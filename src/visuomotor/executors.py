"""From chunks to one action per tick.

An executor decides when a new chunk is wanted and which of the known actions belongs to a tick. It
runs on a clock that counts ticks, so the clock can be virtual and an inference delay can be part of a
simulation. A chunk says when it was observed (`Chunk.time`): its action number i belongs to tick
`time * rate + i`, whenever it arrives. Actions whose tick has passed by then are skipped.

Executors are the memory of a `Session`, which owns and resets them; share none between sessions.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from visuomotor.registry import lookup
from visuomotor.types import Chunk

__all__ = ["Executor", "OpenLoop", "RecedingHorizon", "TemporalEnsemble", "default_execute", "make_executor"]


@runtime_checkable
class Executor(Protocol):
    """Chunks in, one action per tick out."""

    def reset(self) -> None:
        """Forget every chunk; tick 0 comes next."""
        ...

    def wants(self, tick: int) -> bool:
        """Whether a new chunk should be asked for with the observation of `tick`."""
        ...

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Take in a chunk that arrived in time for `tick`."""
        ...

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action for `tick`, raw units; None if no chunk has one."""
        ...


def _first_tick(chunk: Chunk) -> int:
    """The tick that the first action of `chunk` belongs to."""
    return round(chunk.time * chunk.rate)


def _action_at(chunk: Chunk | None, tick: int) -> np.ndarray | None:
    """What `chunk` says for `tick`; None before it, after it, and where it has no opinion."""
    if chunk is None:
        return None
    index = tick - _first_tick(chunk)
    if not 0 <= index < len(chunk.actions) or (chunk.mask is not None and not chunk.mask[index]):
        return None
    return chunk.actions[index]


class OpenLoop:
    """Plays each chunk to its end, then asks for the next one."""

    def __init__(self) -> None:
        self._chunk: Chunk | None = None

    def reset(self) -> None:
        """Forget the chunk."""
        self._chunk = None

    def wants(self, tick: int) -> bool:
        """When the chunk is used up."""
        return _action_at(self._chunk, tick) is None

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Replace the chunk."""
        self._chunk = chunk

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action of the chunk for `tick`."""
        return _action_at(self._chunk, tick)


class RecedingHorizon:
    """Plays the first `execute` actions of each chunk, then asks for the next one.

    While the next chunk is on its way, the rest of the old one is played.

    Args:
        execute: Actions run before re-planning, counted from the observation; at most the horizon.
    """

    def __init__(self, execute: int) -> None:
        if execute < 1:
            raise ValueError(f"receding horizon: execute must be at least 1, got {execute}.")
        self.execute = execute
        self._chunk: Chunk | None = None

    def reset(self) -> None:
        """Forget the chunk."""
        self._chunk = None

    def wants(self, tick: int) -> bool:
        """`execute` ticks after the last observation, or when the chunk is used up."""
        if self._chunk is None or _action_at(self._chunk, tick) is None:
            return True
        return tick - _first_tick(self._chunk) >= self.execute

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Replace the chunk. Raises `ValueError` if it is shorter than `execute`."""
        if len(chunk.actions) < self.execute:
            raise ValueError(
                f"receding horizon: execute={self.execute}, but the chunk has only "
                f"{len(chunk.actions)} actions. Choose execute between 1 and {len(chunk.actions)}."
            )
        self._chunk = chunk

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action of the newest chunk for `tick`."""
        return _action_at(self._chunk, tick)


class TemporalEnsemble:
    """Averages what all chunks so far say about a tick.

    With the predictions for one tick ordered from the oldest (i = 0) to the newest,

        action = sum_i w_i a_i / sum_i w_i,    w_i = exp(-coefficient * i),

    so the oldest counts most, and a smaller coefficient brings new observations in faster. This is a
    weighted mean of whole predictions and not a moving average of past actions.

    Source: Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware",
    section IV-B and algorithm 2 (coefficient 0.01, a new chunk at every tick).

    Args:
        coefficient: 0 weighs all predictions alike; a negative one prefers the newest.
        every: Ticks between two chunks; 1 in the paper.
    """

    def __init__(self, coefficient: float = 0.01, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"temporal ensemble: every must be at least 1, got {every}.")
        self.coefficient = coefficient
        self.every = every
        self._chunks: list[Chunk] = []  # oldest observation first

    def reset(self) -> None:
        """Forget all chunks."""
        self._chunks = []

    def wants(self, tick: int) -> bool:
        """`every` ticks after the newest observation, or when no chunk speaks about `tick`."""
        return self.action(tick) is None or tick - _first_tick(self._chunks[-1]) >= self.every

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Add a chunk and drop those that end before `tick`."""
        live = [old for old in self._chunks if _first_tick(old) + len(old.actions) > tick]
        self._chunks = sorted([*live, chunk], key=_first_tick)

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The weighted mean over all chunks that speak about `tick`."""
        votes = [vote for chunk in self._chunks if (vote := _action_at(chunk, tick)) is not None]
        if not votes:
            return None
        weights = np.exp(-self.coefficient * np.arange(len(votes)))
        return (weights @ np.asarray(votes, np.float64) / weights.sum()).astype(np.float32)


def make_executor(name: str, *, horizon: int, execute: int | None = None) -> Executor:
    """A fresh executor by its registered name.

    Args:
        name: "receding_horizon", "open_loop", "temporal_ensemble" or a registered one, which is
            called with `execute`.
        horizon: Length of the chunks to come.
        execute: Ticks from one chunk to the next; `default_execute` if None. Open loop has no choice.
    """
    execute = default_execute(name, horizon) if execute is None else execute
    kind = lookup("executor", name)
    if not 1 <= execute <= horizon:
        raise ValueError(f"execute must lie between 1 and the horizon {horizon}, got {execute}.")
    if kind is OpenLoop:
        if execute != horizon:
            raise ValueError(
                f"open loop plays all {horizon} actions, got execute={execute}. Use receding_horizon."
            )
        return OpenLoop()
    return kind(every=execute) if kind is TemporalEnsemble else kind(execute=execute)


def default_execute(name: str, horizon: int) -> int:
    """Ticks from one chunk to the next if nobody chose: all for open loop, 1 for an ensemble, else half."""
    kind = lookup("executor", name)
    if kind is OpenLoop:
        return horizon
    return 1 if kind is TemporalEnsemble else (horizon + 1) // 2
