"""Hindsight: where the hand is, and where it will be when the gripper next closes and last opens.

Most of a manipulation episode is decided by two places: that of the thing and that of its goal. A
demonstration names both itself, later: the measured pose of the hand at the tick at which the
commanded gripper changes. Known as keyframes or keypoints (James and Davison 2022, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from visuomotor.types import Spec

__all__ = ["find_keypoints"]

_CLOSED = 0.5  # commands above it are "closed", of 0 open to 1 closed


def find_keypoints(
    spec: Spec,
    state: Float32[np.ndarray, "tick state"],
    actions: Float32[np.ndarray, "tick action"],
    lengths: Sequence[int],
) -> tuple[Float32[np.ndarray, "tick 3 3"], Bool[np.ndarray, "tick 3"]] | None:
    """For each tick the places of the hand now, at the next closing and at the last opening, with a mask.

    Args:
        spec: The body. It must have one gripper in its action, and its state must begin the measured
            pose of the hand with three dimensions of kind "ee" in meters.
        state: Of all ticks, raw units.
        actions: Of all ticks, raw units.
        lengths: Ticks of each episode, in order; nothing is looked up in a neighbor.

    Returns:
        Places in meters in the frame of the body, and `True` where there is such a tick later in the
        episode; None if the body does not tell where its hand is.
    """
    grippers = [index for index, dimension in enumerate(spec.action) if dimension.kind == "gripper"]
    places = [
        index
        for index, dimension in enumerate(spec.state)
        if dimension.kind == "ee" and dimension.unit == "m"
    ][:3]
    if len(grippers) != 1 or len(places) != 3:
        return None
    points = np.zeros((len(state), 3, 3), np.float32)
    mask = np.zeros((len(state), 3), bool)
    points[:, 0], mask[:, 0] = state[:, places], True
    closed = actions[:, grippers[0]] > _CLOSED
    start = 0
    for length in lengths:
        later: list[int | None] = [None, None]  # next closing, last opening
        for tick in range(start + length - 1, start, -1):
            if closed[tick] != closed[tick - 1]:
                if closed[tick]:
                    later[0] = tick
                elif later[1] is None:  # the last one: what is opened earlier was a failed grasp
                    later[1] = tick
            _fill(points, mask, tick, later, state[:, places])
        if length:
            _fill(points, mask, start, later, state[:, places])
        start += length
    return points, mask


def _fill(
    points: np.ndarray, mask: np.ndarray, tick: int, later: Sequence[int | None], places: np.ndarray
) -> None:
    for which, event in enumerate(later, start=1):
        if event is not None:
            points[tick, which], mask[tick, which] = places[event], True
