"""How to take a thing from above: between which faces, how turned, and the way there.

A function of the state alone: from wherever the hand is, it goes up if it is low and beside, over the
thing, down in a funnel, and closes once both fingers stand beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from visuomotor.embodiments.base import Arm
from visuomotor.envs.tabletop.build import BOWL_RADIUS, SIZES
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.things import BUTTON_RADIUS, DRAWER, SOCKET_OUTER_RADIUS

__all__ = ["HOVER", "Grasp", "approach", "find_grasp", "middle_yaw", "yaw_of"]

HOVER = 0.12
"""Height of the fingertips over everything that stands on the table, meters."""

_LOW = 0.018  # lowest grasp, meters
_FUNNEL = 4.0  # meters of height for each meter beside the object
_ALIGNED = 0.014  # meters across the fingers by which the object may be off, however far they are open
_EASE = 0.5  # share of what would do for closing at which the hand goes all the way down
_ARM = 0.04  # meters; a wrong turn counts like this times its angle
_PAD = 0.009  # meters along the pads by which the object may be off their middle
_TURNED = 0.3  # radians by which the hand may be turned while it closes
_DEEP = 0.012  # meters above the grasp from which the fingers close
_LOW_HAND = 0.05  # meters above the grasp below which a hand beside the object is low
_ROOM = 0.012  # meters that the fingers must be open beyond the object's width
_FINGER = 0.046  # meters from the middle of the hand to the middle of an open finger
_THICK = 0.014  # meters around that middle that a finger takes, and a little more
_RIM = 0.009  # meters from the inner to the outer side of a bowl's wall, at most
_ROUND = {"button": BUTTON_RADIUS, "socket": SOCKET_OUTER_RADIUS}
_MAX_YAW = 1.9  # radians; the last joint ends not far behind


class Grasp(NamedTuple):
    """Where the hand must be to take a thing.

    Attributes:
        position: Of the hand (3,), meters.
        middle: Of the part of the thing between the fingers (3,), meters.
        yaw: Of the hand, radians.
        width: Of the thing between the fingers, meters.
        slack: How far the thing may be off the middle of the pads, meters.
    """

    position: np.ndarray
    middle: np.ndarray
    yaw: float
    width: float
    slack: float


def approach(
    scene: Scene, grasp: Grasp, commanded: np.ndarray, yaw: float, who: int = 0
) -> tuple[np.ndarray, float, float]:
    """Over the thing, down, close: where the hand should be (3,), its yaw, and the gripper.

    Args:
        scene: Facts.
        grasp: How to take the thing.
        commanded: Commanded position of the hand (3,), meters.
        yaw: Commanded yaw of the hand, radians.
        who: Number of the hand.
    """
    hand, _ = scene.hand(who)
    above = float(hand[2] - grasp.position[2])
    turn = abs(grasp.yaw - yaw)
    opening = scene.opening(who)
    # Fingers that stand on both sides of the object may close: they push it to their middle.
    room = max(_ALIGNED, (opening - grasp.width) / 2)
    along, across = _beside(hand, grasp.middle, grasp.yaw)
    if above < _DEEP and along < grasp.slack and across < room and turn < _TURNED:
        return grasp.position, grasp.yaw, 1.0
    along, across = _beside(hand, grasp.position, grasp.yaw)
    miss = max(0.0, along - _EASE * grasp.slack) + max(0.0, across - _EASE * room)
    miss += _ARM * max(0.0, turn - _EASE * _TURNED)
    if opening < grasp.width + _ROOM:
        miss = 1.0  # stay above until the fingers are open
    target = grasp.position.copy()
    # A high thing has its own hover: where the hand counts as low it must still be able to go up.
    hover = max(HOVER, target[2] + _LOW_HAND + 0.01)
    target[2] += min(_FUNNEL * miss, hover - target[2])
    if above < _LOW_HAND and miss > 0.03:
        target[:2] = commanded[:2]  # beside it and low: first up
    return target, grasp.yaw, 0.0


def _beside(hand: np.ndarray, point: np.ndarray, yaw: float) -> tuple[float, float]:
    """How far the hand is beside a point, along and across the pads of a hand turned by `yaw`."""
    x, y = float(hand[0] - point[0]), float(hand[1] - point[1])
    sine, cosine = math.sin(yaw), math.cos(yaw)
    return abs(cosine * x + sine * y), abs(cosine * y - sine * x)


def find_grasp(scene: Scene, number: int, yaw: float, who: int = 0) -> Grasp:
    """How to take an object: across a narrow side, with little turning, fingers clear of everything else.

    In the middle of the object if the fingers fit beside it there; else off the middle, too.
    """
    arm, place = scene.body.arms[who], scene.place(number)
    sides = _sides(scene, number, yaw)
    best = min(
        (_rate(scene, arm, number, yaw, place, side, 0.0, 0.0) for side in sides), key=lambda rated: rated[0]
    )
    if best[1] > 0:
        best = min(
            (
                _rate(scene, arm, number, yaw, place, side, along, across)
                for side in sides
                for along in (0.0, -0.6 * side.long, 0.6 * side.long)
                for across in (0.0, -0.012, 0.012)
            ),
            key=lambda rated: rated[0],
        )
    return best[2]


class _Side(NamedTuple):
    """A pair of faces to press on: angle of the closing direction, width, and half length along the pads."""

    angle: float
    width: float
    long: float


def _sides(scene: Scene, number: int, yaw: float) -> list[_Side]:
    """Every pair of faces that the fingers can reach from above."""
    shape = scene.layout.objects[number].shape
    rotation, half = scene.rotation(number), SIZES[shape]
    if shape == "ball" or (shape in ("cylinder", "peg") and abs(rotation[2, 2]) > 0.8):
        return [_Side(yaw + math.pi / 2 + step * math.pi / 8, 2 * half[0], 0.0) for step in range(8)]
    if shape in ("cylinder", "peg"):
        x, y, _ = rotation[:, 2].tolist()
        return [_Side(math.atan2(y, x) + math.pi / 2, 2 * half[0], half[2])]
    sides = []
    for index in range(3):
        x, y, z = rotation[:, index].tolist()
        if half[index] < 0.035 and abs(z) < 0.72:  # of two narrow sides one leans by 45 degrees or less
            across = np.array([-y, x, 0.0]) / math.hypot(x, y)
            length = scene.extent(number, across)
            sides.append(_Side(math.atan2(y, x), 2 * half[index], length if length > 0.035 else 0.0))
    return sides


def _rate(
    scene: Scene,
    arm: Arm,
    number: int,
    yaw: float,
    place: np.ndarray,
    side: _Side,
    along: float,
    across: float,
) -> tuple[float, float, Grasp]:
    """Cost of a grasp (the less the better), how crowded it is, and the grasp."""
    turned = _nearest(side.angle - math.pi / 2, yaw, arm)
    sine, cosine = math.sin(turned), math.cos(turned)
    middle = place + np.array([along * cosine, along * sine, 0.0])
    middle[2] = max(place[2], _LOW, scene.to_layout(np.array(arm.reach[0]))[2])
    position = middle + np.array([-across * sine, across * cosine, 0.0])
    crowding = _crowding(scene, number, place, position, side.angle)
    cost = abs(turned - yaw) + 200.0 * crowding + 5.0 * (abs(along) + abs(across))
    return cost, crowding, Grasp(position, middle, turned, side.width, max(_PAD, 0.5 * side.long))


def _nearest(angle: float, yaw: float, arm: Arm) -> float:
    """`angle` plus a multiple of half a turn, nearest to `yaw`, within reach of the last joint."""
    best = angle + math.pi * round((yaw - angle) / math.pi)
    beside = best - middle_yaw(arm)
    if abs(beside) > min(_MAX_YAW, arm.turn):
        best -= math.copysign(math.pi, beside)
    return best


def middle_yaw(arm: Arm) -> float:
    """Yaw of a looking-down hand about which the last joint can turn to both sides."""
    return yaw_of(np.array(arm.down))


def yaw_of(quat: np.ndarray) -> float:
    """Direction of the hand's x axis on the table, radians from the world's x axis."""
    w, x, y, z = quat
    return math.atan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def _crowding(scene: Scene, number: int, place: np.ndarray, hand: np.ndarray, angle: float) -> float:
    """By how many meters the open fingers of a hand would run into walls and things other than `number`."""
    crowding = 0.0
    others = [other for other in range(len(scene.layout.objects)) if other != number]
    for side in (-_FINGER, _FINGER):
        x, y = hand[0] + side * math.cos(angle), hand[1] + side * math.sin(angle)
        for other in others:
            crowding += max(0.0, _THICK - _gap(scene, other, x, y))
        for number_of_fixture in range(len(scene.layout.fixtures)):
            crowding += _too_near(scene, number_of_fixture, place, x, y)
    return crowding


def _too_near(scene: Scene, number: int, place: np.ndarray, x: float, y: float) -> float:
    """By how many meters a finger at (x, y) that takes something at `place` runs into a fixture."""
    fixture, center = scene.layout.fixtures[number], scene.fixture(number)[:2]
    gap = math.dist((x, y), center)
    if fixture.kind == "bowl":
        if math.dist(place[:2], center) < BOWL_RADIUS:
            return max(0.0, gap + _THICK - BOWL_RADIUS)
        return max(0.0, BOWL_RADIUS + _RIM + _THICK - gap)
    if fixture.kind in _ROUND:
        return max(0.0, _ROUND[fixture.kind] + _THICK - gap)
    if fixture.kind == "drawer":
        inside = abs(place[0] - center[0]) < DRAWER.inner[0] and abs(place[1] - center[1]) < DRAWER.inner[1]
        beside, along = fixture.local((x, y))
        front = -DRAWER.half[1] - scene.travel(number)
        away = math.hypot(max(abs(beside) - DRAWER.half[0], 0), max(along - DRAWER.half[1], front - along, 0))
        return 0.0 if inside else max(0.0, _THICK - away)
    return 0.0


def _gap(scene: Scene, number: int, x: float, y: float) -> float:
    """Distance from a vertical line to the sides of an object, meters; 0 inside."""
    place = scene.place(number)
    away = np.array([x - place[0], y - place[1], 0.0])
    if math.hypot(away[0], away[1]) > 0.09:
        return 0.09 - max(SIZES["bar"])  # far enough from any thing
    shape = scene.layout.objects[number].shape
    if shape == "ball":
        return max(0.0, math.hypot(away[0], away[1]) - SIZES[shape][0])
    beyond = np.maximum(np.abs(away @ scene.rotation(number)) - SIZES[shape], 0.0)
    return float(np.sqrt(beyond @ beyond))
