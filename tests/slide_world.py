"""A world that takes no time: a cursor that is to come to rest at a mark. Imported by worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visuomotor.data.synthetic import SPEC
from visuomotor.envs.base import Status
from visuomotor.errors import unknown_name
from visuomotor.types import Observation


class SlideWorld:
    """Every seventh seed fails; `slow` seconds are spent in each episode."""

    def __init__(self, *, task: str = "slide", slow: float = 0.0) -> None:
        if task not in ("slide", "hopeless"):
            raise unknown_name("task", task, ("slide", "hopeless"))
        self.spec = SPEC
        self.task = task
        self.slow = slow

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        generator = np.random.default_rng(seed)
        self.cursor, self.mark = generator.uniform(0.2, 0.8, (2, 2))
        self.fails = self.task == "hopeless" or seed % 7 == 6
        self.ticks = 0
        time.sleep(self.slow)
        return self.observe()

    def step(self, action: np.ndarray) -> Status:
        assert "OMP_NUM_THREADS" in os.environ
        self.cursor = np.clip(self.cursor + action[:2], 0, 1)
        self.ticks += 1
        there = bool(np.abs(self.cursor - self.mark).max() < 0.05) and not self.fails
        late = self.ticks >= 12
        failure = None if there or not late else "out of time"
        return Status(success=there, done=there or late, progress=float(there), failure=failure)

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        images = {}
        for camera in self.spec.cameras:
            picture = np.full((camera.height, camera.width, 3), 40, np.uint8)
            row, column = (self.cursor * (camera.height - 4, camera.width - 4)).astype(int)
            picture[row : row + 4, column : column + 4] = 230
            images[camera.name] = picture[None]
        state = np.array([[*self.cursor, 0.0]], np.float32)
        return Observation(images=images, state=state, instruction="slide to the mark", embodiment="cursor")

    def instructions(self, count: int) -> tuple[str, ...]:
        return ("slide to the mark", "go to the mark", "mark, please", "the mark")[:count]

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class MuteWorld(SlideWorld):
    """Knows one wording only."""

    instructions = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "instructions":
            raise AttributeError(name)
        return super().__getattribute__(name)


class SlideExpert:
    """Goes straight to the mark."""

    def __call__(self, env: SlideWorld) -> np.ndarray:
        return np.array([*np.clip(env.mark - env.cursor, -0.1, 0.1), 0.0], np.float32)


class BrokenExpert(SlideExpert):
    """Raises at the fourth seed's mark."""

    def __call__(self, env: SlideWorld) -> np.ndarray:
        if np.array_equal(env.mark, np.random.default_rng(3).uniform(0.2, 0.8, (2, 2))[1]):
            raise ArithmeticError("no way to the mark")
        return super().__call__(env)


class MortalExpert(SlideExpert):
    """Takes its whole process along at the fourth seed's mark."""

    def __call__(self, env: SlideWorld) -> np.ndarray:
        if np.array_equal(env.mark, np.random.default_rng(3).uniform(0.2, 0.8, (2, 2))[1]):
            time.sleep(1)  # what was finished is on its way through a pipe; here it arrives
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(env)
