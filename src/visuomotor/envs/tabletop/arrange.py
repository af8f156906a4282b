"""Where things stand: kits of objects and fixtures, and how a stream of random numbers lays them out.

Tasks that share a kit share its scenes, so that a picture does not tell what is asked. Around every
object the open gripper has room, whichever way it is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from visuomotor.envs.tabletop.sentences import Meaning
from visuomotor.envs.tabletop.things import (
    BOWL_OUTER_RADIUS,
    BUTTON_RADIUS,
    COLORS,
    GRIPPER_REACH,
    HELD_OUT_PAIRS,
    SHAPES,
    SOCKET_OUTER_RADIUS,
    ZONE_RADIUS,
    Fixture,
    Thing,
    Workspace,
    gap,
)

__all__ = ["KITS", "MAX_YAW", "Kit", "arrange"]

MAX_YAW = math.pi / 4
"""Objects are turned by at most this; for a cube that is every yaw."""

_TRIES = 60  # places for one object before the scene is begun again
_DRAWS = 20_000  # of colors and shapes, before what is asked for is held to be impossible
_RESTARTS = 400
_APART = {"bowl": 0.02, "zone": 0.03, "socket": GRIPPER_REACH}  # least gap between two of a kind
_RADII = {"bowl": BOWL_OUTER_RADIUS, "zone": ZONE_RADIUS, "socket": SOCKET_OUTER_RADIUS}

Range = tuple[float, float]
Colors = dict[str, list[str]]
Stream = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What stands on the table.

    Attributes:
        fixtures: Kinds with their number; the fixtures of a kind have different colors.
        build: Puts the fixtures down, given the colors of each kind; None if they do not fit together.
        objects: How many.
        shapes: Of the objects.
        region: Where objects stand (x, y), all of the workspace if None.
        room: Least gap from an object to any fixture.
        rival: Whether every object has a rival, where that is not left to the seed.
        twins: Two objects have one color, and the other two one shape.
    """

    fixtures: dict[str, int]
    build: Callable[[Stream, Colors, Workspace], list[Fixture] | None]
    objects: int = 4
    shapes: tuple[str, ...] = SHAPES
    region: tuple[Range, Range] | None = None
    room: float = GRIPPER_REACH
    rival: bool | None = None
    twins: bool = False


def arrange(
    stream: Stream, kit: Kit, *, rival: bool, split: str, said: Meaning | None, workspace: Workspace
) -> tuple[tuple[Thing, ...], tuple[Fixture, ...]]:
    """Objects and fixtures of one scene.

    One scene in a few is begun again because something finds no place; `_RESTARTS` bounds it.

    Args:
        stream: Source of all choices.
        kit: What stands on the table.
        rival: Every object has a rival, or none has.
        split: "positions" puts all objects where training puts none, "pairs" shows held-out pairs.
        said: What the scene must hold, if something.
        workspace: Where things may stand.

    Raises:
        ValueError: There is not enough room.
    """
    kinds = _kinds(stream, kit, rival, split, said)
    colors = {kind: _colors(stream, kind, count, said) for kind, count in kit.fixtures.items()}
    x, y = kit.region or (workspace.x, workspace.y)
    for _ in range(_RESTARTS):
        fixtures = kit.build(stream, colors, workspace)
        if fixtures is None:
            continue
        things: list[Thing] = []
        for color, shape in kinds:
            for _ in range(_TRIES):
                place = _point(stream, x, y)
                yaw = float(stream.uniform(-MAX_YAW, MAX_YAW))
                thing = Thing(color=color, shape=shape, position=place, yaw=yaw)
                allowed = workspace.held_out(place) == (split == "positions")
                if allowed and _is_free(thing, things, fixtures, kit.room):
                    things.append(thing)
                    break
            else:
                break
        if len(things) == len(kinds):
            return tuple(things), tuple(fixtures)
    raise ValueError(
        f"workspace {workspace}: found no room for {len(kinds)} objects and {sum(kit.fixtures.values())} "
        f"fixtures ({', '.join(kit.fixtures)})."
    )


