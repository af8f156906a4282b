"""One episode's worth of acting: the only stateful object between an agent and a robot.

A session sees every tick. It keeps the history that the agent's window asks for, asks for a chunk when
its executor wants one, and lets the answer arrive late if told to: the clock counts ticks, so an
inference delay is part of a simulation without waiting for it.

    look ─► history ─► agent.act ─► (latency) ─► executor ─► one action per tick

While no action is known, the robot holds (`Spec.hold`). Ticks spent holding move nothing, so they do
not use up a chunk that is on its way: it starts where the robot stands when it arrives.

The slow part of an agent (`think`) may run at a rate of its own beside this: a thought is put down when
it is ready, and every chunk asked for from then on is made with it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from visuomotor.agent.base import Agent
from visuomotor.executors.base import Executor
from visuomotor.executors.latency import Latency
from visuomotor.executors.safety import SafetyFilter
from visuomotor.executors.standing import standing
from visuomotor.types import Chunk, Observation, Spec, stack_observations

__all__ = ["Session"]


@dataclass
class _Pending:
    """A chunk on its way: when it was observed and is due, and how many ticks were only held since."""

    chunk: Chunk
    observed: int
    due: int
    held: int = 0


@dataclass
class _Thought:
    """What the slow part thought, and the tick from which on it is known."""

    context: Any
    due: int


class Session:
    """Agent and executor at work; `reset` before each episode, then `tick` once per control period.

    Args:
        agent: Any agent.
        executor: Owned by this session from now on.
        latency: Seconds from observation to the arrival of its chunk, rounded up to ticks; or a law of
            them, from which each chunk's delay is drawn.
        think_every: Least number of ticks between two calls of the agent's slow part. A thought is used
            by every `act` until the next one.
        think_latency: The same as `latency` for a thought. Without delay the slow part is called only
            when a chunk is wanted; with one it keeps its own rate, and nothing is asked for before the
            first thought is there.
        safety: Has the last word about every command; owned by this session, too.

    Attributes:
        inference_ms: Wall time of each call of the agent since the reset.
        failures: `Chunk.failure` of each answer without usable actions since the reset.
        delays: Ticks that each chunk took since the reset.
        holds: Ticks since the reset at which no action was known.
        stale: Ticks since the reset whose action is of an older chunk than the one on its way.
    """

    def __init__(
        self,
        agent: Agent,
        executor: Executor,
        *,
        latency: float | Latency = 0.0,
        think_every: int = 1,
        think_latency: float | Latency = 0.0,
        safety: SafetyFilter | None = None,
    ) -> None:
        if think_every < 1:
            raise ValueError(f"session: think_every must be at least 1, got {think_every}.")
        self.agent = agent
        self.executor = executor
        self.latency = Latency.of(latency)
        self.think_every = think_every
        self.think_latency = Latency.of(think_latency)
        self.safety = safety
        self.reset(0)

    @property
    def spec(self) -> Spec:
        """The body that the agent knows."""
        return self.agent.spec

    def reset(self, seed: int) -> None:
        """Forget everything; `seed` decides every random number until the next reset."""
        self.executor.reset()
        # The second word keeps these streams apart from an environment that is seeded with `seed` alone.
        self._generator = np.random.default_rng([seed, 1])
        self._delays = np.random.default_rng([seed, 2])
        self._tick = 0
        self._past: deque[Observation] = deque(maxlen=1 - self.agent.window.history[0])
        self._pending: _Pending | None = None
        self._previous: np.ndarray | None = None
        self._newest: int | None = None
        self._context: Any = None
        self._thought: int | None = None
        self._thinking: _Thought | None = None
        self._ready = self.think_latency.mean == 0
        self.inference_ms: list[float] = []
        self.failures: list[str] = []
        self.delays: list[int] = []
        self.holds = 0
        self.stale = 0

    def tick(self, look: Callable[[], Observation]) -> Float32[np.ndarray, " action"]:
        """The action for this tick, raw units.

        Args:
            look: Gives the current observation with history 1. It is called at most once, and only if
                the window has a history, if a chunk or a thought is wanted, or if the robot must learn
                where it stands.

        Raises:
            ValueError: The agent's chunk has a wrong shape or rate, or a number that is not finite.
        """
        now = self._tick
        seen: Observation | None = None
        if self._past.maxlen != 1 or (self.safety is not None and now == 0):
            seen = self._remember(look())
        if self.safety is not None and seen is not None and now == 0:
            self.safety.begin(seen)
        if self._pending is not None and self._pending.due <= now:
            self._deliver(self._pending)
        if self.think_latency.mean > 0 and self._wants_thought(now):
            seen = seen or self._remember(look())
            self._think(now)
        if self._pending is None and self._ready and self.executor.wants(now):
            seen = seen or self._remember(look())
            delay = self.latency.draw(self.spec.rate, self._delays)
            self._pending = _Pending(self._ask(now), observed=now, due=now + delay)
            if delay == 0:
                self._deliver(self._pending)
        self._previous = self._act(now, seen, look)
        self._tick = now + 1
        return self._previous

    def _act(self, now: int, seen: Observation | None, look: Callable[[], Observation]) -> np.ndarray:
        """What the executor says about this tick, or what keeps the robot where it is; within its limits."""
        action = self.executor.action(now)
        if action is None:
            self.holds += 1
            if self._pending is not None:
                self._pending.held += 1
        elif self._pending is not None:
            self.stale += 1
        if self.safety is not None:
            age = 0.0 if self._newest is None else (now - self._newest) / self.spec.rate
            return self.safety.command(action, age=age)
        return np.asarray(self._hold(seen, look) if action is None else action, np.float32)

    def _wants_thought(self, now: int) -> bool:
        """Take a thought that is ready; whether the next one should be begun."""
        if self._thinking is not None and self._thinking.due <= now:
            self._context, self._thinking, self._ready = self._thinking.context, None, True
        return self._thinking is None and (self._thought is None or now - self._thought >= self.think_every)

    def _think(self, now: int) -> None:
        """Begin a thought; an agent without a slow part has none and is ready at once."""
        context = self.agent.think(self._history(), generator=self._generator)
        self._thought = now
        if context is None:
            self._ready = True
            return
        due = now + self.think_latency.draw(self.spec.rate, self._delays)
        self._thinking = _Thought(context, due)

    def _remember(self, observation: Observation) -> Observation:
        """Append to the history; `observation` must come with history 1."""
        if len(observation.state) != 1:
            raise ValueError(
                f"session: expected an observation with history 1, got {len(observation.state)}. "
                "History is the session's work; return one tick from observe()."
            )
        self._past.append(observation)
        return observation

    def _history(self) -> Observation:
        """The observation that the window asks for; before the reset the first one, masked out."""
        newest = len(self._past) - 1
        places = [newest + offset for offset in self.agent.window.history]
        return stack_observations(
            [self._past[max(place, 0)] for place in places], [place >= 0 for place in places]
        )

    def _ask(self, now: int) -> Chunk:
        """The agent's checked answer to the present history, timed."""
        observation = self._history()
        began = time.perf_counter()
        lazy = self.think_latency.mean == 0
        if lazy and (self._thought is None or now - self._thought >= self.think_every):
            self._context = self.agent.think(observation, generator=self._generator)
            self._thought = now
        promise = self.executor.promise(now)
        chunk = self.agent.act(
            observation,
            generator=self._generator,
            context=self._context,
            prefix=None if promise is None else promise.actions,
            delay=self.latency.typical(self.spec.rate) if promise is None else promise.delay,
        )
        self.inference_ms.append(1000 * (time.perf_counter() - began))
        _check(chunk, self.spec)
        return chunk

    def _deliver(self, pending: _Pending) -> None:
        """Hand a chunk to the executor, or note why there is none."""
        self._pending = None
        self.delays.append(self._tick - pending.observed)
        if pending.chunk.failure is not None:
            self.failures.append(pending.chunk.failure)
            return
        self._newest = pending.observed
        start = pending.observed + pending.held
        self.executor.accept(replace(pending.chunk, time=start / pending.chunk.rate), self._tick)

    def _hold(self, seen: Observation | None, look: Callable[[], Observation]) -> np.ndarray:
        """The action that stays: where the last one led, or where the robot stands if there was none."""
        if self._previous is not None:
            return self.spec.hold(self._previous)
        return self.spec.hold(standing(self.spec, seen or self._remember(look())))


