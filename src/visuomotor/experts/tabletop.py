"""The expert of the table top: grasp from above, carry, let go.

A function of the state of the environment and of nothing else, so that it knows what to do next
wherever a policy has led it: after a slip, with the wrong thing between the fingers, with the hand
closed beside the object. It sees the true poses of things; a policy that imitates it sees pictures,
so its motion is plain: straight, fast when far, slowing down when near, always pointing down.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from visuomotor.envs.tabletop.env import TabletopEnv
from visuomotor.envs.tabletop.layout import Goal
from visuomotor.envs.tabletop.scene import BOWL_HEIGHT, BOWL_RADIUS, SIZES, Scene
from visuomotor.envs.tabletop.tasks import IN_BOWL, LIFT_HEIGHT

__all__ = ["TabletopExpert"]

_SPEED = 0.05  # meters a tick
_TURN = 0.25  # radians a tick
_GAIN = 0.85  # share of a short way done in one tick
_HOVER = 0.12  # height of the fingertips over everything that stands on the table, meters
_CARRY = 0.085  # height of the lower side of what is carried, meters
_OVER_BOWL = BOWL_HEIGHT + 0.012  # height of the lower side of what is let go, meters
_LOW = 0.018  # lowest grasp, meters
_FUNNEL = 4.0  # meters of height for each meter beside the object
_ALIGNED = 0.014  # meters across the fingers by which the object may be off, however far they are open
_EASE = 0.5  # share of what would do for closing at which the hand goes all the way down
_ARM = 0.04  # meters; a wrong turn counts like this times its angle
_PAD = 0.009  # meters along the pads by which the object may be off their middle
_TURNED = 0.3  # radians by which the hand may be turned while it closes
_DEEP = 0.012  # meters above the grasp from which the fingers close
_ROOM = 0.012  # meters that the fingers must be open beyond the object's width
_RELEASE = 0.022  # meters beside the middle of the bowl at which to let go
_FINGER = 0.046  # meters from the middle of the hand to the middle of an open finger
_THICK = 0.014  # meters around that middle that a finger takes, and a little more
_RIM = 0.009  # meters from the inner to the outer side of a bowl's wall, at most
_MAX_YAW = 1.9  # radians; the last joint ends not far behind


class _Grasp(NamedTuple):
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


class TabletopExpert:
    """Solves every task of `TabletopEnv` in its "ee_delta" and "joint" control."""

    def __call__(self, env: TabletopEnv) -> np.ndarray:
        """The action (action,) for the current state of `env`; does not change `env`."""
        goal, scene = env.wanted, env.scene
        commanded, yaw = env.controller.position, _yaw(env.controller.quat)
        if _delivered(scene, goal):
            target, turn, grip = _retreat(commanded), yaw, 0.0
        elif scene.holds(goal.object):
            target, grip = _carry(scene, goal, commanded)
            turn = yaw
        elif scene.presses() and (other := _other_held(scene, goal)) is not None:
            target, grip = _put_away(scene, other, commanded)
            turn = yaw
        else:
            target, turn, grip = _take(scene, goal.object, commanded, yaw)
        return _action(env, target, turn, grip)


def _action(env: TabletopEnv, target: np.ndarray, yaw: float, grip: float) -> np.ndarray:
    """One tick towards a hand pose, in the control of `env`."""
    gain = _GAIN / (1 + env.scene.world.delay)  # the later actions come, the less they may correct at once
    move = _limited(gain * (target - env.controller.position), _SPEED)
    turn = _limited(gain * env.controller.way_to_yaw(yaw), _TURN)
    delta = np.concatenate([move, turn, [grip]])
    if env.spec.action[0].kind == "ee_delta":
        return delta.astype(np.float32)
    return np.append(env.controller.preview(delta, *env.scene.hand_pose()), grip).astype(np.float32)


def _delivered(scene: Scene, goal: Goal) -> bool:
    """Whether the object is let go of, in the bowl or falling into it."""
    if goal.bowl is None or scene.holds(goal.object):
        return False
    x, y, z = scene.place(goal.object).tolist()
    return math.dist((x, y), scene.bowl(goal.bowl)[:2]) < IN_BOWL and z < _HOVER


def _retreat(commanded: np.ndarray) -> np.ndarray:
    """Straight up, out of the way."""
    return np.array([commanded[0], commanded[1], max(commanded[2], 0.16)])


def _carry(scene: Scene, goal: Goal, commanded: np.ndarray) -> tuple[np.ndarray, float]:
    """Up, over to the bowl, down a little, let go. For lifting, only up."""
    bottom = _bottom(scene, goal.object)
    if goal.bowl is None:
        return commanded + np.array([0.0, 0.0, LIFT_HEIGHT + 0.03 - bottom]), 1.0
    beside = scene.bowl(goal.bowl)[:2] - scene.place(goal.object)[:2]
    distance = float(np.hypot(*beside))
    if distance < _RELEASE and bottom < _CARRY + 0.03:
        return commanded, 0.0
    height = _OVER_BOWL + min(_CARRY - _OVER_BOWL, max(0.0, distance - 0.04))
    # The lower the thing hangs, the slower it goes sideways: it clears the table and its neighbors.
    near = distance < BOWL_RADIUS
    free = float(bottom > BOWL_HEIGHT) if near else min(1.0, max(0.0, (bottom - 0.01) / 0.05))
    way = _limited(beside, _SPEED * free / _GAIN) if free < 1.0 else beside
    return commanded + np.append(way, height - bottom), 1.0


def _put_away(scene: Scene, number: int, commanded: np.ndarray) -> tuple[np.ndarray, float]:
    """Let go of the wrong thing, but not into a bowl."""
    place = scene.place(number)
    for bowl in range(len(scene.layout.bowls)):
        away = place[:2] - scene.bowl(bowl)[:2]
        distance = float(np.hypot(*away))
        if distance < BOWL_RADIUS + 0.06:
            direction = away / distance if distance > 1e-6 else np.array([-1.0, 0.0])
            up = max(0.0, _CARRY - _bottom(scene, number))
            side = direction * (_SPEED if up < 0.05 else 0.0)
            return commanded + np.append(side, up), 1.0
    drop = _bottom(scene, number)
    if drop > 0.03:
        return commanded - np.array([0.0, 0.0, drop - 0.005]), 1.0
    return commanded, 0.0


def _take(scene: Scene, number: int, commanded: np.ndarray, yaw: float) -> tuple[np.ndarray, float, float]:
    """Over the object, down, close."""
    grasp = _grasp(scene, number, yaw)
    hand, _ = scene.hand()
    above = float(hand[2] - grasp.position[2])
    turn = abs(grasp.yaw - yaw)
    opening = scene.opening()
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
    target[2] += min(_FUNNEL * miss, max(0.0, _HOVER - target[2]))
    if above < 0.05 and miss > 0.03:
        target[:2] = commanded[:2]  # beside it and low: first up
    return target, grasp.yaw, 0.0


def _beside(hand: np.ndarray, point: np.ndarray, yaw: float) -> tuple[float, float]:
    """How far the hand is beside a point, along and across the pads of a hand turned by `yaw`."""
    x, y = float(hand[0] - point[0]), float(hand[1] - point[1])
    sine, cosine = math.sin(yaw), math.cos(yaw)
    return abs(cosine * x + sine * y), abs(cosine * y - sine * x)


def _grasp(scene: Scene, number: int, yaw: float) -> _Grasp:
    """How to take an object: across a narrow side, with little turning, fingers clear of everything else.

    In the middle of the object if the fingers fit beside it there; else off the middle, too.
    """
    place = scene.place(number)
    sides = _sides(scene, number, yaw)
    best = min(
        (_rate(scene, number, yaw, place, side, 0.0, 0.0) for side in sides), key=lambda rated: rated[0]
    )
    if best[1] > 0:
        best = min(
            (
                _rate(scene, number, yaw, place, side, along, across)
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
    if shape == "ball" or (shape == "cylinder" and abs(rotation[2, 2]) > 0.8):
        return [_Side(yaw + math.pi / 2 + step * math.pi / 8, 2 * half[0], 0.0) for step in range(8)]
    if shape == "cylinder":
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
    scene: Scene, number: int, yaw: float, place: np.ndarray, side: _Side, along: float, across: float
) -> tuple[float, float, _Grasp]:
    """Cost of a grasp (the less the better), how crowded it is, and the grasp."""
    turned = _nearest(side.angle - math.pi / 2, yaw)
    sine, cosine = math.sin(turned), math.cos(turned)
    middle = place + np.array([along * cosine, along * sine, 0.0])
    middle[2] = max(place[2], _LOW)
    position = middle + np.array([-across * sine, across * cosine, 0.0])
    crowding = _crowding(scene, number, place, position, side.angle)
    cost = abs(turned - yaw) + 200.0 * crowding + 5.0 * (abs(along) + abs(across))
    return cost, crowding, _Grasp(position, middle, turned, side.width, max(_PAD, 0.5 * side.long))


def _nearest(angle: float, yaw: float) -> float:
    """`angle` plus a multiple of half a turn, nearest to `yaw`, within reach of the last joint."""
    best = angle + math.pi * round((yaw - angle) / math.pi)
    if abs(best) > _MAX_YAW:
        best -= math.copysign(math.pi, best)
    return best


def _crowding(scene: Scene, number: int, place: np.ndarray, hand: np.ndarray, angle: float) -> float:
    """By how many meters the open fingers of a hand would run into walls and things other than `number`."""
    crowding = 0.0
    others = [other for other in range(len(scene.layout.objects)) if other != number]
    for side in (-_FINGER, _FINGER):
        x, y = hand[0] + side * math.cos(angle), hand[1] + side * math.sin(angle)
        for other in others:
            crowding += max(0.0, _THICK - _gap(scene, other, x, y))
        for bowl in range(len(scene.layout.bowls)):
            center = scene.bowl(bowl)[:2]
            gap = math.dist((x, y), center)
            if math.dist(place[:2], center) < BOWL_RADIUS:
                crowding += max(0.0, gap + _THICK - BOWL_RADIUS)
            else:
                crowding += max(0.0, BOWL_RADIUS + _RIM + _THICK - gap)
    return crowding


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


def _other_held(scene: Scene, goal: Goal) -> int | None:
    """The object between the fingers that should not be there."""
    for number in range(len(scene.layout.objects)):
        if number != goal.object and scene.holds(number):
            return number
    return None


def _bottom(scene: Scene, number: int) -> float:
    """Height of an object's lower side, meters."""
    return float(scene.place(number)[2]) - scene.extent(number, np.array([0.0, 0.0, 1.0]))


def _yaw(quat: np.ndarray) -> float:
    """Direction of the hand's x axis on the table, radians from the world's x axis."""
    w, x, y, z = quat
    return math.atan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    """`vector`, shortened to `limit` if it is longer."""
    length = float(np.sqrt(vector @ vector))
    return vector * (limit / length) if length > limit else vector
