"""How long one policy step takes: raw observation to raw chunk, on one thread."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visuomotor.agent.base import Agent
from visuomotor.evaluation.pool import one_thread
from visuomotor.evaluation.statistics import bootstrap_median
from visuomotor.executors.latency import Latency
from visuomotor.types import Observation, stack_observations

__all__ = ["InferenceTime", "measure_latency"]


@dataclass(frozen=True, kw_only=True)
class InferenceTime:
    """Wall time of `agent.act` in milliseconds.

    Attributes:
        median: Of all calls.
        p99: 99th percentile.
        n: Calls measured.
        low: Lower end of the 95 % bootstrap interval of the median.
        high: Upper end of it.
        first: The first call with a sentence never seen before, which is encoded then.
        threads: Threads in use.
        walls_ms: Each of the measured calls.
    """

    median: float
    p99: float
    n: int
    low: float
    high: float
    first: float
    threads: int = 1
    walls_ms: tuple[float, ...] = ()

    @property
    def law(self) -> Latency:
        """The measured times as a law of delays, for a session or `visuomotor evaluate --latency`."""
        return Latency.measured([wall / 1000 for wall in self.walls_ms])

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, without each call."""
        return {name: value for name, value in asdict(self).items() if name != "walls_ms"}


def measure_latency(
    agent: Agent, observation: Observation, *, calls: int = 200, warmup: int = 10
) -> InferenceTime:
    """Time `calls` policy steps on the same observation.

    Args:
        agent: Its slow part, if any, is called once before and not timed.
        observation: With history 1; repeated to the length that the agent's window asks for.
        calls: Calls that are measured; the sentence is known by then, as it is while acting.
        warmup: Calls before that.
    """
    if calls < 1 or warmup < 1:
        raise ValueError(f"latency: expected at least 1 call and 1 for warming up, got {calls} and {warmup}.")
    length = len(agent.window.history)
    seen = stack_observations([observation] * length, [True] * length)
    generator = np.random.default_rng(0)
    walls = []
    with one_thread():
        context = agent.think(seen, generator=generator)
        for _ in range(warmup + calls):
            began = time.perf_counter()
            agent.act(seen, generator=generator, context=context)
            walls.append(1000 * (time.perf_counter() - began))
    timed = walls[warmup:]
    median, low, high = bootstrap_median(timed, generator=generator)
    return InferenceTime(
        median=median,
        p99=float(np.quantile(timed, 0.99)),
        n=calls,
        low=low,
        high=high,
        first=walls[0],
        walls_ms=tuple(timed),
    )
