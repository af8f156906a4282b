"""The expert of the table top: skills that grasp from above, carry, push, pull and press.

A function of the state of the environment and of nothing else, so that it knows what to do next
wherever a policy has led it: after a slip, with the wrong thing between the fingers, with the hand
closed beside the object. It sees the true poses of things; a policy that imitates it sees pictures,
so its motion is plain: straight, fast when far, slowing down when near, always pointing down. Whatever
it does, it closes the gripper where something is taken, pushed or pressed, and opens it where that
shall be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from visuomotor.envs.tabletop.build import BOWL_HEIGHT, BOWL_RADIUS, SOCKET_HEIGHT
from visuomotor.envs.tabletop.env import TabletopEnv
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.tasks import GIVEN_HEIGHT, IN_BOWL, LIFT_HEIGHT, OPEN, inside
from visuomotor.envs.tabletop.things import (
    BESIDE_SPOT,
    BUTTON_RADIUS,
    DRAWER,
    SIDES,
    ZONE_RADIUS,
    Goal,
    of_kind,
)
from visuomotor.envs.tabletop.turns import whose_turn
from visuomotor.experts.grasping import HOVER, Grasp, approach, find_grasp, middle_yaw, yaw_of
from visuomotor.experts.two_hands import apart, homewards, meeting, resting

__all__ = ["TabletopExpert"]

_SPEED = 0.05  # meters a tick
_TURN = 0.25  # radians a tick
_GAIN = 0.85  # share of a short way done in one tick
_CARRY = 0.085  # height of the lower side of what is carried, meters
_OVER_HANDLES = DRAWER.handle_height + 0.02  # the same where handles stand in the way
_ROOM = 0.024  # meters from the middle of a bowl to where a second object goes
_NOSE = 0.005  # meters by which the round end of a peg may be beside its socket, more than it has room
_HELD = {"lift": LIFT_HEIGHT, "hand_over": GIVEN_HEIGHT}  # meters above the table that shall be reached
_UP = 0.16  # height of a hand that has done its work, meters
_SHUT = 0.019  # opening of fingers that are closed enough to press, meters
_PUSH_STEP = 0.035  # meters a tick at which an object is pushed
_AFLOAT = 0.002  # height of the lower side of a pushed object, meters
_CENTER = 0.022  # meters from the middle of the zone at which the push ends
_HANDLE_GRASP = DRAWER.handle_height - 0.02  # height of the hand on a handle, meters
_NEAR_HANDLE = 0.065  # meters from a handle at which an open hand would hook it
_OVER_BUTTON = 0.075  # height of the hand above a button while it closes, meters
_ON_BUTTON = 0.008  # meters beside the middle of a button at which the hand goes down
_ASIDE = 0.180  # meters beside the middle of the fence at which a hand passes
_BEFORE = 0.100  # meters before and behind the fence at which a hand turns
_DECIDED = 0.05  # meters beside the middle of the fence at which a hand has chosen its side

Plan = tuple[np.ndarray, float, float]  # hand position (3,), yaw, gripper
Skill = Callable[[Scene, Goal, np.ndarray, float, int], Plan]


class _Spot(NamedTuple):
    """Where something is put down.

    Attributes:
        point: On the table (2,), meters.
        drop: Height of the lower side of what is let go, meters.
        rim: Height of what stands around, meters.
        within: Distance from the point within which nothing may be lower than the rim, meters.
        slack: Distance from the point at which to let go, meters.
        high: Greatest height of the lower side at which to let go, meters.
        steep: Meters of height for each meter beside, beyond `flat`.
        flat: Distance from the point from which the hand comes down, meters.
    """

    point: np.ndarray
    drop: float
    rim: float
    within: float
    slack: float
    high: float
    steep: float = 1.0
    flat: float = 0.04


class TabletopExpert:
    """Solves every task of `TabletopEnv` in its "ee_delta" and "joint" control."""

    def __call__(self, env: TabletopEnv) -> np.ndarray:
        """The action (action,) for the current state of `env`; does not change `env`."""
        goal, scene, hands = env.stage, env.scene, range(len(env.controllers))
        skill = _SKILLS.get(goal.task, _bring) if len(hands) == 1 else _share
        plans = [skill(scene, goal, *_commanded(env, hand), hand) for hand in hands]
        return np.concatenate([_action(env, hand, *plan) for hand, plan in enumerate(plans)])


def _commanded(env: TabletopEnv, hand: int) -> tuple[np.ndarray, float]:
    """Where a hand is commanded to be: position (3,) in the layout, and yaw."""
    controller, middle = env.controllers[hand], middle_yaw(env.body.arms[hand])
    yaw = middle + math.remainder(yaw_of(controller.quat) - middle, math.tau)
    return env.scene.to_layout(controller.position), yaw


def _action(env: TabletopEnv, hand: int, target: np.ndarray, yaw: float, grip: float) -> np.ndarray:
    """One tick of a hand towards a pose, in the control of `env`."""
    arm, controller, rate = env.body.arms[hand], env.controllers[hand], env.spec.rate
    gain = _GAIN / (1 + env.scene.world.delay)  # the later actions come, the less they may correct at once
    way = env.scene.to_base(target) - controller.position
    move = _limited(gain * way, min(_SPEED * env.body.scale, arm.move_limit / rate))
    turned = controller.way_to_yaw(yaw - middle_yaw(arm))
    turn = _limited(gain * turned, min(_TURN, arm.turn_limit / rate))
    delta = np.concatenate([move, turn, [grip]])
    if env.spec.action[0].kind == "ee_delta":
        return delta.astype(np.float32)
    return np.append(controller.preview(delta, *env.scene.hand_pose(hand)), grip).astype(np.float32)


# ---- take and put -------------------------------------------------------------------------------


def _bring(scene: Scene, goal: Goal, commanded: np.ndarray, yaw: float, who: int) -> Plan:
    """Take an object and put it where it shall be; for `lift` and `hand_over`, hold it up."""
    spot = _spot(scene, goal)
    if spot is not None and _delivered(scene, goal.object, spot, who):
        return _retreat(commanded), yaw, 0.0
    return _bring_to(scene, goal, spot, commanded, yaw, who)


def _share(scene: Scene, goal: Goal, commanded: np.ndarray, yaw: float, who: int) -> Plan:
    """The part of one of two hands: bring the object where it shall be, or to the middle, or rest."""
    turn = whose_turn(scene, goal)
    if who != turn.hand:
        if scene.holds(goal.object, who):
            return commanded, yaw, 0.0
        if scene.presses(who) and (other := _other_held(scene, goal, who)) is not None:
            target, grip = _put_away(scene, other, commanded)
            return target, yaw, grip
        return resting(scene, commanded, who), middle_yaw(scene.body.arms[who]), 0.0
    if turn.finishes:
        target, turned, grip = _bring(scene, goal, commanded, yaw, who)
    else:
        middle = _on_table(meeting(scene, goal.object))
        target, turned, grip = _bring_to(scene, goal, middle, commanded, yaw, who)
    return apart(scene, target, commanded, who), turned, grip


def _bring_to(
    scene: Scene, goal: Goal, spot: _Spot | None, commanded: np.ndarray, yaw: float, who: int
) -> Plan:
    """Take an object and put it down at a spot, or hold it up."""
    if scene.holds(goal.object, who):
        if spot is None:
            bottom = scene.bottom(goal.object)
            aside = homewards(scene, goal.object, who) if goal.hand and bottom > _CARRY / 2 else 0.0
            return commanded + np.array([0.0, aside, _HELD[goal.task] + 0.03 - bottom]), yaw, 1.0
        carry = _lower_in if goal.task == "insert" else _carry
        target, grip = carry(scene, goal.object, spot, commanded, who)
        return target, yaw, grip
    if scene.presses(who) and (other := _other_held(scene, goal, who)) is not None:
        target, grip = _put_away(scene, other, commanded)
        return target, yaw, grip
    grasp = find_grasp(scene, goal.object, yaw, who)
    if _at_handle(scene, grasp.position, who):
        return _retreat(commanded), yaw, 0.0
    target, turn, grip = approach(scene, grasp, commanded, yaw, who)
    target[:2] = _around(scene, commanded, target[:2])
    return target, turn, grip


def _spot(scene: Scene, goal: Goal) -> _Spot | None:
    """Where the object of a goal shall be put down; None where it is only lifted."""
    if goal.task in _HELD:
        return None
    if goal.task == "stack":
        place, up = scene.place(goal.objects[1]), np.array([0.0, 0.0, 1.0])
        top = float(place[2]) + scene.extent(goal.objects[1], up)
        return _Spot(place[:2], top + 0.003, top, 0.04, 0.007, top + 0.008, steep=3.0, flat=0.012)
    fixture, center = scene.layout.fixtures[goal.fixture], scene.fixture(goal.fixture)[:2]
    if goal.side is not None:
        return _on_table(center + BESIDE_SPOT * np.array(SIDES[goal.side]))
    if fixture.kind == "drawer":  # the middle of what the chest does not cover
        covered = (DRAWER.travel - scene.travel(goal.fixture)) / 2 + 0.004
        return _Spot(
            center + covered * np.array(fixture.out), DRAWER.height + 0.01, DRAWER.height, 0.07, 0.014, 0.095
        )
    if fixture.kind == "socket":
        return _Spot(center, 0.004, SOCKET_HEIGHT, 0.05, 0.02, 0.022)
    point = center + _beside_others(scene, goal)
    return _Spot(point, BOWL_HEIGHT + 0.012, BOWL_HEIGHT, BOWL_RADIUS, 0.022, _CARRY + 0.03)


def _on_table(point: np.ndarray) -> _Spot:
    """On the bare table."""
    return _Spot(point, 0.004, 0.0, 0.02, 0.016, 0.012, steep=2.5, flat=0.015)


def _beside_others(scene: Scene, goal: Goal) -> np.ndarray:
    """From the middle of a bowl to where there is room in it (2,): away from what lies in it already."""
    center = scene.fixture(goal.fixture)[:2]
    others = [number for number in range(len(scene.layout.objects)) if number != goal.object]
    ways = [center - scene.place(number)[:2] for number in others if inside(scene, number, goal.fixture)]
    if not ways:
        return np.zeros(2)
    away = np.mean(ways, axis=0)
    length = float(np.hypot(*away))
    return _ROOM * (away / length if length > 0.004 else np.array([0.0, 1.0]))


def _delivered(scene: Scene, number: int, spot: _Spot, who: int) -> bool:
    """Whether an object is let go of, where it shall be or falling there."""
    if scene.holds(number, who):
        return False
    distance = math.dist(scene.place(number)[:2], spot.point)
    if spot.rim == BOWL_HEIGHT:
        return distance < IN_BOWL and float(scene.place(number)[2]) < HOVER
    return distance < max(spot.slack + 0.012, 0.02) and scene.bottom(number) < spot.high + 0.004


def _retreat(commanded: np.ndarray) -> np.ndarray:
    """Straight up, out of the way."""
    return np.array([commanded[0], commanded[1], max(commanded[2], _UP)])


def _carry(
    scene: Scene, number: int, spot: _Spot, commanded: np.ndarray, who: int
) -> tuple[np.ndarray, float]:
    """Up, over to the spot, down a little, let go."""
    bottom = scene.bottom(number)
    beside = spot.point - scene.place(number)[:2]
    distance = float(np.hypot(*beside))
    if distance < spot.slack and bottom < spot.high:
        return commanded, 0.0
    beside = _around(scene, commanded, commanded[:2] + beside) - commanded[:2]
    above = min(_cruise(scene) - spot.drop, max(0.0, spot.steep * (distance - spot.flat)))
    height = spot.drop + max(above, 0.0)
    # The lower the thing hangs, the slower it goes sideways: it clears the table and its neighbors.
    near = distance < spot.within
    free = float(bottom > spot.rim) if near else min(1.0, max(0.0, (bottom - 0.01) / 0.05))
    way = _limited(beside, _SPEED * free / _GAIN) if free < 1.0 else beside
    return commanded + np.append(way, height - bottom), 1.0


def _lower_in(
    scene: Scene, number: int, spot: _Spot, commanded: np.ndarray, who: int
) -> tuple[np.ndarray, float]:
    """Over the socket, down softly where it may fit, so that it slips in, let go near its floor."""
    bottom = scene.bottom(number)
    hand, _ = scene.hand(who)
    beside = spot.point - scene.place(number)[:2]
    distance = float(np.hypot(*beside))
    inserted = distance < 0.02 and bottom < spot.rim - 0.004
    if inserted or distance < scene.tolerance + _NOSE:
        if bottom < spot.high:
            return commanded, 0.0
        # From where the hand is, not from where it should be: what is in the way is pressed on softly.
        return hand + np.append(beside, _clipped(spot.drop - bottom, 0.02)), 1.0
    height = spot.rim + 0.006 + min(_CARRY - spot.rim, max(0.0, distance - 0.03))
    free = min(1.0, max(0.0, (bottom - 0.01) / 0.05)) if distance > 0.06 else float(bottom > spot.rim)
    way = _limited(beside, _SPEED * free / _GAIN) if free < 1.0 else beside
    return commanded + np.append(way, height - bottom), 1.0


def _at_handle(scene: Scene, target: np.ndarray, who: int) -> bool:
    """Whether the hand is low at the handle of a drawer and wants to go elsewhere."""
    hand, _ = scene.hand(who)
    if hand[2] > _OVER_HANDLES:
        return False
    handles = (scene.handle(number)[:2] for number in of_kind(scene.layout.fixtures, "drawer"))
    return any(math.dist(hand[:2], at) < _NEAR_HANDLE < math.dist(target[:2], at) for at in handles)


def _cruise(scene: Scene) -> float:
    """Height of the lower side of what is carried over everything else, meters."""
    return _OVER_HANDLES if of_kind(scene.layout.fixtures, "drawer") else _CARRY


def _put_away(scene: Scene, number: int, commanded: np.ndarray) -> tuple[np.ndarray, float]:
    """Let go of the wrong thing, but not into a bowl."""
    place = scene.place(number)
    for other, fixture in enumerate(scene.layout.fixtures):
        if fixture.kind in ("zone", "fence"):
            continue
        away = place[:2] - scene.fixture(other)[:2]
        distance = float(np.hypot(*away))
        if distance < BOWL_RADIUS + 0.06:
            direction = away / distance if distance > 1e-6 else np.array([-1.0, 0.0])
            up = max(0.0, _cruise(scene) - scene.bottom(number))
            side = direction * (_SPEED if up < 0.05 else 0.0)
            return commanded + np.append(side, up), 1.0
    drop = scene.bottom(number)
    if drop > 0.03:
        return commanded - np.array([0.0, 0.0, drop - 0.005]), 1.0
    return commanded, 0.0


def _other_held(scene: Scene, goal: Goal, who: int) -> int | None:
    """The object between the fingers that should not be there."""
    for number in range(len(scene.layout.objects)):
        if number != goal.object and scene.holds(number, who):
            return number
    return None


def _around(scene: Scene, hand: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Where the hand should go (2,) on its way to a point (2,): around the fence if there is one.

    Left and right are both right; until the hand is well aside, the seed of the scene decides.
    """
    fences = of_kind(scene.layout.fixtures, "fence")
    if not fences:
        return goal
    x, y, _ = scene.fixture(fences[0]).tolist()
    ahead = 1.0 if goal[0] > x else -1.0
    beyond, aside = ahead * (float(hand[0]) - x), float(hand[1]) - y
    clear = min(_BEFORE, ahead * (float(goal[0]) - x))  # of the fence, or as far from it as the goal is
    if beyond > clear - 0.01:
        return goal
    coin = 1.0 if np.random.default_rng([scene.layout.seed, 5]).random() < 0.5 else -1.0
    side = math.copysign(1.0, aside) if abs(aside) > _DECIDED else coin
    if abs(aside) > _ASIDE - 0.015:
        return np.array([x + ahead * clear, y + side * _ASIDE])
    if beyond > 0:
        return np.array([x + ahead * clear, float(hand[1])])
    return np.array([x - ahead * _BEFORE, y + side * _ASIDE])