# ---- objects ------------------------------------------------------------------------------------


def _kinds(stream: Stream, kit: Kit, rival: bool, split: str, said: Meaning | None) -> list[tuple[str, str]]:
    """Color and shape of the objects, no two alike, some of them what is said."""
    colors = list(COLORS)
    wanted = range(2, kit.objects + 1) if split == "pairs" else range(1)  # how many of them are held out
    for _ in range(_DRAWS):  # one in two is good for most splits, one in a hundred for "pairs" and "free"
        if kit.shapes != SHAPES:
            kinds = [(colors[number], kit.shapes[0]) for number in stream.permutation(8)[: kit.objects]]
        elif kit.twins:
            kinds = _twins(stream, colors)
        elif rival:
            kinds = _with_rivals(stream, colors, kit.objects)
        else:
            shapes = [SHAPES[number] for number in stream.permutation(len(SHAPES))]
            kinds = [
                (colors[number], shape) for number, shape in zip(stream.permutation(len(colors)), shapes)
            ][: kit.objects]
        if (
            len(set(kinds)) == len(kinds)
            and sum(kind in HELD_OUT_PAIRS for kind in kinds) in wanted
            and (said is None or _holds(kinds, said))
        ):
            return [kinds[number] for number in stream.permutation(len(kinds))]
    raise ValueError(
        f"found no {kit.objects} objects {'with' if rival else 'without'} rivals for split {split!r} "
        f"and what is said, {said}."
    )


def _holds(kinds: Sequence[tuple[str, str]], said: Meaning) -> bool:
    """Whether every object that is said is there; "things" of a color are those of any shape."""
    return all(
        any(named == color and noun in (shape, "things") for named, shape in kinds)
        for color, noun in said.things
    )


