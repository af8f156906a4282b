"""How two hands share a table: where they meet, how the idle one rests, and how far they keep apart.

One hand works at a time (`turns.whose_turn`). The other lets go of what it has, goes up and home; the
one that works waits until there is room.
"""

from __future__ import annotations

import math

import numpy as np

from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.things import SIDES
from visuomotor.experts.grasping import HOVER

__all__ = ["apart", "homewards", "meeting", "resting"]

_MEET_X = np.arange(0.26, 0.75, 0.02)  # meters; places where things are put down for the other hand
_MEET_Y = (-0.03, -0.015, 0.0, 0.015, 0.03)
_MEET_ROOM = 0.075  # meters around such a place that nothing else takes
_CROWDED = 4.0  # meters of way that a meter less of room is worth
_APART = 0.17  # meters between the hands, from left to right
_REST = (0.5, 0.33, 0.19)  # meters; where the left hand rests
_HIGH = 0.13  # meters; from there on a hand goes home aslant
_OWN = 0.12  # meters from the middle of the table to what a hand has brought home


def meeting(scene: Scene, number: int) -> np.ndarray:
    """Where an object is put down for the other hand (2,): near it, with room around."""
    place = scene.place(number)[:2]
    others = [other for other in range(len(scene.layout.objects)) if other != number]
    spots = np.stack(np.meshgrid(_MEET_X, _MEET_Y), axis=-1).reshape(-1, 2)  # spot 2
    hands = range(len(scene.body.arms))
    spots = np.array([spot for spot in spots if all(scene.reaches(spot, hand) for hand in hands)])
    cost = np.hypot(*(spots - place).T)
    for other in others:
        reach = scene.extent(other, np.array([1.0, 0.0, 0.0])), scene.extent(other, np.array([0.0, 1.0, 0.0]))
        gap = np.hypot(*np.maximum(np.abs(spots - scene.place(other)[:2]) - reach, 0.0).T)
        cost += _CROWDED * np.maximum(0.0, _MEET_ROOM - gap)
    for fixture in scene.layout.fixtures:
        gap = np.array([fixture.gap((x, y)) for x, y in spots.tolist()])
        cost += _CROWDED * np.maximum(0.0, _MEET_ROOM - gap)
    return spots[int(np.argmin(cost))]


def resting(scene: Scene, commanded: np.ndarray, who: int) -> np.ndarray:
    """Where an idle hand goes (3,): up, and home."""
    if float(scene.hand(who)[0][2]) < _HIGH:
        return np.array([commanded[0], commanded[1], max(commanded[2], _HIGH + 0.02)])
    return np.array([_REST[0], _side(scene, who) * _REST[1], _REST[2]])


def homewards(scene: Scene, number: int, who: int) -> float:
    """Way to the left, meters, by which a hand brings what it holds to its own half."""
    side = _side(scene, who)
    return side * max(0.0, _OWN - side * float(scene.place(number)[1]))


def apart(scene: Scene, target: np.ndarray, commanded: np.ndarray, who: int) -> np.ndarray:
    """`target` (3,) of a hand, or where it waits above the things until the other hand makes room."""
    side = _side(scene, who)
    others = [hand for hand in range(len(scene.body.arms)) if hand != who]
    nearest = max(side * float(scene.hand(hand)[0][1]) for hand in others) + _APART
    if side * target[1] >= nearest:
        return target
    return np.array([target[0], side * nearest, max(target[2], commanded[2], HOVER)])


def _side(scene: Scene, who: int) -> float:
    """1 for the left hand, -1 for the right one."""
    return math.copysign(1.0, SIDES[scene.body.arms[who].name][1])
