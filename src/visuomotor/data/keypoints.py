"""Hindsight: where the thing is that a demonstration moves, and where it will bring it.

Most of a manipulation episode is decided by two places: that of the thing and that of its goal. A
demonstration names both itself, later: the measured hand when the commanded gripper changes. Until
the gripper closes, the thing is where it will close; the goal is where the gripper opens last. Known
as keyframes or keypoints (James and Davison 2022, section 4.2). While the gripper is closed, the thing
is about where the hand is, but not exactly; after the last opening nothing is told. A demonstration
that ends with a closed gripper, as one that lifts, has no goal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from visuomotor.transforms.hand import find_hand
from visuomotor.types import Spec

__all__ = ["find_keypoints"]

_CLOSED = 0.5  # commands above it are "closed", of 0 open to 1 closed


def find_keypoints(
    spec: Spec,
    state: Float32[np.ndarray, "tick state"],
    actions: Float32[np.ndarray, "tick action"],
    lengths: Sequence[int],
) -> tuple[Float32[np.ndarray, "tick 2 3"], Bool[np.ndarray, "tick 2"]] | None:
    """For each tick the thing and its goal, with a mask.

    Args:
        spec: The body. It must have one gripper in its action, and tell where its hand is (`find_hand`).
        state: Of all ticks, raw units.
        actions: Of all ticks, raw units.
        lengths: Ticks of each episode, in order; nothing is looked up in a neighbor.

    Returns:
        Places in meters in the frame of the body, and `True` where the episode tells them exactly; else
        that of the hand. None if the body does not tell where its hand is.
    """
    grippers = [index for index, dimension in enumerate(spec.action) if dimension.kind == "gripper"]
    hand = find_hand(spec)
    if len(grippers) != 1 or hand is None:
        return None
    places = state[:, hand[0]]
    points = np.zeros((len(state), 2, 3), np.float32)
    mask = np.zeros((len(state), 2), bool)
    closed = actions[:, grippers[0]] > _CLOSED
    start = 0
    for length in lengths:
        episode = slice(start, start + length)
        _fill(points[episode], mask[episode], closed[episode], places[episode])
        start += length
    return points, mask


def _fill(points: np.ndarray, mask: np.ndarray, closed: np.ndarray, places: np.ndarray) -> None:
    """Write the keypoints and masks of one episode."""
    changes = np.flatnonzero(closed[1:] != closed[:-1]) + 1
    closings, openings = changes[closed[changes]], changes[~closed[changes]]
    points[:] = places[:, None]
    for tick in range(len(closed)):
        later = closings[closings >= tick]
        if len(later) and (not closed[tick] or later[0] == tick):
            points[tick, 0], mask[tick, 0] = places[later[0]], True
    if len(openings) and not closed[-1]:  # the last one: what is opened earlier was a failed grasp
        last = openings[-1]
        points[: last + 1, 1], mask[: last + 1, 1] = places[last], True
