"""What counts as success at the table: predicates on the physical state.

A task is data: add one to `TASKS` (and its goals and sentences to `layout` and `sentences`) and the
environment, the probes and the report know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from visuomotor.envs.tabletop.layout import Goal
from visuomotor.envs.tabletop.scene import BOWL_HEIGHT, BOWL_RADIUS, SIZES, Scene

__all__ = ["IN_BOWL", "LIFT_HEIGHT", "TASKS", "Task", "inside"]

LIFT_HEIGHT = 0.08
"""How far above its resting height an object counts as lifted, meters."""

IN_BOWL = BOWL_RADIUS - 0.008
"""How far from the middle of a bowl an object's center counts as in it, meters."""

_STILL = 0.05  # m/s; faster things are not yet put down
_FAR = 0.35  # meters; progress of reaching and carrying starts here


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of goal.

    Attributes:
        name: As in `Goal.task`.
        done: Whether a goal is reached now.
        progress: How far a goal is, in [0, 1]; 1 only where `done`.
        hold: Ticks in a row for which a goal must be reached.
        blame: Why an episode failed in which the second goal was reached instead of the first.
    """

    name: str
    done: Callable[[Scene, Goal], bool]
    progress: Callable[[Scene, Goal], float]
    hold: int
    blame: Callable[[Goal, Goal], str]


def inside(scene: Scene, number: int, bowl: int) -> bool:
    """Whether an object's center is within a bowl's wall and near its floor."""
    x, y, z = scene.place(number).tolist()
    bowl_x, bowl_y, _ = scene.bowl(bowl).tolist()
    across = math.hypot(x - bowl_x, y - bowl_y)
    return across < IN_BOWL and z < BOWL_HEIGHT + 0.02


def _lifted(scene: Scene, goal: Goal) -> bool:
    """The object hangs high enough."""
    return _height(scene, goal.object) >= LIFT_HEIGHT


def _put(scene: Scene, goal: Goal) -> bool:
    """The object rests in the bowl and the hand has let go of it."""
    assert goal.bowl is not None
    return (
        inside(scene, goal.object, goal.bowl)
        and scene.speed(goal.object) < _STILL
        and not scene.holds(goal.object)
    )


def _height(scene: Scene, number: int) -> float:
    """Height of an object above where it rests upright, meters."""
    return float(scene.place(number)[2]) - SIZES[scene.layout.objects[number].shape][2]


def _nearness(distance: float) -> float:
    """1 at distance 0, 0 from `_FAR` on."""
    return max(0.0, 1.0 - distance / _FAR)


def _reached(scene: Scene, number: int) -> float:
    """How near the hand is to an object, in [0, 1]."""
    return _nearness(float(math.dist(scene.hand()[0], scene.place(number))))


def _lift_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, hold 0.5, lift to 1."""
    if scene.holds(goal.object):
        return 0.5 + 0.5 * min(1.0, max(0.0, _height(scene, goal.object) / LIFT_HEIGHT))
    return 0.4 * _reached(scene, goal.object)


def _put_progress(scene: Scene, goal: Goal) -> float:
    """Reach 0 to 0.4, hold and carry 0.5 to 0.9, in the bowl 0.95."""
    assert goal.bowl is not None
    if inside(scene, goal.object, goal.bowl):
        return 0.95
    if scene.holds(goal.object):
        x, y, _ = scene.place(goal.object).tolist()
        center = scene.bowl(goal.bowl)
        return 0.5 + 0.4 * _nearness(math.hypot(x - center[0], y - center[1]))
    return 0.4 * _reached(scene, goal.object)


def _blame(wanted: Goal, reached: Goal) -> str:
    """The object comes first: whoever took the wrong one also had no reason to know the place."""
    return "wrong object" if wanted.object != reached.object else "wrong place"


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(name="lift", done=_lifted, progress=_lift_progress, hold=4, blame=_blame),
        Task(name="put_in", done=_put, progress=_put_progress, hold=4, blame=_blame),
    )
}
"""Every task of the suite by name."""
