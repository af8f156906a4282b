"""A small world for the tests of acting and evaluating: tokens on a grid, and a sentence that names one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visuomotor.agent.base import ScriptedAgent
from visuomotor.envs.base import Status
from visuomotor.errors import unknown_name
from visuomotor.types import Camera, Dimension, Observation, Spec, Window

SIZE = 9
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 80, 220)}
SENTENCES = {
    "train": "walk to the {}",
    "phrasing": "the {} is where you should be",
    "words": "stroll to the {}",
}


def grid_spec(camera: int = 10) -> Spec:
    return Spec(
        embodiment="walker",
        cameras=(Camera(name="top", height=camera, width=camera), Camera(name="side", height=4, width=4)),
        state=(Dimension(name="x"), Dimension(name="y"), Dimension(name="horn")),
        action=(
            Dimension(name="dx", kind="ee_delta", low=-1.0, high=1.0),
            Dimension(name="dy", kind="ee_delta", low=-1.0, high=1.0),
            Dimension(name="horn", kind="gripper", low=0.0, high=1.0),
        ),
        rate=5.0,
    )


class GridWorld:
    """Tokens of three colors; walking onto one for two ticks counts as reaching it."""

    def __init__(self, *, max_ticks: int = 30, camera: int = 10, goals_known: bool = True) -> None:
        self.spec = grid_spec(camera)
        self.max_ticks = max_ticks
        self.looks = 0
        self.reset_options: list[dict[str, Any]] = []
        if not goals_known:
            self.goals = None  # type: ignore[assignment]

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        options = dict(options or {})
        self.reset_options.append(options)
        for name in options:
            if name not in ("goal", "instruction", "split"):
                raise unknown_name("option", name, ("goal", "instruction", "split"))
        generator = np.random.default_rng(seed)
        cells = generator.choice(SIZE * SIZE, size=4, replace=False)
        places = [np.array(divmod(int(cell), SIZE), np.float64) for cell in cells]
        self.position = places[3]
        self.tokens = dict(zip(COLORS, places[:3]))
        self.usual = list(COLORS)[int(generator.integers(3))]
        self.goal = options.get("goal", self.usual)
        split = options.get("split", "train")
        if split not in SENTENCES:
            raise unknown_name("split", split, SENTENCES)
        sentence = SENTENCES[split].format(self.goal)
        self.instruction = options.get("instruction", sentence)
        self.horn = 0.0
        self.tick = 0
        self.stayed = 0
        return self.observe()

    def goals(self) -> tuple[str, ...]:
        return tuple(self.tokens)

    def step(self, action: np.ndarray) -> Status:
        before = self._reached()
        self.position = np.clip(self.position + np.clip(action[:2], -1, 1), 0, SIZE - 1)
        self.horn = float(action[2])
        self.tick += 1
        reached = self._reached()
        self.stayed = self.stayed + 1 if reached is not None and reached == before else 0
        achieved = reached if self.stayed >= 2 else None
        failure = None
        if achieved not in (None, self.goal):
            failure = "wrong object"
        elif achieved is None and self.tick >= self.max_ticks:
            failure = "out of time"
        success = achieved == self.goal
        distance = float(np.abs(self.position - self.tokens[self.goal]).max())
        return Status(
            success=success,
            done=success or failure is not None,
            progress=1.0 if success else max(0.0, 0.9 - distance / SIZE),
            failure=failure,
            facts={"goal": self.goal, "achieved": achieved, "distance": distance},
        )

    def _reached(self) -> str | None:
        near = [name for name, place in self.tokens.items() if np.abs(place - self.position).max() < 0.5]
        return near[0] if near else None

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        self.looks += 1
        views = self.spec.cameras if cameras is None else [self.spec.camera(name) for name in cameras]
        return Observation(
            images={view.name: self.render(view.name, view.height, view.width)[None] for view in views},
            state=np.array([[*self.position, self.horn]], np.float32),
            instruction=self.instruction,
            embodiment="walker",
            time=self.tick / self.spec.rate,
        )

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        self.spec.camera(camera)
        picture = np.full((height, width, 3), 235, np.uint8)
        for place, color in [
            *((self.tokens[name], COLORS[name]) for name in COLORS),
            (self.position, (0, 0, 0)),
        ]:
            row, column = (place + 0.5) / SIZE * (height, width)
            reach = max(height // 16, 1)
            top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
            picture[top : int(row) + reach, left : int(column) + reach] = color
        return picture

    def snapshot(self) -> bytes:
        return json.dumps([*self.position, self.horn, self.tick, self.stayed]).encode()

    def restore(self, snapshot: bytes) -> None:
        x, y, self.horn, self.tick, self.stayed = json.loads(snapshot)
        self.position = np.array([x, y])

    def close(self) -> None:
        pass


class Walker:
    """Walks to the token that `choose(env, instruction, generator)` names; 4 actions a chunk."""

    def __init__(self, env: GridWorld, horizon: int = 4) -> None:
        self.env = env
        self.spec = env.spec
        self.window = Window(horizon=horizon)

    def think(self, observation: Observation, *, generator: np.random.Generator | None = None) -> None:
        return None

    def choose(self, instruction: str, generator: np.random.Generator) -> str:
        words = [word for word in instruction.split() if word in COLORS]
        return words[0] if words else list(COLORS)[int(self.env.tokens["red"][0]) % 3]

    def act(self, observation: Observation, *, generator=None, context=None, prefix=None, delay=0):
        from visuomotor.types import Chunk

        generator = generator or np.random.default_rng(0)
        target = self.env.tokens[self.choose(observation.instruction, generator)]
        position = observation.state[-1, :2].astype(np.float64)
        actions = np.zeros((self.window.horizon, 3), np.float32)
        for row in actions:
            row[:2] = np.clip(target - position, -1, 1)
            position = position + row[:2]
        actions[:, :2] += generator.normal(0, 0.02, size=(len(actions), 2))
        return Chunk(actions=actions, rate=self.spec.rate, time=observation.time)


class Deaf(Walker):
    """Does what the unchanged scene asks for: it recognizes the scene and does not read."""

    def choose(self, instruction: str, generator: np.random.Generator) -> str:
        return self.env.usual


class Parrot(Walker):
    """Knows the sentences of training; others send it to the corner of its own choice."""

    def choose(self, instruction: str, generator: np.random.Generator) -> str:
        words = instruction.split()
        return words[-1] if words[:1] == ["walk"] else "blue"


class Mortal(Walker):
    """Ends its process when it is sent to the green token, unless GRID_MORTAL is "off"."""

    def act(self, observation: Observation, **rest: Any):
        if os.environ.get("GRID_MORTAL") != "off" and observation.instruction == "walk to the green":
            os._exit(3)
        return super().act(observation, **rest)


class Clumsy(Walker):
    """Raises."""

    def act(self, observation: Observation, **rest: Any):
        raise ValueError("the robot slipped")


def corner_agent(env: GridWorld) -> ScriptedAgent:
    """Walks to the corner and stays: out of time unless a token lies there."""
    return ScriptedAgent(replace(env.spec, cameras=()), lambda observation: np.array([-1, -1, 0], np.float32))
