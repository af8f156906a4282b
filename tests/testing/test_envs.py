from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from visuomotor.envs.base import Env, Status
from visuomotor.errors import unknown_name
from visuomotor.testing import check_env
from visuomotor.types import Camera, Dimension, Observation, Spec

SPEC = Spec(
    embodiment="dot",
    cameras=(Camera(name="top", height=8, width=8), Camera(name="side", height=4, width=8)),
    state=(Dimension(name="x"), Dimension(name="y")),
    action=(Dimension(name="dx", kind="ee_delta", low=-0.1, high=0.1), Dimension(name="dy", kind="ee_delta")),
    rate=10.0,
)


class Dot:
    """A dot on a plane that must get to the right; keeps the contract but for one fault."""

    spec = SPEC

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.buffer = np.zeros((1, 2), np.float32)
        self.closed = False
        self.wind = 0.0

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        if self.fault != "stale" or not hasattr(self, "place"):
            self.place = np.random.default_rng(0 if self.fault == "one seed" else seed).uniform(-1, 1, 2)
        self.ticks = 0
        return self.observe()

    def step(self, action: np.ndarray) -> Status:
        if self.fault != "shape" and np.shape(action) != (2,):
            raise ValueError("expected an action (2,)")
        if self.fault == "moves first":
            self.place[0] += 0.1
        if self.fault != "nan" and not np.isfinite(action).all():
            raise ValueError("expected numbers")
        self.place = self.place + np.reshape(action, -1)[:2]
        if self.fault == "chaos":
            self.place += np.random.default_rng().normal(0, 1e-9, 2)
        if self.fault == "hidden":
            self.wind += 0.01
            self.place[1] += self.wind * self.ticks
        self.ticks += 1
        success = bool(self.place[0] > 0.9)
        done = success or self.ticks >= 8
        progress = float(np.clip(self.place[0], 0, 0.99))
        return Status(
            success=success,
            done=done,
            progress=1.0 if success and self.fault != "progress" else progress,
            failure=None if self.fault == "no reason" or not done or success else "out of time",
        )

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        known = [camera.name for camera in SPEC.cameras]
        asked = known if cameras is None or self.fault == "all views" else cameras
        if self.fault == "any camera":
            asked = [name for name in asked if name in known]
        images = {}
        for name in asked:
            if name not in known:
                raise unknown_name("camera", name, known)
            camera = SPEC.camera(name)
            images[name] = np.zeros((1, camera.height, camera.width, 3), np.uint8)
            column = int(np.clip((self.place[0] + 1) / 2, 0, 1) * 7)
            images[name][0, :, column if self.fault != "size" else 0] = 255
        if self.fault == "moved by looking":
            self.place = self.place + 0.01
        state = self.place[None].astype(np.float64 if self.fault == "double" else np.float32)
        if self.fault == "shared":
            self.buffer[:] = state
            state = self.buffer
        return Observation(
            images=images,
            state=state,
            instruction="go right",
            embodiment="point" if self.fault == "body" else "dot",
            time=self.ticks / 10,
        )

    def snapshot(self) -> bytes:
        return pickle.dumps((self.place, 0 if self.fault == "forgets time" else self.ticks))

    def restore(self, snapshot: bytes) -> None:
        self.place, self.ticks = pickle.loads(snapshot)

    def close(self) -> None:
        self.closed = True


def test_an_environment_that_keeps_the_contract_passes_and_is_closed() -> None:
    made: list[Dot] = []

    def make() -> Env:
        made.append(Dot())
        return made[-1]

    check_env(make)
    assert [env.closed for env in made] == [True, True]


def right(env: Env, generator: np.random.Generator) -> np.ndarray:
    return np.array([0.5, 0.0], np.float32)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("body", "body 'point', its spec says 'dot'"),
        ("double", "expected float32"),
        ("all views", r"observe\(\[\]\) gives views"),
        ("any camera", "unknown camera"),
        ("moved by looking", "two different worlds"),
        ("shared", "must be a copy"),
        ("shape", "accepts an action that is too long"),
        ("nan", "accepts NaN"),
        ("moves first", "refused action moves the world"),
        ("chaos", "episodes from equal seeds differ"),
        ("stale", "episodes from equal seeds"),
        ("one seed", "give the same first observation"),
        ("progress", "exactly on success"),
        ("no reason", "reason for failure"),
        ("forgets time", "restore"),
        ("hidden", "differ after"),
    ],
)
def test_each_fault_is_found(fault: str, message: str, unchecked: None) -> None:
    act = right if fault == "progress" else None
    with pytest.raises(AssertionError, match=message):
        check_env(lambda: Dot(fault), act=act)
