"""The endless order in which samples are seen: a pure function of seed and position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from visuomotor.data.mixture import Interleave

__all__ = ["Order", "Stream"]


class Stream(NamedTuple):
    """Rows that are shuffled together, and which part of all samples they are to be."""

    rows: Int64[np.ndarray, " row"]
    share: float


class Order:
    """Several streams at once, each shuffled anew whenever all of its rows were seen.

    Args:
        streams: Those without rows or share are left out; at least one must have both.
        seed: What they are shuffled by.
    """

    def __init__(self, streams: Sequence[Stream], seed: tuple[int, ...]) -> None:
        known = [stream for stream in streams if len(stream.rows) and stream.share > 0]
        self._shuffled = [_Shuffled(stream.rows, (*seed, number)) for number, stream in enumerate(known)]
        self._interleave = Interleave([stream.share for stream in known], seed)

    def take(self, start: int, count: int) -> list[int]:
        """The rows at `count` positions from `start` on."""
        streams, ranks = self._interleave.take(start, count)
        return [self._shuffled[stream].at(rank) for stream, rank in zip(streams.tolist(), ranks.tolist())]


class _Shuffled:
    """Rows in an endless order; the last two epochs are kept, as a batch may need both."""

    def __init__(self, rows: np.ndarray, seed: tuple[int, ...]) -> None:
        self._rows, self._seed = rows, seed
        self._epochs: dict[int, np.ndarray] = {}

    def at(self, position: int) -> int:
        """The row at a position."""
        epoch, place = divmod(position, len(self._rows))
        if epoch not in self._epochs:
            order = np.random.default_rng([*self._seed, epoch]).permutation(self._rows)
            kept = {known: rows for known, rows in self._epochs.items() if known >= epoch - 1}
            self._epochs = kept | {epoch: order}
        return int(self._epochs[epoch][place])
