"""A point in a plane under Gymnasium, and who moves it, for tests of learning in foreign environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from visuomotor.envs.gym import FromGym
from visuomotor.types import Dimension, Spec

SPEC = Spec(
    embodiment="point",
    cameras=(),
    state=tuple(Dimension(name=name) for name in ("x", "y", "ahead", "aside")),
    action=tuple(Dimension(name=name, low=-0.25, high=0.25) for name in ("right", "up")),
    rate=10.0,
)


class Point(gymnasium.Env):
    """Move a point to a goal, by at most 0.25 a tick, within 20 ticks."""

    observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-4, 4, (4,), np.float32)})
    action_space = gymnasium.spaces.Box(-0.25, 0.25, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.ticks = 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place = self.place + np.clip(action, -0.25, 0.25)
        self.ticks += 1
        there = bool(np.linalg.norm(self.goal - self.place) < 0.1)
        return self._seen(), float(there), there, self.ticks >= 20, {}

    def _seen(self) -> dict[str, Any]:
        return {"state": np.array([*self.place, *(self.goal - self.place)], np.float32)}


def make_point(*, task: str) -> FromGym:
    """The environment behind our contract."""
    return FromGym(Point(), SPEC, instruction=task)


class PointExpert:
    """Goes straight to the goal."""

    def __call__(self, env: FromGym) -> np.ndarray:
        inner: Any = env.env
        return np.clip(inner.goal - inner.place, -0.25, 0.25).astype(np.float32)
