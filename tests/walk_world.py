"""A grid world with an expert, for the tests of DAgger. Imported by worker processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from grid_world import GridWorld, grid_spec

from visuomotor.envs.base import Status
from visuomotor.types import Camera, Dimension, Observation

SPEC = replace(
    grid_spec(),
    cameras=(Camera(name="top", height=16, width=16),),
    state=tuple(Dimension(name=name) for name in ("x", "y", "ahead", "aside")),
)


class WalkWorld(GridWorld):
    """Walk to a token; the state also tells where it lies from here. The world draws its own wind."""

    def __init__(self, *, task: str = "walk", max_ticks: int = 16, wind: float = 0.0) -> None:
        super().__init__(max_ticks=max_ticks)
        self.spec = SPEC
        self.task, self.wind = task, wind

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        self.weather = np.random.default_rng([seed, 9])
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> Status:
        assert action.dtype == np.float32
        assert np.isfinite(action).all()
        blown = action + np.float32(self.wind * self.weather.normal(size=3)).astype(np.float32)
        return super().step(np.array([*blown[:2], action[2]], np.float32))

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        way = self.tokens[self.goal] - self.position
        seen = super().observe(cameras)
        return replace(seen, state=np.array([[*self.position, *way]], np.float32))

    def snapshot(self) -> bytes:
        told = [list(self.position), self.horn, self.tick, self.stayed, self.weather.bit_generator.state]
        return json.dumps(told).encode()

    def restore(self, snapshot: bytes) -> None:
        position, self.horn, self.tick, self.stayed, self.weather.bit_generator.state = json.loads(snapshot)
        self.position = np.array(position)

    def instructions(self, count: int) -> tuple[str, ...]:
        return (self.instruction, f"{self.instruction}, please")[:count]


class HornWorld(WalkWorld):
    """The state tells of the horn as well, so that it is known how to stand still."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.spec = replace(SPEC, state=(*SPEC.state, Dimension(name="horn")))

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        seen = super().observe(cameras)
        return replace(seen, state=np.append(seen.state, [[np.float32(self.horn)]], axis=1))


class WalkExpert:
    """Goes straight to the token; blows the horn close to it."""

    def __call__(self, env: WalkWorld) -> np.ndarray:
        way = env.tokens[env.goal] - env.position
        return np.array([*np.clip(way, -0.8, 0.8), float(np.abs(way).max() < 1)], np.float32)


class LostExpert(WalkExpert):
    """Stays where it is."""

    def __call__(self, env: WalkWorld) -> np.ndarray:
        return np.zeros(3, np.float32)


class Person:
    """Corrects what leads away from the token, and shows the whole task while nobody else acts."""

    expert = None

    def __call__(self, env: Any, observation: Observation, action: np.ndarray | None) -> np.ndarray | None:
        way = observation.state[-1, 2:]
        right = np.array([*np.clip(way, -1, 1), 0.0], np.float32)
        if action is None:
            return right
        return right if float(way @ action[:2]) < 0 else None


class SilentPerson(Person):
    """Never says anything."""

    def __call__(self, env: Any, observation: Observation, action: np.ndarray | None) -> None:
        return None
