"""Which tokens can still lead to a whole chunk: what a model may say next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

__all__ = ["Completion"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A small machine that counts the numbers of a chunk while tokens come in.

    A token adds `counts[state, token]` numbers and leads to `following[state, token]`. With tokens of whole
    numbers there is one state; with tokens of bytes, one for each beginning of a number that may be pending.
    State 0 is that of the start and of every whole number. Three table look-ups are all that a step of
    decoding costs, for any number of sequences at once, and the tables may lie on another device.

    Attributes:
        counts: Numbers that a token completes; 0 where it may not come.
        following: State after a token, -1 where it may not come.
        reachable: Whether exactly this many more numbers can be reached from a state.
    """

    counts: Int64[np.ndarray, "state token"]
    following: Int64[np.ndarray, "state token"]
    reachable: Bool[np.ndarray, "state missing"]

    @classmethod
    def build(
        cls,
        counts: Int64[np.ndarray, "state token"],
        following: Int64[np.ndarray, "state token"],
        most: int,
    ) -> Completion:
        """With `reachable` worked out for chunks of up to `most` numbers."""
        counts = np.where(following >= 0, counts, 0)
        states = len(counts)
        reachable = np.zeros((states, most + 1), bool)
        reachable[0, 0] = True
        steps = [
            np.unique(np.stack([counts[s], following[s]])[:, following[s] >= 0], axis=1)
            for s in range(states)
        ]
        for missing in range(most + 1):
            for _ in range(
                states
            ):  # a token may complete nothing, and then as many are missing in the next state
                before = reachable[:, missing].copy()
                for state, (added, to) in enumerate(steps):
                    fits = added <= missing
                    reachable[state, missing] |= reachable[to[fits], missing - added[fits]].any()
                if np.array_equal(before, reachable[:, missing]):
                    break
        return cls(counts=counts, following=following, reachable=reachable)

    def start(self, count: int) -> tuple[Int64[np.ndarray, " sequence"], Int64[np.ndarray, " sequence"]]:
        """States and missing numbers of `count` sequences that have no token yet."""
        return np.zeros(count, np.int64), np.full(count, self.reachable.shape[1] - 1, np.int64)

    def mask(
        self, state: Int64[np.ndarray, " sequence"], missing: Int64[np.ndarray, " sequence"]
    ) -> Bool[np.ndarray, "sequence token"]:
        """True for each token after which exactly `missing` numbers can be reached; none once all are."""
        counts, following = self.counts[state], self.following[state]
        left = missing[:, None] - counts
        return (
            (following >= 0)
            & (left >= 0)
            & self.reachable[following, np.maximum(left, 0)]
            & (missing > 0)[:, None]
        )

    def step(
        self,
        state: Int64[np.ndarray, " sequence"],
        missing: Int64[np.ndarray, " sequence"],
        token: Int64[np.ndarray, " sequence"],
    ) -> tuple[Int64[np.ndarray, " sequence"], Int64[np.ndarray, " sequence"]]:
        """States and missing numbers after one more token each, of those that `mask` allows."""
        return self.following[state, token], missing - self.counts[state, token]

    def after(self, tokens: Sequence[int]) -> Bool[np.ndarray, " token"]:
        """The mask after the tokens of one sequence; all False if they are whole or can lead nowhere."""
        nothing = np.zeros(self.counts.shape[1], bool)
        state, missing = 0, self.reachable.shape[1] - 1
        for token in tokens:
            if not 0 <= token < len(nothing) or self.following[state, token] < 0:
                return nothing
            missing -= int(self.counts[state, token])
            state = int(self.following[state, token])
            if missing < 0 or not self.reachable[state, missing]:
                return nothing
        return self.mask(np.array([state]), np.array([missing]))[0]
