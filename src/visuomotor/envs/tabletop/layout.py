"""What lies where, and what is asked: scenes of the table top as plain values.

A seed decides a scene, a goal in it and a sentence for the goal, from three streams of random
numbers: another goal or another split of sentences leaves the scene bit-equal, and another goal
keeps the form of the sentence. The picture alone never tells the goal: it is drawn evenly from the
objects and bowls of a finished scene. In half of the scenes every object has a rival (same color
and another shape, or same shape and another color), in the other half none has one.

World frame: base of the robot at the origin, x forward, y left, z up, table top at z = 0. Meters
and radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import numpy as np

from visuomotor.envs.tabletop import free, sentences
from visuomotor.errors import unknown_name

__all__ = [
    "BOWL_OUTER_RADIUS",
    "COLORS",
    "FOOTPRINTS",
    "GRIPPER_REACH",
    "HELD_OUT_PAIRS",
    "MAX_YAW",
    "SHAPES",
    "SPLITS",
    "TASKS",
    "WORKSPACE",
    "Bowl",
    "Goal",
    "Layout",
    "Thing",
    "Workspace",
    "goals",
    "instructions",
    "sample_layout",
]

Task = Literal["lift", "put_in"]
Split = Literal["train", "positions", "pairs", "phrasing", "words", "free"]

TASKS: tuple[str, ...] = get_args(Task)
"""What can be asked: hold an object in the air, or put it in a bowl."""

SPLITS: tuple[str, ...] = get_args(Split)
"""Where the seed's scene and sentence come from; all but "train" hold something that training never shows."""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.08, 0.08),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.10, 0.62, 0.16),
    "cyan": (0.10, 0.82, 0.88),
    "blue": (0.08, 0.20, 0.85),
    "purple": (0.46, 0.12, 0.66),
    "pink": (1.00, 0.55, 0.76),
}
"""RGB in [0, 1] of objects and bowls."""

SHAPES = ("cube", "cylinder", "ball", "bar")

FOOTPRINTS: dict[str, tuple[float, float]] = {
    "cube": (0.025, 0.025),
    "cylinder": (0.025, 0.025),
    "ball": (0.027, 0.027),
    "bar": (0.055, 0.018),
}
"""Half extents on the table that a shape may have at most; cylinder and ball are round."""

HELD_OUT_PAIRS = frozenset({("red", "ball"), ("yellow", "bar"), ("blue", "cube"), ("purple", "cylinder")})
"""Colors and shapes that training never shows together, though it shows each with others."""

BOWL_OUTER_RADIUS = 0.078
"""Farthest a bowl reaches from its middle, meters."""

GRIPPER_REACH = 0.066
"""Around the middle of an object nothing else stands: half the width of the open gripper, and a little."""

MAX_YAW = math.pi / 4
"""Objects are turned by at most this; for a cube that is every yaw."""

_GRID = (4, 6)  # cells of the workspace along x and y
_HELD_OUT_CELLS = frozenset({(0, 1), (0, 5), (1, 3), (2, 1), (2, 5), (3, 3)})
_BOWL_GAP = 0.02  # between the rims of two bowls
_TRIES = 60  # places for one object before the scene is begun again
_RESTARTS = 400
_SCENE, _GOAL, _SENTENCE = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: color, shape, where its middle stands on the table, and how it is turned about z."""

    color: str
    shape: str
    position: tuple[float, float]
    yaw: float

    @property
    def name(self) -> str:
        """Its plain name: "red cube"."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """A receptacle that stands fast."""

    color: str
    position: tuple[float, float]

    @property
    def name(self) -> str:
        """Its plain name: "blue bowl"."""
        return f"{self.color} bowl"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is asked: a task, the number of an object, and for `put_in` the number of a bowl."""

    task: str
    object: int
    bowl: int | None = None

    def name(self, layout: Layout) -> str:
        """The goal in plain words: "lift:red cube", "put_in:red cube>blue bowl"."""
        target = "" if self.bowl is None else f">{layout.bowls[self.bowl].name}"
        return f"{self.task}:{layout.objects[self.object].name}{target}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A scene with what is asked in it.

    Attributes:
        objects: Four objects, no two alike.
        bowls: Two bowls of different colors.
        goal: What is asked.
        instruction: The sentence that asks it.
        split: One of `SPLITS`.
        rival: Every object has a rival; otherwise none has.
        seed: What decided all this.
    """

    objects: tuple[Thing, ...]
    bowls: tuple[Bowl, ...]
    goal: Goal
    instruction: str
    split: str
    rival: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Bounds of the middles of objects and bowls.

    Attributes:
        x: Of both.
        y: Of objects.
        bowl_y: Of bowls, which are larger and shall be seen whole.
    """

    x: tuple[float, float] = (0.34, 0.66)
    y: tuple[float, float] = (-0.27, 0.27)
    bowl_y: tuple[float, float] = (-0.235, 0.235)

    def cell(self, position: tuple[float, float]) -> tuple[int, int]:
        """Which cell of the grid of held-out positions a point lies in."""
        shares = [(value - low) / (high - low) for value, (low, high) in zip(position, (self.x, self.y))]
        first, second = (min(max(int(share * n), 0), n - 1) for share, n in zip(shares, _GRID))
        return first, second

    def held_out(self, position: tuple[float, float]) -> bool:
        """Whether training never puts an object there."""
        return self.cell(position) in _HELD_OUT_CELLS


