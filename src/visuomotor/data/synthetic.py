"""A tiny data set that can be learned: move to the square that the sentence names.

A white cursor and a red and a blue square lie on a plane. The state is the position of the cursor,
an action moves it (at most 0.1 a tick) and says when to grip. Everything is seeded; it exists for
tests, lessons and trials of a pipeline, and writes through `LeRobotWriter` like any other source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visuomotor.data.episode import EncodedEpisode, EpisodeRecorder
from visuomotor.data.video import Settings
from visuomotor.data.writer import LeRobotWriter
from visuomotor.types import Camera, Dimension, Observation, Spec

__all__ = ["PHRASINGS", "SPEC", "make_dataset", "make_episode"]

SPEC = Spec(
    embodiment="cursor",
    cameras=(Camera(name="front", height=32, width=32), Camera(name="wrist", height=16, width=24)),
    state=(
        Dimension(name="x", unit="m"),
        Dimension(name="y", unit="m"),
        Dimension(name="gripper", kind="gripper"),
    ),
    action=(
        Dimension(name="dx", unit="m", kind="ee_delta", low=-0.1, high=0.1),
        Dimension(name="dy", unit="m", kind="ee_delta", low=-0.1, high=0.1),
        Dimension(name="gripper", kind="gripper", low=0.0, high=1.0),
    ),
    rate=10.0,
)
"""Body of the synthetic data: plane coordinates in [0, 1], two small cameras of different shape."""

PHRASINGS = ("move to the {} square", "go to the {} one", "find {}", "the {} square please")
_COLORS = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def make_dataset(
    folder: str | Path, *, episodes: int = 6, ticks: int = 12, seed: int = 0, phrasings: int = 2
) -> Path:
    """Write a data set of `episodes` of about `ticks` ticks (some are shorter) and return its folder."""
    with LeRobotWriter(folder, SPEC, executed=True, meta={"env": "synthetic", "task": "move"}) as writer:
        writer.add(
            *(
                make_episode(seed + number, ticks=ticks - number % 3, phrasings=phrasings)
                for number in range(episodes)
            )
        )
    return Path(folder)


def make_episode(
    seed: int, *, ticks: int = 12, phrasings: int = 2, settings: Settings | None = None
) -> EncodedEpisode:
    """One seeded demonstration; its wording changes from tick to tick among `phrasings`."""
    generator = np.random.default_rng(seed)
    squares = generator.uniform(0.15, 0.85, (2, 2))
    cursor = generator.uniform(0.15, 0.85, 2)
    color = str(generator.choice(list(_COLORS)))
    target = squares[list(_COLORS).index(color)]
    recorder, gripper = EpisodeRecorder(SPEC, settings=settings), 0.0
    for tick in range(ticks):
        move = np.clip(target - cursor, -0.1, 0.1)
        action = np.array([*move, float(np.abs(target - cursor).max() < 0.05)], np.float32)
        executed = action + np.array([*generator.normal(0, 0.01, 2), 0], np.float32)
        words = PHRASINGS[tick % phrasings].format(color)
        recorder.tick(_look(squares, cursor, gripper, words, tick), action, executed)
        cursor, gripper = cursor + executed[:2], float(executed[2])
    return recorder.finish(seed=seed)


def _look(squares: np.ndarray, cursor: np.ndarray, gripper: float, words: str, tick: int) -> Observation:
    images = {}
    for camera in SPEC.cameras:
        picture = np.full((camera.height, camera.width, 3), 120, np.uint8)
        half = 2 if camera.name == "front" else 1
        for (x, y), paint in (
            (squares[0], _COLORS["red"]),
            (squares[1], _COLORS["blue"]),
            (cursor, (250, 250, 250)),
        ):
            row, column = int(y * camera.height), int(x * camera.width)
            picture[max(0, row - half) : row + half, max(0, column - half) : column + half] = paint
        images[camera.name] = picture[None]
    state = np.array([[*cursor, gripper]], np.float32)
    return Observation(
        images=images, state=state, instruction=words, embodiment=SPEC.embodiment, time=tick / SPEC.rate
    )
