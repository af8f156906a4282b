"""A queue of actions that is filled up while it is played."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from visuomotor.errors import unknown_name
from visuomotor.executors.base import Unbound, action_at, first_tick
from visuomotor.types import Chunk

__all__ = ["Asynchronous", "Overlap"]

Overlap = Literal["latest_only", "weighted_average", "average", "conservative"]

_SHARE = {"latest_only": 1.0, "weighted_average": 0.7, "average": 0.5, "conservative": 0.3}
"""How much the new action counts where an old one waits for the same tick; names as in LeRobot."""


class Asynchronous(Unbound):
    """Asks for a chunk while actions are left, and merges it with those that wait for the same ticks.

    A chunk is asked for when `waiting / horizon < threshold`, `waiting` being the actions from this tick
    on and `horizon` the length of the last chunk. Where both have an action for a tick,

        action = (1 - share) * old + share * new,

    with the share that `overlap` names: "latest_only" 1, "weighted_average" 0.7, "average" 0.5,
    "conservative" 0.3. A threshold of 0 asks when the queue is empty, as open loop does; 1 asks after
    every tick.

    Source: Shukor et al. (2025), "SmolVLA", section 3.3 and algorithm 1 (threshold 0.7).

    Args:
        threshold: In [0, 1].
        overlap: Rule by which old and new actions for one tick become one.
    """

    def __init__(self, threshold: float = 0.7, overlap: Overlap = "weighted_average") -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"asynchronous: threshold must lie in [0, 1], got {threshold}.")
        if overlap not in get_args(Overlap):
            raise unknown_name("overlap rule", overlap, get_args(Overlap))
        self.threshold = threshold
        self.overlap = overlap
        self.reset()

    def reset(self) -> None:
        """Empty the queue."""
        self._queue: dict[int, np.ndarray] = {}  # tick -> action
        self._horizon = 0

    def wants(self, tick: int) -> bool:
        """When the queue is short, or has no action for `tick`."""
        if tick not in self._queue:
            return True
        waiting = sum(later >= tick for later in self._queue)
        return waiting < self.threshold * self._horizon

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Merge a chunk into the queue; actions whose tick has passed are left out."""
        share, self._horizon = _SHARE[self.overlap], len(chunk.actions)
        queue = {later: action for later, action in self._queue.items() if later >= tick}
        start = first_tick(chunk)
        for later in range(max(start, tick), start + len(chunk.actions)):
            new = action_at(chunk, later)
            if new is None:
                continue
            old = queue.get(later)
            merged = new if old is None else (1 - share) * old + share * new
            queue[later] = np.asarray(merged, np.float32)
        self._queue = queue

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action that waits for `tick`."""
        return self._queue.get(tick)