WORKSPACE = Workspace()


def sample_layout(
    seed: int,
    *,
    task: str,
    split: str = "train",
    rival: bool | None = None,
    goal: str | None = None,
    workspace: Workspace = WORKSPACE,
) -> Layout:
    """The layout that `seed` decides.

    Args:
        seed: Not negative. Data collection counts up from 0, evaluation from 1_000_000_000.
        task: One of `TASKS`.
        split: One of `SPLITS`. "positions" puts all objects where training puts none, "pairs" asks
            for a held-out pair of color and shape, "phrasing" and "words" use sentences that
            training never uses, in the scenes of "train". "free" draws a sentence that somebody
            wrote by hand, and a scene that holds what it names.
        rival: Whether the objects have rivals; None leaves it to the seed, one half each.
        goal: Name of another goal of this scene, see `goals`; the scene stays the same.
        workspace: Where things may stand.

    Raises:
        ValueError: Unknown task, split or goal, with the closest one; a negative seed.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if seed < 0:
        raise ValueError(f"seed of a scene: expected 0 or more, got {seed}.")
    stream = np.random.default_rng([seed, _SCENE])
    by_seed = bool(stream.random() < 0.5)
    rival = by_seed if rival is None else rival
    said = free.draw(task, np.random.default_rng([seed, _SENTENCE])).meaning if split == "free" else None
    kinds = _kinds(stream, rival, split, said)
    objects, bowls = _places(stream, kinds, split, workspace, said)

    stream = np.random.default_rng([seed, _GOAL])
    things = [number for number, kind in enumerate(kinds) if _may_be_asked(kind, split, said)]
    pots = [number for number, bowl in enumerate(bowls) if said is None or bowl.color == said.bowl]
    draws = stream.random(2)
    chosen = Goal(
        task=task,
        object=things[int(draws[0] * len(things))],
        bowl=pots[int(draws[1] * len(pots))] if task == "put_in" else None,
    )
    layout = Layout(
        objects=objects, bowls=bowls, goal=chosen, instruction="", split=split, rival=rival, seed=seed
    )
    if goal is not None:
        named = {other.name(layout): other for other in goals(layout)}
        if goal not in named:
            raise unknown_name("goal", goal, named)
        layout = replace(layout, goal=named[goal])
    return replace(layout, instruction=instructions(layout, 1)[0])


def goals(layout: Layout) -> tuple[Goal, ...]:
    """Every goal of the layout's task in its scene."""
    task = layout.goal.task
    bowls: tuple[int | None, ...] = tuple(range(len(layout.bowls))) if task == "put_in" else (None,)
    return tuple(
        Goal(task=task, object=thing, bowl=bowl) for thing, bowl in product(range(len(layout.objects)), bowls)
    )


def instructions(layout: Layout, count: int) -> tuple[str, ...]:
    """`count` different sentences for the layout's goal, from its split; the first is its instruction.

    Raises:
        ValueError: There are not so many.
    """
    goal = layout.goal
    thing = layout.objects[goal.object]
    bowl = None if goal.bowl is None else layout.bowls[goal.bowl].color
    generator = np.random.default_rng([layout.seed, _SENTENCE])
    if layout.split == "free":
        drawn = free.draw(goal.task, generator).text
        known = free.saying(goal.task, sentences.Meaning(thing.color, thing.shape, bowl), drawn)
        if count > len(known):
            raise ValueError(
                f"split 'free': {len(known)} sentences for {goal.name(layout)!r}, {count} asked for."
            )
        return known[:count]
    return sentences.instructions(
        goal.task,
        color=thing.color,
        shape=thing.shape,
        bowl=bowl,
        split=layout.split,
        count=count,
        generator=generator,
    )


