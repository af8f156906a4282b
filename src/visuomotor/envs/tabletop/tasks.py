"""What counts as success at the table: predicates on the physical state.

A task is data: add one to `TASKS` (with its goals to `goals`, its table to `arrange` and its sentences
to `phrasings`) and the environment, the probes and the report know it. A task of several stages is
done when all of them are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from visuomotor.envs.tabletop.build import BOWL_HEIGHT, BOWL_RADIUS, SIZES
from visuomotor.envs.tabletop.goals import beside, stages
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.things import DRAWER, ZONE_RADIUS, Goal, of_kind

__all__ = [
    "CLOSED",
    "IN_BOWL",
    "LIFT_HEIGHT",
    "OPEN",
    "PRESSED",
    "SUITES",
    "TASKS",
    "Task",
    "blame",
    "inside",
    "playable",
    "stage",
]

LIFT_HEIGHT = 0.08
"""How far above its resting height an object counts as lifted, meters."""

IN_BOWL = BOWL_RADIUS - 0.008
"""How far from the middle of a bowl an object's center counts as in it, meters."""

OPEN = 0.085
"""How far a drawer is pulled out to count as open, meters."""

CLOSED = 0.012
"""How far a drawer is pulled out at most to count as closed, meters."""

PRESSED = 0.005
"""How far a button is pressed to count, meters."""

GIVEN_HEIGHT = 0.13
"""How far above its resting height an object counts as given to a hand, meters; none is carried so high."""

AWAY = 0.15
"""How far the other hand is at least from an object that was given, meters."""

PUSHED_HEIGHT = 0.05
"""How high the lower side of an object may be that is to be pushed, not carried, meters."""

_STILL = 0.05  # m/s; faster things are not yet put down
_FAR = 0.35  # meters; progress of reaching and carrying starts here
_SITS = 0.012  # meters by which what stands on something may be above it or sink in
_PILE = 0.06  # meters above the rim of a bowl at which an object on another one is still in it
_OPEN_HAND = 0.2  # of 0 open to 1 closed; a hand that holds nothing
_INSERTED = 0.014  # height of the lower side of a peg that is in its socket, meters


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of goal.

    Attributes:
        name: As in `Goal.task`.
        does: What is asked, in a few words.
        done: Whether a goal of one stage is reached now; all stages of others are asked one by one.
        progress: How far a goal of one stage is, in [0, 1]; not asked once it is done.
        ticks: Longest episode at ten ticks a second.
        hold: Ticks in a row for which a goal must be reached.
        breach: Why the episode failed just now, if it did.
        hands: How many hands a body may have that can do it.
    """

    name: str
    does: str
    done: Callable[[Scene, Goal], bool] | None = None
    progress: Callable[[Scene, Goal], float] | None = None
    ticks: int = 100
    hold: int = 4
    breach: Callable[[Scene, Goal], str | None] | None = None
    hands: tuple[int, ...] = (1,)

    def reached(self, scene: Scene, goal: Goal) -> bool:
        """Whether a goal is reached now."""
        if self.done is not None:
            return self.done(scene, goal)
        return all(TASKS[part.task].reached(scene, part) for part in stages(goal))

    def far(self, scene: Scene, goal: Goal) -> float:
        """How far a goal is, in [0, 1]: the share of stages that are done, and of the one at work."""
        if self.progress is not None:
            return self.progress(scene, goal)
        parts = [(TASKS[part.task], part) for part in stages(goal)]
        ways = [1.0 if task.reached(scene, part) else task.far(scene, part) for task, part in parts]
        return sum(ways) / len(ways)


def stage(scene: Scene, goal: Goal) -> int:
    """Number of the stage to work on: the first that is not done, else the last."""
    parts = stages(goal)
    for number, part in enumerate(parts):
        if not TASKS[part.task].reached(scene, part):
            return number
    return len(parts) - 1


def blame(wanted: Goal, reached: Goal) -> str:
    """Why an episode failed in which the second goal was reached instead of the first.

    The object comes first: whoever took the wrong one also had no reason to know the place. What
    something is stacked on is a place.
    """
    moved = 1 if wanted.task == "stack" else None
    if wanted.objects[:moved] != reached.objects[:moved]:
        return "wrong object"
    if wanted.hand != reached.hand:
        return "wrong hand"
    same = wanted.fixtures == reached.fixtures and wanted.objects == reached.objects
    return "wrong side" if same else "wrong place"


def inside(scene: Scene, number: int, fixture: int) -> bool:
    """Whether an object's center is within the walls of a bowl or drawer and near its floor, or in a zone."""
    x, y, z = scene.place(number).tolist()
    there = scene.layout.fixtures[fixture]
    center_x, center_y, _ = scene.fixture(fixture).tolist()
    across = math.hypot(x - center_x, y - center_y)
    if there.kind == "drawer":
        within = abs(x - center_x) < DRAWER.inner[0] and abs(y - center_y) < DRAWER.inner[1]
        return within and z < DRAWER.height
    if there.kind == "zone":
        return across < ZONE_RADIUS
    if there.kind == "socket":
        return across < 0.02 and scene.bottom(number) < _INSERTED and _upright(scene, number)
    return across < IN_BOWL and z < BOWL_HEIGHT + (_PILE if _shared(scene, number, fixture) else 0.02)