def _with_rivals(stream: Stream, colors: list[str], count: int) -> list[tuple[str, str]]:
    """Kinds of which each shares either color or shape with another: pairs, or a chain of three."""
    if count == 3:
        shapes = [SHAPES[number] for number in stream.permutation(len(SHAPES))[:2]]
        first, second = (colors[number] for number in stream.permutation(len(colors))[:2])
        return [(first, shapes[0]), (first, shapes[1]), (second, shapes[1])]
    return [kind for _ in range(count // 2) for kind in _rivals(stream, colors)]


def _rivals(stream: Stream, colors: list[str]) -> list[tuple[str, str]]:
    """Two kinds that share either the color or the shape."""
    if stream.random() < 0.5:
        color = colors[stream.integers(len(colors))]
        return [(color, SHAPES[number]) for number in stream.permutation(len(SHAPES))[:2]]
    shape = SHAPES[stream.integers(len(SHAPES))]
    return [(colors[number], shape) for number in stream.permutation(len(colors))[:2]]


def _twins(stream: Stream, colors: list[str]) -> list[tuple[str, str]]:
    """Two kinds of one color, and two more of one shape."""
    both, first, second = (colors[number] for number in stream.permutation(len(colors))[:3])
    shapes = [SHAPES[number] for number in stream.permutation(len(SHAPES))[:2]]
    shape = SHAPES[stream.integers(len(SHAPES))]
    return [(both, shapes[0]), (both, shapes[1]), (first, shape), (second, shape)]


def _is_free(thing: Thing, others: list[Thing], fixtures: list[Fixture], room: float) -> bool:
    """Whether the gripper reaches `thing` freely and it leaves the others reachable."""
    return all(fixture.gap(thing.position) >= room for fixture in fixtures) and all(
        min(gap(thing.position, other), gap(other.position, thing)) >= GRIPPER_REACH for other in others
    )


# ---- fixtures -----------------------------------------------------------------------------------


def _colors(stream: Stream, kind: str, count: int, said: Meaning | None) -> list[str]:
    """Different colors for the fixtures of a kind, those that are said among them."""
    colors = [list(COLORS)[number] for number in stream.permutation(len(COLORS))[:count]]
    wanted = [] if said is None else [color for color, noun in said.places if noun == kind]
    slots = [number for number, color in enumerate(colors) if color not in wanted]
    for color in wanted:
        if color not in colors:
            colors[slots.pop(int(stream.integers(len(slots))))] = color
    return colors


def _scattered(kind: str) -> Callable[[Stream, Colors, Workspace], list[Fixture] | None]:
    """Two fixtures of a kind anywhere."""

    def build(stream: Stream, colors: Colors, workspace: Workspace) -> list[Fixture] | None:
        spots = [_point(stream, workspace.x, workspace.bowl_y) for _ in colors[kind]]
        if math.dist(*spots) < 2 * _RADII[kind] + _APART[kind]:
            return None
        return [Fixture(kind=kind, color=color, position=spot) for color, spot in zip(colors[kind], spots)]

    return build


def _furniture(begins_open: bool) -> Callable[[Stream, Colors, Workspace], list[Fixture] | None]:
    """Two chests at the sides of the table, each left or right, and two buttons."""

    def build(stream: Stream, colors: Colors, workspace: Workspace) -> list[Fixture] | None:
        fixtures = []
        low, high = workspace.x
        rows = [low + 0.055, high - 0.075]  # middles of the chests along x, and a little way farther
        for number, color in zip(stream.permutation(2), colors["drawer"], strict=True):
            side = 1.0 if stream.random() < 0.5 else -1.0
            x, y = rows[number] + float(stream.uniform(0.0, 0.02)), float(stream.uniform(0.27, 0.29))
            fixtures.append(
                Fixture(
                    kind="drawer",
                    color=color,
                    position=(x, side * y),
                    yaw=0.0 if side > 0 else math.pi,
                    open=begins_open,
                )
            )
        for color in colors["button"]:
            spot = _point(stream, workspace.x, workspace.bowl_y)
            if any(other.gap(spot) < BUTTON_RADIUS + 0.05 for other in fixtures):
                return None
            fixtures.append(Fixture(kind="button", color=color, position=spot))
        return fixtures

    return build


def _fenced(stream: Stream, colors: Colors, workspace: Workspace) -> list[Fixture]:
    """A bowl behind a fence, which has as much room to its left as to its right."""
    x, y = float(stream.uniform(0.490, 0.515)), float(stream.uniform(-0.02, 0.02))
    bowl = (x + float(stream.uniform(0.125, 0.140)), y + float(stream.uniform(-0.015, 0.015)))
    return [
        Fixture(kind="bowl", color=colors["bowl"][0], position=bowl),
        Fixture(kind="fence", color="gray", position=(x, y)),
    ]


def _point(stream: Stream, x: Range, y: Range) -> tuple[float, float]:
    """A point of a rectangle, evenly drawn."""
    return float(stream.uniform(*x)), float(stream.uniform(*y))


_BOWLS = Kit(fixtures={"bowl": 2}, build=_scattered("bowl"))
_CHESTS = {"drawer": 2, "button": 2}
_CLOSED = Kit(objects=3, fixtures=_CHESTS, build=_furniture(False))

KITS: dict[str, Kit] = {
    "lift": _BOWLS,
    "put_in": _BOWLS,
    "put_beside": _BOWLS,
    "stack": _BOWLS,
    "push": Kit(fixtures={"zone": 2}, build=_scattered("zone"), room=0.045),
    "open_drawer": _CLOSED,
    "close_drawer": Kit(objects=3, fixtures=_CHESTS, build=_furniture(True)),
    "press": _CLOSED,
    "pass_obstacle": Kit(
        objects=2, fixtures={"bowl": 1}, build=_fenced, region=((0.345, 0.385), (-0.11, 0.11))
    ),
    "insert": Kit(objects=2, fixtures={"socket": 2}, build=_scattered("socket"), shapes=("peg",), rival=True),
    "put_in_drawer": _CLOSED,
    "put_two": _BOWLS,
    "clear": Kit(fixtures={"bowl": 2}, build=_scattered("bowl"), rival=True, twins=True),
    "hand_over": _BOWLS,
}
"""Task to what stands on its table."""
