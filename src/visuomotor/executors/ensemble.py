"""Every tick is decided by all chunks that speak about it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from visuomotor.errors import unknown_name
from visuomotor.executors.base import Unbound, action_at, first_tick
from visuomotor.types import Chunk

__all__ = ["Order", "TemporalEnsemble"]

Order = Literal["oldest_first", "uniform", "newest_first"]


class TemporalEnsemble(Unbound):
    """Averages what all chunks so far say about a tick.

    With n predictions for one tick, numbered in `order`,

        action = sum_i w_i a_i / sum_i w_i,    w_i = exp(-coefficient * i).

    "oldest_first" is ACT's: i = 0 is the oldest, it counts most, and a smaller coefficient brings new
    observations in faster. "newest_first" numbers them the other way round. "uniform" weighs them
    alike, as Octo does. This is a weighted mean of whole predictions and not a moving average of past
    actions; which chunks speak is counted, whatever numbers they hold.

    Sources: Zhao et al. (2023), "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware",
    section IV-B and algorithm 2 (coefficient 0.01, a new chunk at every tick). Octo Model Team (2024).

    Args:
        coefficient: 0 or more; not looked at by "uniform".
        every: Ticks between two chunks; 1 in the paper.
        order: Which prediction is number 0.
    """

    def __init__(self, coefficient: float = 0.01, every: int = 1, order: Order = "oldest_first") -> None:
        if every < 1:
            raise ValueError(f"temporal ensemble: every must be at least 1, got {every}.")
        if not (np.isfinite(coefficient) and coefficient >= 0):
            raise ValueError(
                f"temporal ensemble: coefficient must be 0 or more, got {coefficient}. "
                'To prefer new predictions choose order="newest_first".'
            )
        if order not in get_args(Order):
            raise unknown_name("order of an ensemble", order, get_args(Order))
        self.coefficient = coefficient
        self.every = every
        self.order = order
        self._chunks: list[Chunk] = []  # oldest observation first

    def reset(self) -> None:
        """Forget all chunks."""
        self._chunks = []

    def wants(self, tick: int) -> bool:
        """`every` ticks after the newest observation, or when no chunk speaks about `tick`."""
        return self.action(tick) is None or tick - first_tick(self._chunks[-1]) >= self.every

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Add a chunk and drop those that end before `tick`."""
        live = [old for old in self._chunks if first_tick(old) + len(old.actions) > tick]
        self._chunks = sorted([*live, chunk], key=first_tick)

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The weighted mean over all chunks that speak about `tick`."""
        votes = [vote for chunk in self._chunks if (vote := action_at(chunk, tick)) is not None]
        if not votes:
            return None
        weights = np.exp(-self.coefficient * np.arange(len(votes)))
        if self.order == "uniform":
            weights = np.ones(len(votes))
        elif self.order == "newest_first":
            weights = weights[::-1]
        return (weights @ np.asarray(votes, np.float64) / weights.sum()).astype(np.float32)
