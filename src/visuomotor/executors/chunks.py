"""One chunk at a time: to its end, or until the next one arrives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from visuomotor.executors.base import Unbound, action_at, first_tick
from visuomotor.types import Chunk

__all__ = ["OpenLoop", "RecedingHorizon"]


class OpenLoop(Unbound):
    """Plays each chunk to its end, then asks for the next one."""

    def __init__(self) -> None:
        self._chunk: Chunk | None = None

    def reset(self) -> None:
        """Forget the chunk."""
        self._chunk = None

    def wants(self, tick: int) -> bool:
        """When the chunk is used up."""
        return action_at(self._chunk, tick) is None

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Replace the chunk."""
        self._chunk = chunk

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action of the chunk for `tick`."""
        return action_at(self._chunk, tick)


class RecedingHorizon(Unbound):
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
        if self._chunk is None or action_at(self._chunk, tick) is None:
            return True
        return tick - first_tick(self._chunk) >= self.execute

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
        return action_at(self._chunk, tick)
