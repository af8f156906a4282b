"""One episode's worth of acting: the only stateful object between an agent and a robot.

A session sees every tick. It keeps the history that the agent's window asks for, asks for a chunk when
its executor wants one, and lets the answer arrive late if told to: the clock counts ticks, so an
inference delay is part of a simulation without waiting for it.

    look ─► history ─► agent.act ─► (latency) ─► executor ─► one action per tick

While no action is known, the robot holds (`Spec.hold`). Ticks spent holding move nothing, so they do
not use up a chunk that is on its way: it starts where the robot stands when it arrives.
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
from visuomotor.executors import Executor
from visuomotor.types import Chunk, Observation, Spec, stack_observations, ticks

__all__ = ["Session"]


@dataclass
class _Pending:
    """A chunk on its way: when it was observed and is due, and how many ticks were only held since."""

    chunk: Chunk
    observed: int
    due: int
    held: int = 0


class Session:
    """Agent and executor at work; `reset` before each episode, then `tick` once per control period.

    Args:
        agent: Any agent; its slow part (`think`) is called only when a chunk is wanted.
        executor: Owned by this session from now on.
        latency: Seconds from observation to the arrival of its chunk, rounded up to ticks.
        think_every: Least number of ticks between two calls of the agent's slow part. A thought is
            used by every `act` until the next one; the time it takes is not simulated.

    Attributes:
        inference_ms: Wall time of each call of the agent since the reset.
        failures: `Chunk.failure` of each answer without usable actions since the reset.
        holds: Ticks since the reset at which no action was known.
    """

    def __init__(
        self, agent: Agent, executor: Executor, *, latency: float = 0.0, think_every: int = 1
    ) -> None:
        if not (np.isfinite(latency) and latency >= 0):
            raise ValueError(f"session: latency must be a number of seconds, 0 or more, got {latency}.")
        if think_every < 1:
            raise ValueError(f"session: think_every must be at least 1, got {think_every}.")
        self.agent = agent
        self.executor = executor
        self.delay = ticks(latency, agent.spec.rate)
        self.think_every = think_every
        self.reset(0)

    @property
    def spec(self) -> Spec:
        """The body that the agent knows."""
        return self.agent.spec

    def reset(self, seed: int) -> None:
        """Forget everything; `seed` decides every random number until the next reset."""
        self.executor.reset()
        # The second word keeps this stream apart from an environment that is seeded with `seed` alone.
        self._generator = np.random.default_rng([seed, 1])
        self._tick = 0
        self._past: deque[Observation] = deque(maxlen=1 - self.agent.window.history[0])
        self._pending: _Pending | None = None
        self._previous: np.ndarray | None = None
        self._context: Any = None
        self._thought: int | None = None
        self.inference_ms: list[float] = []
        self.failures: list[str] = []
        self.holds = 0

    def tick(self, look: Callable[[], Observation]) -> Float32[np.ndarray, " action"]:
        """The action for this tick, raw units.

        Args:
            look: Gives the current observation with history 1. It is called at most once, and only if
                the window has a history, if a chunk is wanted, or if the robot must learn where it stands.

        Raises:
            ValueError: The agent's chunk has a wrong shape or rate, or a number that is not finite.
        """
        now = self._tick
        seen: Observation | None = None
        if self._past.maxlen != 1:
            seen = self._remember(look())
        if self._pending is not None and self._pending.due <= now:
            self._deliver(self._pending)
        if self._pending is None and self.executor.wants(now):
            seen = seen or self._remember(look())
            self._pending = _Pending(self._ask(now), observed=now, due=now + self.delay)
            if self.delay == 0:
                self._deliver(self._pending)
        action = self.executor.action(now)
        if action is None:
            self.holds += 1
            if self._pending is not None:
                self._pending.held += 1
            action = self._hold(seen, look)
        self._previous = np.asarray(action, np.float32)
        self._tick = now + 1
        return self._previous

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
        if self._thought is None or now - self._thought >= self.think_every:
            self._context = self.agent.think(observation, generator=self._generator)
            self._thought = now
        chunk = self.agent.act(
            observation, generator=self._generator, context=self._context, delay=self.delay
        )
        self.inference_ms.append(1000 * (time.perf_counter() - began))
        _check(chunk, self.spec)
        return chunk

    def _deliver(self, pending: _Pending) -> None:
        """Hand a chunk to the executor, or note why there is none."""
        self._pending = None
        if pending.chunk.failure is not None:
            self.failures.append(pending.chunk.failure)
            return
        start = pending.observed + pending.held
        self.executor.accept(replace(pending.chunk, time=start / pending.chunk.rate), self._tick)

    def _hold(self, seen: Observation | None, look: Callable[[], Observation]) -> np.ndarray:
        """The action that stays: where the last one led, or where the robot stands if there was none."""
        if self._previous is not None:
            return self.spec.hold(self._previous)
        return self.spec.hold(_standing(self.spec, seen or self._remember(look())))


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


def _standing(spec: Spec, observation: Observation) -> np.ndarray:
    """Where the robot stands, as an action: absolute dimensions read from the state, deltas 0.

    A dimension is found in the state by its name, else by its place among those of its kind.
    """
    state = observation.state[-1]
    names = [dimension.name for dimension in spec.state]
    action = np.zeros(len(spec.action), np.float32)
    for index, dimension in enumerate(spec.action):
        if dimension.kind.endswith("_delta"):
            continue
        same_kind = [place for place, other in enumerate(spec.state) if other.kind == dimension.kind]
        peers = [other.name for other in spec.action if other.kind == dimension.kind]
        if dimension.name in names:
            action[index] = state[names.index(dimension.name)]
        elif len(same_kind) == len(peers):
            action[index] = state[same_kind[peers.index(dimension.name)]]
        else:
            raise ValueError(
                f"embodiment {spec.embodiment!r}: cannot hold before the first action, because the state "
                f"does not tell the present value of {dimension.name!r}. Name a state dimension like it, "
                "or set latency to 0."
            )
    return action