def _shared(scene: Scene, number: int, bowl: int) -> bool:
    """Whether another object is in a bowl, on which this one may lie."""
    x, y, _ = scene.fixture(bowl).tolist()
    others = (scene.place(other) for other in range(len(scene.layout.objects)) if other != number)
    return any(math.hypot(place[0] - x, place[1] - y) < IN_BOWL for place in others)


# ---- done ---------------------------------------------------------------------------------------


def _lifted(scene: Scene, goal: Goal) -> bool:
    """The object hangs high enough."""
    return _height(scene, goal.object) >= LIFT_HEIGHT


def _rests(scene: Scene, number: int) -> bool:
    """Every hand has let go of an object and it is still."""
    return scene.speed(number) < _STILL and not scene.holders(number)


def _put(scene: Scene, goal: Goal) -> bool:
    """The object rests in its place and the hand has let go of it."""
    return inside(scene, goal.object, goal.fixture) and _rests(scene, goal.object)


def _put_beside(scene: Scene, goal: Goal) -> bool:
    """The object rests on the table, on the right side of the bowl."""
    assert goal.side is not None
    x, y, _ = (scene.place(goal.object) - scene.fixture(goal.fixture)).tolist()
    on_table = scene.bottom(goal.object) < 0.01
    return beside((x, y), goal.side) and on_table and _rests(scene, goal.object)


def _stacked(scene: Scene, goal: Goal) -> bool:
    """The first object rests on the second."""
    upper, lower = goal.objects
    x, y, _ = (scene.place(upper) - scene.place(lower)).tolist()
    top = float(scene.place(lower)[2]) + scene.extent(lower, _UP)
    return (
        math.hypot(x, y) < 0.045
        and abs(scene.bottom(upper) - top) < _SITS
        and top > 0.02
        and _rests(scene, upper)
    )


def _pushed(scene: Scene, goal: Goal) -> bool:
    """The object rests in the zone."""
    low = scene.bottom(goal.object) < 0.01
    return low and inside(scene, goal.object, goal.fixture) and scene.speed(goal.object) < _STILL


def _opened(scene: Scene, goal: Goal) -> bool:
    return scene.travel(goal.fixture) > OPEN


def _closed(scene: Scene, goal: Goal) -> bool:
    return scene.travel(goal.fixture) < CLOSED


def _pressed(scene: Scene, goal: Goal) -> bool:
    return scene.travel(goal.fixture) > PRESSED


def _given(scene: Scene, goal: Goal) -> bool:
    """The named hand holds the object up, and every other hand is open and away from it."""
    holders = scene.holders(goal.object)
    if [scene.body.arms[hand].name for hand in holders] != [goal.hand]:
        return False
    place, others = scene.place(goal.object), set(range(len(scene.body.arms))) - set(holders)
    return _height(scene, goal.object) >= GIVEN_HEIGHT and all(
        scene.grip(hand) < _OPEN_HAND and math.dist(scene.hand(hand)[0], place) > AWAY for hand in others
    )


# ---- failed -------------------------------------------------------------------------------------


def _picked_up(scene: Scene, goal: Goal) -> str | None:
    return "lifted" if scene.bottom(goal.object) > PUSHED_HEIGHT else None


def _hit(scene: Scene, goal: Goal) -> str | None:
    fences = of_kind(scene.layout.fixtures, "fence")
    return "hit the fence" if any(scene.touches(number) for number in fences) else None


# ---- progress -----------------------------------------------------------------------------------


def _height(scene: Scene, number: int) -> float:
    """Height of an object above where it rests upright, meters."""
    return float(scene.place(number)[2]) - SIZES[scene.layout.objects[number].shape][2]


def _upright(scene: Scene, number: int) -> bool:
    return abs(float(scene.rotation(number)[2, 2])) > 0.9


def _nearness(distance: float) -> float:
    """1 at distance 0, 0 from `_FAR` on."""
    return max(0.0, 1.0 - distance / _FAR)


def _reached(scene: Scene, number: int) -> float:
    """How near the nearest hand is to an object, in [0, 1]."""
    place = scene.place(number)
    ways = (math.dist(scene.hand(hand)[0], place) for hand in range(len(scene.body.arms)))
    return _nearness(float(min(ways)))


