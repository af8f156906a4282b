"""The last word before the robot: no command breaks a limit, whatever an executor says.

The filter follows the commanded positions, of absolute actions and of deltas alike, which it adds up
from where the robot stood. It lets a command through if, after it, the robot could still be brought to
rest within every limit, and else takes the nearest one for which that holds:

    step_t = position_t - position_{t-1},   |step_t| <= speed / rate,
    |step_t - step_{t-1}| <= acceleration / rate^2,   step_t + stop(step_t) <= room,

where `stop` is the way of braking, sum_k max(step - k * acceleration / rate^2, 0), and `room` the way to
the limit. What is not finite, stale or missing is answered by braking. A box that the hand must not
enter is kept away from by one of its faces at a time, so that the way between two commands keeps out, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from visuomotor.errors import DataError, unknown_name
from visuomotor.executors.standing import find_position, standing
from visuomotor.types import Observation, Spec

__all__ = ["Box", "SafetyFilter", "SafetyLimits"]

_ROUNDING = 2.0**-21
"""What is kept off every limit, relative to the numbers at hand: a command is rounded to float32, and
two roundings meet in a step, three in the change of a step."""


@dataclass(frozen=True)
class Box:
    """A box that no hand may enter: its lowest and highest corner (x, y, z), in the frame of the actions."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.low) != 3 or len(self.high) != 3 or not all(a < b for a, b in zip(self.low, self.high)):
            raise ValueError(
                f"box: expected two corners (x, y, z), low below high, got {self.low}, {self.high}."
            )


