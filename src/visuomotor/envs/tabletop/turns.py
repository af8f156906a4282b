"""Which of two hands works now: a function of the state, so that everybody agrees without speaking.

A hand reaches its own half of the table and a little more. What must go from one half to the other is
put down in the middle by one hand and taken there by the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.things import BESIDE_SPOT, SIDES, Goal

__all__ = ["Turn", "destination", "whose_turn"]


class Turn(NamedTuple):
    """Who works.

    Attributes:
        hand: Number of the hand.
        finishes: Whether it can do all that is left; otherwise it brings the object to the middle.
    """

    hand: int
    finishes: bool


def whose_turn(scene: Scene, goal: Goal) -> Turn:
    """Who works on a goal of one stage with an object: whoever holds it, or the nearest that may finish."""
    hands = range(len(scene.body.arms))
    if len(hands) == 1:
        return Turn(0, True)
    place = scene.place(goal.object)
    able = [hand for hand in hands if _may_finish(scene, goal, hand)]
    holders = scene.holders(goal.object)
    taking = [hand for hand in hands if scene.reaches(place, hand)]
    for hands_left in (
        [hand for hand in holders if hand in able],
        holders,
        [hand for hand in taking if hand in able],
        taking,
    ):
        if hands_left:
            hand = min(hands_left, key=lambda hand: math.dist(scene.hand(hand)[0][:2], place[:2]))
            return Turn(hand, hand in able)
    nearest = min(hands, key=lambda hand: math.dist(scene.hand(hand)[0][:2], place[:2]))
    return Turn(nearest, nearest in able)


def _may_finish(scene: Scene, goal: Goal, hand: int) -> bool:
    """Whether a hand can do the last part of a goal, if it has the object."""
    if goal.hand is not None:
        return scene.body.arms[hand].name == goal.hand
    point = destination(scene, goal)
    return point is None or scene.reaches(point, hand)


def destination(scene: Scene, goal: Goal) -> np.ndarray | None:
    """Where the object of a goal goes (2,), meters; None if it goes nowhere."""
    if goal.side is not None:
        return scene.fixture(goal.fixture)[:2] + BESIDE_SPOT * np.array(SIDES[goal.side])
    if goal.fixtures:
        return scene.fixture(goal.fixture)[:2]
    return scene.place(goal.objects[1])[:2] if len(goal.objects) > 1 else None