def _lift_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, hold 0.5, lift to 1."""
    if scene.holders(goal.object):
        return 0.5 + 0.5 * min(1.0, max(0.0, _height(scene, goal.object) / LIFT_HEIGHT))
    return 0.4 * _reached(scene, goal.object)


def _carry_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, hold and carry 0.5 to 0.9, in a bowl, drawer or socket 0.95."""
    if goal.side is None and goal.fixtures and inside(scene, goal.object, goal.fixture):
        return 0.95
    if scene.holders(goal.object):
        x, y, _ = scene.place(goal.object).tolist()
        center = scene.fixture(goal.fixture) if goal.fixtures else scene.place(goal.objects[1])
        return 0.5 + 0.4 * _nearness(math.hypot(x - center[0], y - center[1]))
    return 0.4 * _reached(scene, goal.object)


def _push_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, then how near the object is to its zone."""
    way = float(math.dist(scene.place(goal.object)[:2], scene.fixture(goal.fixture)[:2]))
    return 0.4 * _reached(scene, goal.object) + 0.55 * _nearness(way)


def _drawer_progress(scene: Scene, goal: Goal) -> float:
    """Reach the handle 0 to 0.4, then move it."""
    way = scene.travel(goal.fixture) / DRAWER.travel
    moved = min(1.0, max(0.0, way if goal.task == "open_drawer" else 1.0 - way))
    return 0.4 * _nearness(float(math.dist(scene.hand()[0], scene.handle(goal.fixture)))) + 0.55 * moved


def _press_progress(scene: Scene, goal: Goal) -> float:
    """Reach the button 0 to 0.8."""
    return 0.8 * _nearness(float(math.dist(scene.hand()[0], scene.fixture(goal.fixture))))


def _give_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, bring it with the other hand 0.4 to 0.7, lift it with the named one 0.7 to 0.95."""
    holders = {scene.body.arms[hand].name: hand for hand in scene.holders(goal.object)}
    if goal.hand in holders:
        return 0.7 + 0.25 * min(1.0, max(0.0, _height(scene, goal.object) / GIVEN_HEIGHT))
    if holders:
        takes = next(hand for hand, arm in enumerate(scene.body.arms) if arm.name == goal.hand)
        return 0.4 + 0.3 * _nearness(math.dist(scene.hand(takes)[0], scene.place(goal.object)))
    return 0.4 * _reached(scene, goal.object)


_UP = np.array([0.0, 0.0, 1.0])
_EITHER = (1, 2)  # hands of a body that can do what one hand can do
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="lift",
            does="hold an object in the air",
            done=_lifted,
            progress=_lift_progress,
            hands=_EITHER,
        ),
        Task(
            name="put_in", does="put an object in a bowl", done=_put, progress=_carry_progress, hands=_EITHER
        ),
        Task(
            name="put_beside",
            does="put an object left of, right of, in front of or behind a bowl",
            done=_put_beside,
            progress=_carry_progress,
        ),
        Task(name="stack", does="put an object on another", done=_stacked, progress=_carry_progress),
        Task(
            name="push",
            does="push an object to a zone without lifting it",
            done=_pushed,
            progress=_push_progress,
            ticks=150,
            breach=_picked_up,
        ),
        Task(name="open_drawer", does="open a drawer", done=_opened, progress=_drawer_progress),
        Task(name="close_drawer", does="close a drawer", done=_closed, progress=_drawer_progress),
        Task(name="press", does="press a button", done=_pressed, progress=_press_progress, hold=2),
        Task(
            name="pass_obstacle",
            does="put an object in the bowl behind a fence, left or right around it",
            done=_put,
            progress=_carry_progress,
            ticks=150,
            breach=_hit,
        ),
        Task(name="insert", does="put a peg in a socket", done=_put, progress=_carry_progress, ticks=150),
        Task(name="put_in_drawer", does="open a drawer and put an object in it", ticks=200),
        Task(name="put_two", does="put two objects in two bowls", ticks=200),
        Task(
            name="clear",
            does="put all things of one color in one bowl, those of another in the other",
            ticks=300,
        ),
        Task(
            name="hand_over",
            does="give an object to the left or the right hand",
            done=_given,
            progress=_give_progress,
            ticks=150,
            hands=(2,),
        ),
    )
}
"""Every task of the suite by name."""


def playable(hands: int) -> tuple[str, ...]:
    """Names of the tasks that a body with so many hands can do."""
    return tuple(name for name, task in TASKS.items() if hands in task.hands)


SUITES: Mapping[str, tuple[str, ...]] = {
    "single": tuple(name for name in playable(1) if name not in ("put_in_drawer", "put_two", "clear")),
    "all": tuple(name for name in playable(1) if name != "clear"),
    "whole": playable(1),
    "two_hands": playable(2),
}
"""Names of several tasks, of which the seed takes one: for one hand, of one stage, of two at most, of three
at most; for two hands."""