def _check(chunk: Chunk, spec: Spec) -> None:
    """Raise `ValueError` unless `chunk` is a failure or holds usable actions for `spec`."""
    if chunk.failure is not None:
        return
    width = len(spec.action)
    if chunk.actions.ndim != 2 or chunk.actions.shape[1] != width or len(chunk.actions) == 0:
        raise ValueError(
            f"chunk for embodiment {spec.embodiment!r}: expected actions (horizon, {width}), "
            f"got {tuple(chunk.actions.shape)}. Was the agent made for another body?"
        )
    if chunk.rate != spec.rate:
        raise ValueError(
            f"chunk for embodiment {spec.embodiment!r}: expected {spec.rate} Hz, got {chunk.rate} Hz."
        )
    if chunk.mask is not None and chunk.mask.shape != (len(chunk.actions),):
        raise ValueError(
            f"chunk: expected a mask of shape ({len(chunk.actions)},), got {tuple(chunk.mask.shape)}."
        )
    real = chunk.actions if chunk.mask is None else chunk.actions[chunk.mask]
    if not np.isfinite(real).all():
        bad = [spec.action[column].name for column in np.flatnonzero(~np.isfinite(real).all(axis=0))]
        raise ValueError(
            f"chunk for embodiment {spec.embodiment!r}: actions are not finite in {', '.join(bad)}. "
            "An agent that has no usable actions must say so in Chunk.failure."
        )
