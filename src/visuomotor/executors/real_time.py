"""Real-time chunking: a new chunk continues the one that is played while it is computed."""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from visuomotor.errors import unknown_name
from visuomotor.executors.base import Promise, action_at, first_tick, rest_of
from visuomotor.types import Chunk

__all__ = ["Reach", "RealTime", "trained_real_time"]

Reach = Literal["chunk", "delay"]


class RealTime:
    """Asks early, and tells the policy what will have been executed when its answer arrives.

    A chunk is asked for `execute` ticks after the observation of the last one, or earlier if no more
    actions are left than the delay takes; the delay is the largest of the last `memory` measured ones.
    Asked at a tick, the policy is given the rest of the present chunk. Its first `delay` actions are
    promised; the others are held with weights that fall to 0 at their end (`generative.prefix`).

    In the paper's letters, for a horizon H: d = delay, s = max(d, s_min) with s_min = `execute`, as no
    chunk is asked for while one is on its way; d <= s <= H - d; and the prefix ends at H - s.

    Source: Black et al. (2025), "Real-time execution of action chunking flow policies", algorithm 1.

    Args:
        execute: Least number of ticks between two observations that chunks come from.
        memory: Measured delays that are remembered; 10 in the paper.
        reach: "chunk" hands on the whole rest; "delay" only what is promised, for policies that were
            trained to continue a clean prefix (`trained_real_time`).
    """

    def __init__(self, execute: int, *, memory: int = 10, reach: Reach = "chunk") -> None:
        if execute < 1:
            raise ValueError(f"real time: execute must be at least 1, got {execute}.")
        if memory < 1:
            raise ValueError(f"real time: memory must be at least 1, got {memory}.")
        if reach not in get_args(Reach):
            raise unknown_name("reach of a prefix", reach, get_args(Reach))
        self.execute = execute
        self.reach = reach
        self._delays: deque[int] = deque(maxlen=memory)
        self.reset()

    @property
    def delay(self) -> int:
        """Ticks that a chunk is expected to take; 0 before the first has arrived."""
        return max(self._delays, default=0)

    def reset(self) -> None:
        """Forget the chunk and the measured delays."""
        self._chunk: Chunk | None = None
        self._asked = 0
        self._delays.clear()

    def wants(self, tick: int) -> bool:
        """`execute` ticks after the last observation, or when the chunk will be used up."""
        if self._chunk is None or len(rest_of(self._chunk, tick)) <= self.delay:
            return True
        return tick - first_tick(self._chunk) >= self.execute

    def promise(self, tick: int) -> Promise | None:
        """The rest of the chunk, of which the ticks of the expected delay are promised."""
        self._asked = tick
        rest = rest_of(self._chunk, tick)
        delay = min(self.delay, len(rest))
        if self.reach == "delay":
            rest = rest[:delay]
        return Promise(rest, delay) if len(rest) else None

    def accept(self, chunk: Chunk, tick: int) -> None:
        """Replace the chunk, and remember how long it took. Raises `ValueError` if it is too short."""
        if len(chunk.actions) < self.execute:
            raise ValueError(
                f"real time: execute={self.execute}, but the chunk has only {len(chunk.actions)} actions. "
                f"Choose execute between 1 and {len(chunk.actions)}."
            )
        self._delays.append(tick - self._asked)
        self._chunk = chunk

    def action(self, tick: int) -> Float32[np.ndarray, " action"] | None:
        """The action of the newest chunk for `tick`."""
        return action_at(self._chunk, tick)


def trained_real_time(execute: int, *, memory: int = 10) -> RealTime:
    """Real-time chunking for policies that were trained to continue a clean prefix.

    They are given only the actions that will have been executed, and keep them exactly: `compact`, `pi0`,
    `pi05` and `diffusion` up to `max_delay` of their configs. Flow and diffusion policies without it are
    steered towards them; others write them over their answer, whose rest does not know of it.

    Source: Black et al. (2025), "Training-time action conditioning for efficient real-time chunking".
    """
    return RealTime(execute, memory=memory, reach="delay")
