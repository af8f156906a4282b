"""A small arm whose clean demonstrations the tests of checks spoil, one fault at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visuomotor.data.episode import EpisodeRecorder
from visuomotor.data.lerobot import LeRobotWriter
from visuomotor.types import Camera, Dimension, Observation, Spec

SPEC = Spec(
    embodiment="arm",
    cameras=(Camera(name="hand", height=32, width=48),),
    state=(
        Dimension(name="shoulder", unit="rad", kind="joint", low=-2.0, high=2.0),
        Dimension(name="elbow", unit="rad", kind="joint", low=-2.0, high=2.0),
        *(Dimension(name=f"hand_q{letter}", kind="ee") for letter in "wxyz"),
        Dimension(name="heading", unit="rad", kind="ee"),
        Dimension(name="gripper", kind="gripper", low=0.0, high=1.0),
    ),
    action=(
        Dimension(name="shoulder", unit="rad", kind="joint", low=-2.0, high=2.0),
        Dimension(name="elbow", unit="rad", kind="joint", low=-2.0, high=2.0),
        Dimension(name="lift", unit="m", kind="ee_delta"),
        Dimension(name="gripper", kind="gripper", low=0.0, high=1.0),
    ),
    rate=10.0,
)
GRIPPER, LIFT = 3, 2
"""Places in the action."""
_WALL = np.kron(
    np.random.default_rng(0).integers(40, 220, (6, 10, 3)), np.ones((16, 16, 1), np.int64)
).astype(np.uint8)


@dataclass
class Episode:
    """What a test may change before it is written: one row a tick."""

    state: np.ndarray
    actions: np.ndarray
    pictures: list[np.ndarray]
    instructions: list[str]
    seed: int | None

    def cut(self, places: list[int]) -> None:
        """Keep these ticks, in this order."""
        self.state, self.actions = self.state[places], self.actions[places]
        self.pictures = [self.pictures[place] for place in places]
        self.instructions = [self.instructions[place] for place in places]


def demonstration(seed: int, ticks: int = 36) -> Episode:
    """A smooth motion that follows its commands, with a gripper that closes half-way."""
    generator = np.random.default_rng(seed)
    time = np.arange(ticks + 1)[:, None] / 10
    phase, speed = generator.uniform(0, 6.28, (2, 3)), generator.uniform(1.2, 1.8, 3)
    way = np.sin(time * speed + phase[0]) * generator.uniform(0.8, 1.0, 3)
    joints = way[:, :2] + generator.normal(0, 0.004, (ticks + 1, 2))
    half = way[:, 2] / 2
    axis = np.array([0.6, 0.64, 0.48])
    quaternion = np.column_stack([np.cos(half), np.sin(half)[:, None] * axis])
    close = int(ticks * generator.uniform(0.4, 0.6))
    asked = (np.arange(ticks) >= close).astype(float)
    gripper = np.concatenate([np.zeros(close + 1), np.linspace(0.2, 1, 5), np.ones(ticks)])[: ticks + 1]
    state = np.column_stack([joints, quaternion, way[:, 2], gripper])
    command = joints[1:] + generator.normal(0, 0.02, (ticks, 2))
    lift = 0.02 * np.cos(time[:-1, 0] * speed[2]) + generator.normal(0, 0.002, ticks)
    return Episode(
        state=state[:-1],
        actions=np.column_stack([command, lift, asked]),
        pictures=[_view(joint) for joint in joints[:-1]],
        instructions=[f"take the {('red', 'blue', 'green')[seed % 3]} cup"] * ticks,
        seed=seed,
    )


def _view(joints: np.ndarray) -> np.ndarray:
    """What a camera sees that turns with the arm before a colored wall."""
    column, row = int(40 + 12 * joints[0]), int(30 + 12 * joints[1])
    return _WALL[row : row + 32, column : column + 48]


def write(folder: Path, episodes: list[Episode]) -> Path:
    """A data set of these episodes."""
    with LeRobotWriter(folder, SPEC, meta={"env": "arm", "task": "take"}) as writer:
        for episode in episodes:
            recorder = EpisodeRecorder(SPEC)
            for tick, picture in enumerate(episode.pictures):
                seen = Observation(
                    images={"hand": picture[None]},
                    state=episode.state[tick][None].astype(np.float32),
                    instruction=episode.instructions[tick],
                    embodiment=SPEC.embodiment,
                )
                recorder.tick(seen, episode.actions[tick].astype(np.float32))
            writer.add(recorder.finish(seed=episode.seed))
    return folder


def demonstrations(first: int = 0, count: int = 10) -> list[Episode]:
    """Clean ones, of lengths that differ a little."""
    return [demonstration(seed, 36 - seed % 4) for seed in range(first, first + count)]