@dataclass(frozen=True, kw_only=True)
class SafetyLimits:
    """What a command may be, beyond the limits that a body's `Spec` states.

    Keys are names of action dimensions, or patterns such as "joint*"; of several that match, the
    strictest counts. Units are those of the dimension, and of it a second.

    Attributes:
        position: Lowest and highest position; of a delta, the position that it adds up to.
        speed: Largest speed.
        acceleration: Largest acceleration, for braking, too.
        keep_out: Boxes for the position of every hand that an action moves (kind "ee" or "ee_delta").
        stale_after: Seconds after which the observation behind an action is too old, and the robot stops.
    """

    position: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    speed: Mapping[str, float] = field(default_factory=dict)
    acceleration: Mapping[str, float] = field(default_factory=dict)
    keep_out: tuple[Box, ...] = ()
    stale_after: float | None = None

    def __post_init__(self) -> None:
        for what, limits in (("speed", self.speed), ("acceleration", self.acceleration)):
            wrong = {name: value for name, value in limits.items() if not value > 0}
            if wrong:
                raise ValueError(f"safety: expected a positive {what}, got {wrong}.")
        crossed = {name: pair for name, pair in self.position.items() if not pair[0] < pair[1]}
        if crossed:
            raise ValueError(f"safety: expected the lowest position below the highest, got {crossed}.")
        if self.stale_after is not None and not self.stale_after > 0:
            raise ValueError(f"safety: stale_after must be positive, got {self.stale_after}.")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SafetyLimits:
        """Limits from a JSON file with the names of the attributes as keys; a box is two corners.

        Raises:
            DataError: No such file, or an unknown key.
        """
        try:
            content = json.loads(Path(path).read_text())
            boxes = tuple(Box(tuple(low), tuple(high)) for low, high in content.pop("keep_out", ()))
            position = {name: (low, high) for name, (low, high) in content.pop("position", {}).items()}
            return cls(position=position, keep_out=boxes, **content)
        except (OSError, json.JSONDecodeError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: expected safety limits as JSON (position, speed, acceleration, keep_out, "
                f"stale_after), got a problem with it: {error}."
            ) from error


class SafetyFilter:
    """Commands within limits, from what an executor says; see the head of this file.

    Positions are those that were commanded. A robot that takes deltas and does not do what it is told
    is somewhere else; give it absolute actions if a limit must hold for it.

    Args:
        spec: The body: limits of absolute actions, of deltas, and of the positions in the state that
            deltas change.
        limits: Further ones.

    Attributes:
        changed: Ticks since `begin` at which the command was not what the executor said.
        stops: Ticks since `begin` at which it brought the robot to rest instead of following.

    Raises:
        ValueError: A limit for no dimension, or one that needs a position that the spec does not tell.
    """

    def __init__(self, spec: Spec, limits: SafetyLimits | None = None) -> None:
        limits = limits or SafetyLimits()
        relative = [d.name for d in spec.action if d.kind.endswith("_relative")]
        if relative:
            raise ValueError(
                f"safety filter: actions {', '.join(relative)} are measured from the state at chunk start, "
                "so a command alone does not tell where it leads. Make them absolute or deltas."
            )
        self.spec, self.limits = spec, limits
        self._delta = np.array([d.kind.endswith("_delta") for d in spec.action])
        self._places = [find_position(spec, d) if d.kind.endswith("_delta") else None for d in spec.action]
        told = [
            spec.state[place] if place is not None else d
            for d, place in zip(spec.action, self._places, strict=True)
        ]
        bounded = ~self._delta | np.array([place is not None for place in self._places])
        self._low = np.where(bounded, [d.low for d in told], -np.inf)
        self._high = np.where(bounded, [d.high for d in told], np.inf)
        for index, (low, high) in self._matching(limits.position):
            self._low[index], self._high[index] = (
                max(self._low[index], low),
                min(self._high[index], high),
            )
        if (self._low > self._high).any():
            raise ValueError("safety filter: limits of the position leave nothing between them.")
        self._fastest = np.full(len(told), np.inf)
        self._change = np.full(len(told), np.inf)
        for index, speed in self._matching(limits.speed):
            self._fastest[index] = min(self._fastest[index], speed / spec.rate)
        for index, acceleration in self._matching(limits.acceleration):
            self._change[index] = min(self._change[index], acceleration / spec.rate**2)
        # A delta's own limits are those of a step.
        self._back = np.where(self._delta, [d.low for d in spec.action], -np.inf)
        self._forth = np.where(self._delta, [d.high for d in spec.action], np.inf)
        self._hands = _hands(spec) if limits.keep_out else []
        self._check_positions()
        self._position: np.ndarray | None = None

    def _matching(self, limits: Mapping[str, Any]) -> list[tuple[int, Any]]:
        """(index of a dimension, limit) of all that match."""
        names = [dimension.name for dimension in self.spec.action]
        found = [
            (names.index(name), limit)
            for pattern, limit in limits.items()
            for name in names
            if fnmatchcase(name, pattern)
        ]
        for pattern in limits:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name("action dimension of a safety limit", pattern, names)
        return found

    def _check_positions(self) -> None:
        """Raise `ValueError` if a limit needs a position that the state does not tell."""
        needed = np.isfinite(self._low) | np.isfinite(self._high)
        needed[[index for hand in self._hands for index in hand]] = True
        for index, dimension in enumerate(self.spec.action):
            if needed[index] and self._delta[index] and self._places[index] is None:
                raise ValueError(
                    f"safety filter: the state of {self.spec.embodiment!r} does not tell the position that "
                    f"{dimension.name!r} changes. Name a state dimension of its kind and unit like it."
                )

    def begin(self, observation: Observation) -> None:
        """Start at rest where the robot stands, or at the nearest position within the limits.

        Raises:
            ValueError: A hand stands within a box, or the state does not tell where the robot stands.
        """
        position = standing(self.spec, observation).astype(np.float64)
        for index, place in enumerate(self._places):
            if place is not None:
                position[index] = observation.state[-1, place]
        if not np.isfinite(position).all():
            raise ValueError("safety filter: the state of the robot is not finite.")
        self._position = np.clip(position, self._low, self._high)
        self._step = np.zeros(len(position))
        self._faces: dict[tuple[int, int], tuple[int, bool]] = {}
        self.changed = self.stops = 0
        for number, hand in enumerate(self._hands):
            for place, box in enumerate(self.limits.keep_out):
                there = self._position[hand]
                if np.all((there > box.low) & (there < box.high)):
                    raise ValueError(
                        f"safety filter: the hand stands at {there.round(3).tolist()}, within a box that it "
                        f"must not enter ({box.low} to {box.high}). Move it out by other means first."
                    )
                self._faces[number, place] = _farthest_face(there, box)

    def command(
        self, action: Float[np.ndarray, " action"] | None, *, age: float = 0.0
    ) -> Float32[np.ndarray, " action"]:
        """The command for this tick: `action` if it may be, else the nearest that may.

        Args:
            action: What the executor says, raw units; None if it says nothing.
            age: Seconds since the observation that it was computed from.
        """
        if self._position is None:
            raise ValueError("safety filter: call begin(observation) before the first command.")
        here, last = self._position, self._step
        stale = self.limits.stale_after is not None and age > self.limits.stale_after
        usable = action is not None and bool(np.isfinite(action).all()) and not stale
        if usable:
            assert action is not None
            asked = np.asarray(action, np.float64)
            want = np.where(self._delta, asked, asked - here)
        else:
            want = np.zeros(len(here))
            self.stops += 1
        # Numbers far beyond every limit would only blur the arithmetic.
        want = np.clip(want, -1e6, 1e6)
        slack = _ROUNDING * np.maximum(np.abs(here) + np.abs(np.clip(want, -1, 1)), np.abs(last))
        change = np.maximum(self._change - 4 * slack, self._change / 2)
        low, high = self._bounds(want, change)
        below, above = _far(here - low, change), _far(high - here, change)
        fastest = np.maximum(self._fastest - slack, self._fastest / 2)
        forth = np.minimum(np.minimum(fastest, self._forth), last + change)
        back = np.maximum(np.maximum(-fastest, self._back), last - change)
        step = np.clip(np.clip(want, np.minimum(back, forth), forth), -below, above)
        if usable and not np.array_equal(step, want):
            # What is cut short must be able to stop where it was sent, else it would swing around it.
            aim = np.where(
                self._delta, want, np.sign(want) * np.minimum(np.abs(want), _far(np.abs(want), change))
            )
            step = np.clip(np.clip(aim, np.minimum(back, forth), forth), -below, above)
        return self._commit(step, action if usable else None, want)

    def _bounds(
        self, want: np.ndarray, change: np.ndarray
    ) -> tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]:
        """Lowest and highest position of this tick: limits, and one face of each box."""
        assert self._position is not None
        # The sum of deltas is not rounded to a limit as a position is, so it stays a little inside.
        inside = np.where(self._delta, _ROUNDING * np.maximum(np.abs(self._position), 1e-3), 0.0)
        low, high = self._low + inside, self._high - inside
        for number, hand in enumerate(self._hands):
            for place, box in enumerate(self.limits.keep_out):
                axis, below = self._face(number, place, box, hand, want, change)
                index = hand[axis]
                margin = _ROUNDING * max(abs(box.low[axis]), abs(box.high[axis]), 1e-3)
                if below:
                    high[index] = min(high[index], box.low[axis] - margin)
                else:
                    low[index] = max(low[index], box.high[axis] + margin)
        return np.minimum(low, self._position), np.maximum(high, self._position)

    def _face(
        self, number: int, place: int, box: Box, hand: list[int], want: np.ndarray, change: np.ndarray
    ) -> tuple[int, bool]:
        """The face of a box that a hand stays behind: of those it can, the one that hinders it least."""
        assert self._position is not None
        best, least = self._faces[number, place], np.inf
        for axis, index in enumerate(hand):
            for below in (True, False):
                room = (
                    box.low[axis] - self._position[index] if below else self._position[index] - box.high[axis]
                )
                room -= 2 * _ROUNDING * max(abs(box.low[axis]), abs(box.high[axis]), 1e-3)
                if room < 0:
                    continue
                far = float(_far(np.array([room]), change[[index]])[0])
                ahead = self._step[index] if below else -self._step[index]
                if ahead - change[index] > far:
                    continue  # it could not stop before this face
                wanted = want[index] if below else -want[index]
                hindered = max(wanted - far, 0.0)
                if hindered < least:
                    best, least = (axis, below), hindered
        self._faces[number, place] = best
        return best

    def _commit(
        self, step: np.ndarray, action: np.ndarray | None, want: np.ndarray
    ) -> Float32[np.ndarray, " action"]:
        """The command of a step, rounded to float32 and into the limits, and remembered as it was given."""
        assert self._position is not None
        command = np.where(self._delta, step, self._position + step).astype(np.float32)
        if action is not None:  # untouched dimensions go through bit by bit
            command = np.where(step == want, np.asarray(action, np.float32), command)
        limits = (
            np.where(self._delta, np.maximum(self._back, -self._fastest), self._low),
            np.where(self._delta, np.minimum(self._forth, self._fastest), self._high),
        )
        command = _within(command, *limits)
        if action is not None and not np.array_equal(command, np.asarray(action, np.float32)):
            self.changed += 1
        given = command.astype(np.float64)
        self._step = np.where(self._delta, given, given - self._position)
        self._position = np.where(self._delta, self._position + given, given)
        return command


