"""What every environment and robot speaks.

Views are drawn only when asked for: `step` moves the world and tells how the task stands,
`observe` looks. A robot speaks the same protocol without `snapshot` and `restore`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from visuomotor.types import Observation, Spec

__all__ = ["Env", "Status"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """How the episode stands after a tick.

    Attributes:
        success: The task is done and has been held done for long enough.
        done: The episode is over: success, or out of time.
        progress: In [0, 1]; 1 exactly on success.
        failure: Why a finished episode failed ("wrong object", "wrong place", "dropped",
            "out of time" and others that a task has); None while running and on success.
        facts: What is true in the world, for probes: names to plain values.
    """

    success: bool
    done: bool
    progress: float
    failure: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Env(Protocol):
    """A world with one robot and one task."""

    spec: Spec

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        """Start an episode; equal seed and options give bit-equal episodes."""
        ...

    def step(self, action: np.ndarray) -> Status:
        """Run one tick with `action` (action,), raw units. Raises `ValueError` on a wrong shape or NaN."""
        ...

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        """What can be seen now; only the named views are drawn, all of the spec's if None."""
        ...

    def snapshot(self) -> bytes:
        """The whole state of the world; `restore` brings it back bit-equal."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Go back to a snapshot of this environment."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...