# ---- push, pull, press --------------------------------------------------------------------------


def _push(scene: Scene, goal: Goal, commanded: np.ndarray, yaw: float, who: int) -> Plan:
    """Take the object without lifting it, slide it to the zone between the fingers, let go."""
    way = scene.fixture(goal.fixture)[:2] - scene.place(goal.object)[:2]
    distance, bottom = float(np.hypot(*way)), scene.bottom(goal.object)
    if scene.holds(goal.object, who):
        if distance < _CENTER:
            return commanded, yaw, 0.0
        return commanded + np.append(_limited(way, _PUSH_STEP), _AFLOAT - bottom), yaw, 1.0
    if distance < ZONE_RADIUS - _CENTER / 2:
        return _retreat(commanded), yaw, 0.0
    return _bring(scene, goal, commanded, yaw, who)


def _slide(scene: Scene, goal: Goal, commanded: np.ndarray, yaw: float, who: int) -> Plan:
    """Take the handle of a drawer, pull it out or push it in, let go."""
    fixture, handle = scene.layout.fixtures[goal.fixture], scene.handle(goal.fixture)
    hold = np.array([handle[0], handle[1], _HANDLE_GRASP])
    travel = scene.travel(goal.fixture)
    left = min(OPEN + 0.010, DRAWER.travel) - travel if goal.task == "open_drawer" else -travel + 0.004
    done = left <= 0.002 if goal.task == "open_drawer" else left >= -0.002
    level = np.append(hold[:2], scene.hand(who)[0][2])
    if scene.grips(level, 2 * DRAWER.handle_radius, who) and not done:
        return commanded + _clipped(1.2 * left, 0.04) * np.array([*fixture.out, 0.0]), yaw, 1.0
    if done:
        low = math.dist(scene.hand(who)[0], hold) < 0.03 and scene.presses(who)
        return commanded if low else _retreat(commanded), yaw, 0.0
    return approach(scene, Grasp(hold, hold, yaw, 2 * DRAWER.handle_radius, 0.009), commanded, yaw, who)


def _press(scene: Scene, goal: Goal, commanded: np.ndarray, yaw: float, who: int) -> Plan:
    """Over the button, close, down."""
    middle, (hand, _) = scene.fixture(goal.fixture)[:2], scene.hand(who)
    off = math.dist(hand[:2], middle)
    if off < _ON_BUTTON and scene.opening(who) < _SHUT:
        return np.append(middle, 0.015), yaw, 1.0
    if off < _ON_BUTTON + 0.004:
        return np.append(middle, _OVER_BUTTON), yaw, 1.0
    if off > BUTTON_RADIUS and hand[2] < _OVER_BUTTON - 0.015:
        return np.array([commanded[0], commanded[1], HOVER]), yaw, 0.0  # low and beside: first up
    return np.append(middle, _OVER_BUTTON + min(0.05, off)), yaw, 0.0


_SKILLS: dict[str, Skill] = {
    "push": _push,
    "open_drawer": _slide,
    "close_drawer": _slide,
    "press": _press,
}


def _clipped(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    """`vector`, shortened to `limit` if it is longer."""
    length = float(np.sqrt(vector @ vector))
    return vector * (limit / length) if length > limit else vector
