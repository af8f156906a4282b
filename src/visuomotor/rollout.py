"""One episode: a session plays in an environment until the environment says it is over.

The outcome is an `Episode`, plain data for JSON. Equal seeds and options give equal episodes; the
digest of the executed actions proves it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from visuomotor.envs.base import Env, Status
from visuomotor.errors import DataError
from visuomotor.session import Session
from visuomotor.types import Observation, Spec

__all__ = ["Episode", "Watch", "check_fit", "plain", "rollout"]

Watch = Callable[[Env, int, Status | None], None]
"""Called with (env, tick, status): once after the reset with tick 0 and no status, then after every tick."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """How one attempt went.

    Attributes:
        seed: Seed of the environment and of the session.
        instruction: The words given to the robot.
        success: The task was done.
        progress: In [0, 1], at the end.
        failure: Why it failed; None on success.
        ticks: Control periods until the end.
        seconds: The same in seconds of the robot's clock.
        goal: What the sentence asked for, if the environment names its goals.
        achieved: The goal that was found done at the end, if any.
        holds: Ticks at which the robot held because no action was known.
        stale: Ticks whose action is of an older chunk than the one on its way.
        unsafe: Ticks whose action the safety filter changed, or answered by stopping.
        chunk_failures: Why the agent had no usable actions, once for each time.
        digest: Hash of the executed actions; equal for equal episodes.
        inference_ms: Wall time of each call of the agent.
        options: What the environment was reset with.
        facts: `Status.facts` at the end.
    """

    seed: int
    instruction: str
    success: bool
    progress: float
    failure: str | None
    ticks: int
    seconds: float
    goal: str | None = None
    achieved: str | None = None
    holds: int = 0
    stale: int = 0
    unsafe: int = 0
    chunk_failures: tuple[str, ...] = ()
    digest: str = ""
    inference_ms: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, free of NaN."""
        return plain(asdict(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Episode:
        """Inverse of `to_json`. Raises `DataError` when a key is missing or unknown."""
        known = {f.name for f in fields(cls)}
        if set(data) != known:
            raise DataError(f"episode: expected the keys {sorted(known)}, got {sorted(data)}.")
        lists = {name: tuple(data[name]) for name in ("chunk_failures", "inference_ms")}
        return cls(**{**data, **lists})

    def same_as(self, other: Episode) -> bool:
        """Whether both are the same episode, bit for bit, however long the agent took to think."""
        mine, theirs = self.to_json(), other.to_json()
        return all(mine[key] == theirs[key] for key in mine if key != "inference_ms")


def rollout(
    env: Env,
    session: Session,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Episode:
    """Play one episode.

    Args:
        env: Reset here; only the views that the agent's spec names are drawn after that.
        session: Reset here.
        seed: For both.
        options: Handed to `env.reset`.
        watch: Looks on; must not step the environment.

    Raises:
        ValueError: The agent was made for another body than that of `env`.
    """
    check_fit(session.spec, env.spec)
    cameras = [camera.name for camera in session.spec.cameras]
    start = env.reset(seed=seed, options=options)
    first: Observation | None = replace(start, images={name: start.images[name] for name in cameras})
    session.reset(seed)
    digest = hashlib.sha256()
    if watch is not None:
        watch(env, 0, None)

    def look() -> Observation:
        return first if first is not None else env.observe(cameras)

    tick = 0
    while True:
        action = session.tick(look)
        first = None
        status = env.step(action)
        digest.update(action.tobytes())
        tick += 1
        if watch is not None:
            watch(env, tick, status)
        if status.done:
            break
    return Episode(
        seed=seed,
        instruction=start.instruction,
        success=bool(status.success),
        progress=float(status.progress),
        failure=status.failure,
        ticks=tick,
        seconds=tick / env.spec.rate,
        goal=status.facts.get("goal"),
        achieved=status.facts.get("achieved"),
        holds=session.holds,
        stale=session.stale,
        unsafe=0 if session.safety is None else session.safety.changed + session.safety.stops,
        chunk_failures=tuple(session.failures),
        digest=digest.hexdigest()[:16],
        inference_ms=tuple(round(wall, 4) for wall in session.inference_ms),
        options=plain(dict(options or {})),
        facts=plain(dict(status.facts)),
    )


def check_fit(agent: Spec, env: Spec) -> None:
    """Raise `ValueError` with the first difference that keeps an agent from acting in an environment."""
    for what, mine, theirs in (
        ("embodiment", agent.embodiment, env.embodiment),
        ("rate", agent.rate, env.rate),
        ("state", [dimension.name for dimension in agent.state], [dimension.name for dimension in env.state]),
        (
            "actions",
            [dimension.name for dimension in agent.action],
            [dimension.name for dimension in env.action],
        ),
        ("kinds of action", [d.kind for d in agent.action], [d.kind for d in env.action]),
    ):
        if mine != theirs:
            raise ValueError(
                f"this agent does not fit this environment: it was made for {what} {mine}, "
                f"the environment has {theirs}. Make the environment with the options of the training data."
            )
    for camera in agent.cameras:
        if env.camera(camera.name) != camera:
            there = env.camera(camera.name)
            raise ValueError(
                f"camera {camera.name!r}: the agent was made for {camera.height}x{camera.width} pixels, "
                f"the environment draws {there.height}x{there.width}. Pass the same camera sizes."
            )


def plain(value: Any) -> Any:
    """`value` as plain data for strict JSON: NumPy numbers and tuples unwrapped, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"expected plain data for JSON, got {type(value).__name__}: {value!r}.")
