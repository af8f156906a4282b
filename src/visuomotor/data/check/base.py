"""What checks look at, and what they find.

A `Survey` is a data set with the figures that all checks share; an `Excerpt` is one episode of it, a
`Trace` what is kept of its pictures. All thresholds are relative to the data: to the *width* of a
dimension (its usual range), to its *step* (a fast change within one tick), to the rate, or to the other
episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from visuomotor.data.reader import EpisodeEntry, LeRobotReader
from visuomotor.types import Dimension

__all__ = ["SEVERITIES", "Check", "Excerpt", "Finding", "Scale", "Severity", "Survey", "Trace", "spreads"]

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")
"""From mild to bad: worth knowing, likely to cost success, sure to."""

Scope = Literal["data set", "episode", "pictures", "test set"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        said: What was measured, in one sentence.
        value: The number that was measured.
        threshold: The number that it was compared with.
        episode: Number of the episode; None if it is about the data set.
        ticks: First tick of the episode that it is about, and the one past the last.
        dimension: Which number, as "state x" or "action gripper".
        camera: Which camera.
        other: The episode that this one resembles.
        severity: How bad; the one of the check unless a function says otherwise.
        check: Name of the check; filled in when it runs.
        advice: What to do; filled in when it runs.
    """

    said: str
    value: float
    threshold: float
    episode: int | None = None
    ticks: tuple[int, int] | None = None
    dimension: str | None = None
    camera: str | None = None
    other: int | None = None
    severity: Severity | None = None
    check: str = ""
    advice: str = ""

    @property
    def where(self) -> str:
        """Place in words: "episode 3, ticks 4 to 9, action x"."""
        parts = ["the data set" if self.episode is None else f"episode {self.episode}"]
        if self.ticks is not None:
            first, last = self.ticks[0], self.ticks[1] - 1
            parts.append(f"tick {first}" if first >= last else f"ticks {first} to {last}")
        parts += [part for part in (self.dimension, self.camera and f"camera {self.camera}") if part]
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; infinite numbers become None."""
        plain = asdict(self)
        for name in ("value", "threshold"):
            plain[name] = plain[name] if np.isfinite(plain[name]) else None
        return plain


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table of checks.

    Attributes:
        name: As it is called in reports.
        scope: What the function is given: a survey; a survey and an excerpt; these and the traces of
            its cameras; or the surveys of training and test data.
        severity: Of its findings, unless the function says otherwise.
        finds: What it finds.
        spoils: Why that spoils a policy.
        limit: The threshold in words, with its reason.
        advice: What to do about it, in one sentence.
        function: Yields findings.
    """

    name: str
    scope: Scope
    severity: Severity
    finds: str
    spoils: str
    limit: str
    advice: str
    function: Callable[..., Iterator[Finding]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is usual for each dimension of a feature; all float64 (dimension,).

    Attributes:
        median: Middle value.
        width: Usual range: from the 1st to the 99th percentile, but at least a twentieth of the whole
            range, for dimensions that rarely move.
        step: Fast change from one tick to the next: its 99th percentile, at least a hundredth of the width.
        moves: bool, whether it changes at all.
    """

    median: np.ndarray
    width: np.ndarray
    step: np.ndarray
    moves: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, inside: np.ndarray) -> Scale:
        """The scale of `values` (tick, dimension).

        Args:
            values: All episodes, one after the other.
            inside: bool (tick - 1,), whether tick and next tick belong to the same episode.
        """
        values = values.astype(np.float64)
        low, median, high = np.quantile(values, [0.01, 0.5, 0.99], axis=0)
        reach = values.max(axis=0) - values.min(axis=0)
        width = np.maximum(high - low, reach / 20)
        changes = np.abs(np.diff(values, axis=0))[inside]
        step = np.quantile(changes, 0.99, axis=0) if len(changes) else np.zeros_like(width)
        moves = reach > 1e-6 * np.maximum(1, np.abs(median))  # above the rounding of float32
        width = np.where(moves, width, 1.0)
        return cls(median=median, width=width, step=np.maximum(step, width / 100), moves=moves)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What is kept of the pictures of one episode and camera; float32 (tick,), levels of 255.

    Attributes:
        change: Mean difference from the picture before; 0 at the first tick.
        low: Level that 1 % of a picture lies below.
        high: Level that 99 % of a picture lie below.
        expected: The change that the motion of the robot lets expect; 0 before it is known.
    """

    change: np.ndarray
    low: np.ndarray
    high: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """One episode of a survey: state (tick, state) and actions (tick, action), raw units."""

    entry: EpisodeEntry
    state: np.ndarray
    actions: np.ndarray

    @property
    def index(self) -> int:
        """Number of the episode."""
        return self.entry.index

    def __len__(self) -> int:
        """Ticks."""
        return self.entry.length


@dataclass(kw_only=True)
class Survey:
    """A data set with what all checks share.

    Attributes:
        reader: The data set.
        traces: (place in `reader.episodes`, camera) to what its pictures told, once they were looked at.
        usual_change: Camera to the change of its pictures that usual motion lets expect, in levels of 255.
    """

    reader: LeRobotReader
    traces: dict[tuple[int, str], Trace] = field(default_factory=dict)
    usual_change: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Ticks a second."""
        return self.reader.rate

    @cached_property
    def _inside(self) -> np.ndarray:
        inside = np.ones(max(len(self.reader) - 1, 0), bool)
        inside[[entry.start - 1 for entry in self.reader.episodes if entry.start]] = False
        return inside

    @cached_property
    def state(self) -> Scale:
        """What is usual for each number of the state."""
        return Scale.of(self.reader.state, self._inside)

    @cached_property
    def actions(self) -> Scale:
        """What is usual for each number of the action."""
        return Scale.of(self.reader.actions, self._inside)

    @property
    def state_dimensions(self) -> Sequence[Dimension]:
        """Meaning of each number of the state."""
        return self.reader.spec.state

    @property
    def action_dimensions(self) -> Sequence[Dimension]:
        """Meaning of each number of an action."""
        return self.reader.spec.action

    def excerpt(self, number: int) -> Excerpt:
        """The `number`-th episode."""
        entry = self.reader.episodes[number]
        rows = slice(entry.start, entry.start + entry.length)
        return Excerpt(
            entry=entry,
            state=self.reader.state[rows].astype(np.float64),
            actions=self.reader.actions[rows].astype(np.float64),
        )

    def excerpts(self) -> Iterator[Excerpt]:
        """Every episode."""
        for number in range(len(self.reader.episodes)):
            yield self.excerpt(number)

    def speeds(self, excerpt: Excerpt) -> np.ndarray:
        """(tick, number) how far each number of the state went since the tick before, in widths.

        Grippers are left out, as cameras hardly see them, and so are numbers that never change.
        """
        used = self.state.moves & np.array([d.kind != "gripper" for d in self.state_dimensions], bool)
        state = excerpt.state[:, used] / self.state.width[used]
        return np.abs(np.diff(state, axis=0, prepend=state[:1]))

    def features(self, excerpt: Excerpt) -> Iterator[tuple[str, np.ndarray, Scale, Sequence[Dimension]]]:
        """ "state" and "action": name, values (tick, dimension), scale, dimensions."""
        yield "state", excerpt.state, self.state, self.state_dimensions
        yield "action", excerpt.actions, self.actions, self.action_dimensions


def spreads(values: np.ndarray) -> np.ndarray:
    """How many robust standard deviations each of `values` (n,) lies from their median.

    1.4826 times the median distance from the median is the standard deviation of a normal distribution.
    A spread below 5 % of the median counts as 5 %, so that equal values do not make a tiny difference big.
    """
    median = np.median(values)
    scale = 1.4826 * np.median(np.abs(values - median))
    return (values - median) / max(scale, 0.05 * abs(median), 1e-12)
