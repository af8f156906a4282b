"""What every executor speaks.

An executor decides when a new chunk is wanted and which of the known actions belongs to a tick. It
runs on a clock that counts ticks, so the clock can be virtual and an inference delay can be part of a
simulation. A chunk says when it was observed (`Chunk.time`): its action number i belongs to tick
`time * rate + i`, whenever it arrives. Actions whose tick has passed by then are skipped.

Executors are the memory of a `Session`, which owns and resets them; share none between sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from visuomotor.types import Chunk

__all__ = ["Executor", "Promise", "Unbound", "action_at", "first_tick", "rest_of"]


@dataclass(frozen=True)
class Promise:
    """What the next chunk has to continue.

    Attributes:
        actions: float32 (prefix, action) for the tick of the observation and the following ones, raw units.
        delay: How many of them are expected to have run when the chunk arrives; at most all.
    """

    actions: np.ndarray
    delay: int


@runtime_checkable
class Executor(Protocol):
    """Chunks in, one action per tick out."""

    def reset(self) -> None:
        """Forget every chunk; tick 0 comes next."""
        ...

    def wants(self, tick: int) -> bool:
        """Whether a new chunk should be asked for with the observation of `tick`."""
        ...

    def promise(self, tick: int) -> Promise | None:
        """What the chunk that is asked for at `tick` has to continue; called once, when it is asked for."""
        ...

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Take in a chunk that arrived in time for `tick`."""
        ...

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action for `tick`, raw units; None if no chunk has one."""
        ...


class Unbound:
    """Executors whose chunks need not continue anything."""

    def promise(self, tick: int) -> Promise | None:
        """Nothing is promised."""
        return None


def first_tick(chunk: Chunk) -> int:
    """The tick that the first action of `chunk` belongs to."""
    return round(chunk.time * chunk.rate)


def action_at(chunk: Chunk | None, tick: int) -> np.ndarray | None:
    """What `chunk` says for `tick`; None before it, after it, and where it has no opinion."""
    if chunk is None:
        return None
    index = tick - first_tick(chunk)
    if not 0 <= index < len(chunk.actions) or (chunk.mask is not None and not chunk.mask[index]):
        return None
    return chunk.actions[index]


def rest_of(chunk: Chunk | None, tick: int) -> np.ndarray:
    """Actions (rest, action) of `chunk` from `tick` on, as far as they follow without a gap."""
    if chunk is None:
        return np.zeros((0, 0), np.float32)
    index = tick - first_tick(chunk)
    if not 0 <= index < len(chunk.actions):
        return chunk.actions[:0]
    rest = chunk.actions[index:]
    if chunk.mask is None or chunk.mask[index:].all():
        return rest
    return rest[: int(np.argmin(chunk.mask[index:]))]
