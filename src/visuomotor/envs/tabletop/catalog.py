"""What the table top offers, as plain data: tasks, suites, bodies, worlds, splits."""

from __future__ import annotations

from typing import Any

from visuomotor.embodiments.base import Body
from visuomotor.envs.tabletop.goals import stages
from visuomotor.envs.tabletop.layout import sample_layout, splits
from visuomotor.envs.tabletop.tasks import SUITES, TASKS
from visuomotor.envs.tabletop.worlds import WORLDS
from visuomotor.registry import lookup, names

__all__ = ["catalog"]


def catalog() -> dict[str, Any]:
    """Everything that `TabletopEnv` can be asked for.

    Returns:
        "tasks": name to what it does, its stages in order, ticks of an episode at ten a second, ticks in
        a row for which its goal must hold, splits, and bodies that can do it.
        "suites": name to names of tasks. "bodies": name to hands, joints, ticks a second and scale.
        "worlds": name to what it is.
    """
    bodies: dict[str, Body] = {name: lookup("embodiment", name) for name in names("embodiment")}
    return {
        "tasks": {
            name: {
                "does": task.does,
                "stages": [part.task for part in stages(sample_layout(0, task=name).goal)],
                "ticks": task.ticks,
                "hold": task.hold,
                "splits": list(splits(name)),
                "bodies": [known for known, body in bodies.items() if len(body.arms) in task.hands],
            }
            for name, task in TASKS.items()
        },
        "suites": {name: list(tasks) for name, tasks in SUITES.items()},
        "bodies": {
            name: {
                "hands": len(body.arms),
                "joints": sum(len(arm.joints) for arm in body.arms),
                "rate": body.rate,
                "scale": body.scale,
            }
            for name, body in bodies.items()
        },
        "worlds": dict(WORLDS),
    }