def _far(room: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The largest step after which one can still stop within `room`, if steps change by at most `change`.

    After n more steps that get shorter by `change` the robot rests; they and the first one are
    (n + 1) step - change n (n + 1) / 2 long.
    """
    room = np.maximum(room, 0.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        count = np.floor((np.sqrt(1 + 8 * room / change) - 1) / 2)
        step = (room + change * count * (count + 1) / 2) / (count + 1)
    at_once = ~np.isfinite(change) | (count == 0)
    return np.where(np.isinf(room), np.inf, np.where(at_once, room, step))


def _farthest_face(position: np.ndarray, box: Box) -> tuple[int, bool]:
    """(axis, whether it is the lower one) of the face that a position outside is farthest before."""
    rooms = {}
    for axis in range(3):
        rooms[axis, True] = box.low[axis] - position[axis]
        rooms[axis, False] = position[axis] - box.high[axis]
    return max(rooms, key=lambda face: rooms[face])


def _hands(spec: Spec) -> list[list[int]]:
    """Indices (x, y, z) in the action of each hand whose position it moves."""
    places = [i for i, d in enumerate(spec.action) if d.kind in ("ee", "ee_delta") and d.unit == "m"]
    if not places or len(places) % 3:
        raise ValueError(
            f"safety filter: boxes need actions that move the position of a hand (three of kind ee or "
            f"ee_delta in meters), {spec.embodiment!r} has {len(places)}. Limit its joints instead."
        )
    return [places[start : start + 3] for start in range(0, len(places), 3)]


def _within(command: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`command` float32 clipped to limits that float32 may not be able to write."""
    floor, ceiling = low.astype(np.float32), high.astype(np.float32)
    floor = np.where(floor < low, np.nextafter(floor, np.float32(np.inf)), floor)
    ceiling = np.where(ceiling > high, np.nextafter(ceiling, np.float32(-np.inf)), ceiling)
    return np.clip(command, floor, ceiling).astype(np.float32)
