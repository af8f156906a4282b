"""Hindsight: where the thing is that a demonstration moves, and where it will bring it.

Most of a manipulation episode is decided by two places: that of the thing and that of its goal. A
demonstration names both itself, later: the measured hand when the commanded gripper changes. Until
the gripper closes, the thing is where it will close; the goal is where the gripper opens last. Known
as keyframes or keypoints (James and Davison 2022, section 4.2). While the gripper is closed, the thing
is about where the hand is, but not exactly; after the last opening nothing is told. A demonstration
that ends with a closed gripper, as one that lifts, has its goal where it ends.

A demonstration of several parts ("open the drawer, put the cube in it") is told part by part. Its
subtasks say where a part ends: where a subtask begins that was not met before, with an open gripper.
What is carried around something does not go straight to its goal: there a part ends where the way
turns, unless a push turned it, and the goal is the next turn (waypoints, Shi et al. 2023,
"Waypoint-based imitation learning for robotic manipulation"; corners as in Douglas and Peucker 1973).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from visuomotor.transforms.hand import find_hand
from visuomotor.types import Spec

__all__ = ["Keypoints", "find_keypoints", "tells_keypoints"]

_CLOSED = 0.5  # commands above it are "closed", of 0 open to 1 closed
_DETOUR = 0.07  # meters beside the straight line over the table; noise is far less
_FOLLOWED = 0.035  # the same on a way that is known to be a detour
_PUSHED = 0.2  # of the range of an action; what was done differed by more from what was meant
_UNSETTLED = 5  # ticks after a push


class Keypoints(NamedTuple):
    """The thing and its goal at each tick.

    Attributes:
        places: Of both, in meters in the frame of the body; that of the hand where not told exactly.
        mask: Whether the episode tells them exactly.
        part: Which part of its episode each tick belongs to, counted from 0.
    """

    places: Float32[np.ndarray, "tick 2 3"]
    mask: Bool[np.ndarray, "tick 2"]
    part: Int64[np.ndarray, " tick"]


def tells_keypoints(spec: Spec) -> bool:
    """Whether demonstrations of a body have keypoints: it has one gripper, and says where its hand is."""
    return len(_grippers(spec)) == 1 and find_hand(spec) is not None


def _grippers(spec: Spec) -> list[int]:
    return [index for index, dimension in enumerate(spec.action) if dimension.kind == "gripper"]


def find_keypoints(
    spec: Spec,
    state: Float32[np.ndarray, "tick state"],
    actions: Float32[np.ndarray, "tick action"],
    lengths: Sequence[int],
    subtasks: Int64[np.ndarray, " tick"] | None = None,
    executed: Float32[np.ndarray, "tick action"] | None = None,
) -> Keypoints | None:
    """For each tick the thing and its goal.

    Args:
        spec: The body. It must have one gripper in its action, and tell where its hand is (`find_hand`).
        state: Of all ticks, raw units.
        actions: Of all ticks, raw units.
        lengths: Ticks of each episode, in order; nothing is looked up in a neighbor.
        subtasks: Number of the subtask at each tick; None takes each episode as one part.
        executed: What was done of the actions at all ticks; None if it was what was meant.

    Returns:
        The keypoints; None if the body does not tell where its hand is.
    """
    grippers, hand = _grippers(spec), find_hand(spec)
    if len(grippers) != 1 or hand is None:
        return None
    places = state[:, hand[0]]
    points = np.zeros((len(state), 2, 3), np.float32)
    mask = np.zeros((len(state), 2), bool)
    numbers = np.zeros(len(state), np.int64)
    closed = actions[:, grippers[0]] > _CLOSED
    settled = _settled(actions, executed)
    start = 0
    for length in lengths:
        episode = slice(start, start + length)
        words = None if subtasks is None else subtasks[episode]
        for number, first, end in _legs(closed[episode], places[episode], settled[episode], words):
            part, seen = slice(start + first, start + end), slice(start + first, start + min(end + 1, length))
            _fill(
                points[part], mask[part], closed[seen], places[seen]
            )  # a part may end by opening at its end
            numbers[part] = number
        start += length
    return Keypoints(points, mask, numbers)


def _settled(actions: np.ndarray, executed: np.ndarray | None) -> np.ndarray:
    """Ticks (tick,) at which a demonstration is not being pushed, nor was shortly before."""
    pushed = np.zeros(len(actions), bool)
    if executed is not None and len(actions):
        pushed = (np.abs(executed - actions) > _PUSHED * np.ptp(actions, axis=0)).any(axis=1)
    near = np.convolve(pushed, np.ones(1 + _UNSETTLED), "full")[: len(actions)]
    settled: np.ndarray = near == 0
    return settled


def _legs(
    closed: np.ndarray, places: np.ndarray, settled: np.ndarray, words: np.ndarray | None
) -> list[tuple[int, int, int]]:
    """Number, first tick and end of each part of an episode, cut where a detour turns.

    Parts of a detour are counted from its end: what was lost on the way and is taken up behind the
    obstacle goes on with the last one.
    """
    legs, base = [], 0
    for first, end in _parts(closed, words):
        ways = _ways(closed[first:end], places[first:end], settled[first:end])
        most = max(len(way) - 1 for way in ways)
        for way in ways:
            number = base + most - (len(way) - 1)
            legs += [(number + leg, first + a, first + b) for leg, (a, b) in enumerate(pairwise(way))]
        base += most
    return legs


def _ways(closed: np.ndarray, places: np.ndarray, settled: np.ndarray) -> list[list[int]]:
    """First tick, turns and end of each detour of a part and of what comes after; one way if it has none."""
    changes = [0, *(np.flatnonzero(closed[1:] != closed[:-1]) + 1).tolist(), len(closed)]
    ways, start = [], 0
    for first, end in pairwise(changes):
        way = slice(first, end + 1)
        turns = _turns(places[way, :2], settled[way], _DETOUR) if closed[first] else []
        if turns:
            ways.append([start, *(first + turn for turn in turns), end])
            start = end
    if not ways or closed[start:].any():
        return [*ways, [start, len(closed)]]
    ways[-1][-1] = len(closed)  # the hand goes away
    return ways


def _turns(way: np.ndarray, settled: np.ndarray, limit: float) -> list[int]:
    """Where a way (tick, 2) turns that is, settled, farther than `limit` from the straight line, meters."""
    start, chord = way[0], way[-1] - way[0]
    along = np.clip((way - start) @ chord / max(float(chord @ chord), 1e-9), 0.0, 1.0)
    beside = np.linalg.norm(way - start - along[:, None] * chord, axis=1) * settled
    turn = int(beside.argmax())
    if beside[turn] < limit:
        return []
    before = _turns(way[: turn + 1], settled[: turn + 1], _FOLLOWED)
    after = _turns(way[turn:], settled[turn:], _FOLLOWED)
    return [*before, turn, *(turn + more for more in after)]


def _parts(closed: np.ndarray, subtasks: np.ndarray | None) -> list[tuple[int, int]]:
    """First tick and end of each part of an episode."""
    if subtasks is None:
        return [(0, len(closed))]
    fresh = np.sort(np.unique(subtasks, return_index=True)[1])  # where each subtask is met first
    starts = [0, *(int(tick) for tick in fresh if tick > 0 and not closed[tick])]
    return list(zip(starts, [*starts[1:], len(closed)]))


def _fill(points: np.ndarray, mask: np.ndarray, closed: np.ndarray, places: np.ndarray) -> None:
    """Write the keypoints and masks of one part; `closed` and `places` may look one tick beyond it."""
    ticks = len(points)
    changes = np.flatnonzero(closed[1:] != closed[:-1]) + 1
    closings, openings = changes[closed[changes]], changes[~closed[changes]]
    points[:] = places[:ticks, None]
    for tick in range(ticks):
        later = closings[closings >= tick]
        if len(later) and (not closed[tick] or later[0] == tick):
            points[tick, 0], mask[tick, 0] = places[later[0]], True
    if closed[-1]:  # it ends by holding or pressing something, and shall end there
        points[:, 1], mask[:, 1] = places[-1], True
    elif len(openings):  # the last one: what is opened earlier was a failed grasp
        last = openings[-1]
        points[: last + 1, 1], mask[: last + 1, 1] = places[last], True