def _may_be_asked(kind: tuple[str, str], split: str, said: sentences.Meaning | None) -> bool:
    """Whether the goal may be about an object of this color and shape."""
    if said is not None:
        return kind == (said.color, said.shape)
    return split != "pairs" or kind in HELD_OUT_PAIRS


def _kinds(
    stream: np.random.Generator, rival: bool, split: str, said: sentences.Meaning | None
) -> list[tuple[str, str]]:
    """Color and shape of four objects, no two alike, one of them what is said."""
    colors = list(COLORS)
    wanted = range(2, 5) if split == "pairs" else range(1)  # how many of them are held out
    while True:  # one try in two is good for most splits, one in twenty for "pairs" and "free"
        if rival:
            kinds = [kind for _ in range(2) for kind in _rivals(stream, colors)]
        else:
            shapes = [SHAPES[number] for number in stream.permutation(len(SHAPES))]
            kinds = [
                (colors[number], shape) for number, shape in zip(stream.permutation(len(colors)), shapes)
            ]
        asked = said is None or (said.color, said.shape) in kinds
        if (
            len(set(kinds)) == len(kinds)
            and sum(kind in HELD_OUT_PAIRS for kind in kinds) in wanted
            and asked
        ):
            return [kinds[number] for number in stream.permutation(len(kinds))]


def _rivals(stream: np.random.Generator, colors: list[str]) -> list[tuple[str, str]]:
    """Two kinds that share either the color or the shape."""
    if stream.random() < 0.5:
        color = colors[stream.integers(len(colors))]
        return [(color, SHAPES[number]) for number in stream.permutation(len(SHAPES))[:2]]
    shape = SHAPES[stream.integers(len(SHAPES))]
    return [(colors[number], shape) for number in stream.permutation(len(colors))[:2]]


def _places(
    stream: np.random.Generator,
    kinds: list[tuple[str, str]],
    split: str,
    workspace: Workspace,
    said: sentences.Meaning | None,
) -> tuple[tuple[Thing, ...], tuple[Bowl, ...]]:
    """Objects and bowls where the open gripper reaches each object without touching another thing.

    One scene in a few is begun again because something finds no place; `_RESTARTS` bounds it.
    """
    chosen = stream.permutation(len(COLORS))[:2]
    bowl_colors = [list(COLORS)[number] for number in chosen]
    if said is not None and said.bowl is not None and said.bowl not in bowl_colors:
        bowl_colors[int(stream.integers(2))] = said.bowl
    for _ in range(_RESTARTS):
        spots = [_point(stream, workspace.x, workspace.bowl_y) for _ in bowl_colors]
        if math.dist(*spots) < 2 * BOWL_OUTER_RADIUS + _BOWL_GAP:
            continue
        bowls = tuple(Bowl(color=color, position=spot) for color, spot in zip(bowl_colors, spots))
        things: list[Thing] = []
        for color, shape in kinds:
            for _ in range(_TRIES):
                place = _point(stream, workspace.x, workspace.y)
                yaw = float(stream.uniform(-MAX_YAW, MAX_YAW))
                thing = Thing(color=color, shape=shape, position=place, yaw=yaw)
                if workspace.held_out(place) == (split == "positions") and _is_free(thing, things, bowls):
                    things.append(thing)
                    break
            else:
                break
        if len(things) == len(kinds):
            return tuple(things), bowls
    raise ValueError(
        f"workspace {workspace}: found no room for {len(kinds)} objects and {len(bowl_colors)} bowls."
    )


def _point(
    stream: np.random.Generator, x: tuple[float, float], y: tuple[float, float]
) -> tuple[float, float]:
    """A point of a rectangle, evenly drawn."""
    return float(stream.uniform(*x)), float(stream.uniform(*y))


def _is_free(thing: Thing, others: list[Thing], bowls: tuple[Bowl, ...]) -> bool:
    """Whether the gripper reaches `thing` freely and it leaves the others reachable."""
    return all(
        math.dist(thing.position, bowl.position) >= GRIPPER_REACH + BOWL_OUTER_RADIUS for bowl in bowls
    ) and all(min(_gap(thing, other), _gap(other, thing)) >= GRIPPER_REACH for other in others)


def _gap(first: Thing, second: Thing) -> float:
    """Distance from the middle of `first` to the footprint of `second`."""
    x, y = (a - b for a, b in zip(first.position, second.position))
    long, wide = FOOTPRINTS[second.shape]
    if second.shape in ("cylinder", "ball"):
        return math.hypot(x, y) - long
    cosine, sine = math.cos(second.yaw), math.sin(second.yaw)
    along, across = cosine * x + sine * y, cosine * y - sine * x  # world -> thing
    return math.hypot(max(abs(along) - long, 0), max(abs(across) - wide, 0))
