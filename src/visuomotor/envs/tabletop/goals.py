"""What can be asked in a scene: every goal of a task, its stages, and what its sentence names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations, product

from visuomotor.envs.tabletop.sentences import Meaning
from visuomotor.envs.tabletop.things import (
    BESIDE_SPOT,
    GRIPPER_REACH,
    HANDS,
    SIDES,
    WORKSPACE,
    Fixture,
    Goal,
    Layout,
    Thing,
    Workspace,
    gap,
    of_kind,
)

__all__ = ["BESIDE", "TASKS", "beside", "every_goal", "meaning", "stages"]

BESIDE = (0.085, 0.175)
"""Least and most way to a side from the middle of a bowl at which an object is beside it, meters."""

_ASIDE = 0.7  # meters across for each meter to the side
_FLAT = ("cube", "bar")  # what carries something and does not topple
_LANE = 0.07  # meters around the way of a pushed object in which nothing else stands
_BEHIND = 0.085  # from the middle of a pushed object to the hand that pushes it, and some room
_PUSH = (0.10, 0.32)  # meters from where an object is pushed to where it goes

Things = Sequence[Thing]
Fixtures = Sequence[Fixture]


def every_goal(
    task: str, objects: Things, fixtures: Fixtures, workspace: Workspace = WORKSPACE
) -> tuple[Goal, ...]:
    """Every goal of a task that can be reached in a scene and is not reached from the start."""
    return tuple(_GOALS[task](task, objects, fixtures, workspace))


def stages(goal: Goal) -> tuple[Goal, ...]:
    """What must be reached one after the other; the goal itself if it has one stage."""
    if goal.task in ("put_two", "clear"):
        return tuple(
            Goal(task="put_in", objects=(thing,), fixtures=(fixture,))
            for thing, fixture in zip(goal.objects, goal.fixtures, strict=True)
        )
    if goal.task == "put_in_drawer":
        put = Goal(task="put_in", objects=goal.objects, fixtures=goal.fixtures)
        return Goal(task="open_drawer", fixtures=goal.fixtures), put
    return (goal,)


def meaning(layout: Layout, goal: Goal) -> Meaning:
    """What a sentence for `goal` names."""
    things = [layout.objects[number] for number in goal.objects]
    fixtures = [layout.fixtures[number] for number in goal.fixtures]
    named = [(thing.color, thing.shape) for thing in things]
    places = [(fixture.color, fixture.kind) for fixture in fixtures]
    if goal.task == "clear":
        pairs = dict.fromkeys((thing.color, place) for thing, place in zip(things, places, strict=True))
        named, places = [(color, "things") for color, _ in pairs], [place for _, place in pairs]
    return Meaning(tuple(named), tuple(places), goal.side, goal.hand)


def beside(offset: tuple[float, float], side: str) -> bool:
    """Whether something `offset` from the middle of a bowl is on that side of it, and near."""
    x, y = SIDES[side]
    along, across = x * offset[0] + y * offset[1], abs(x * offset[1] - y * offset[0])
    return BESIDE[0] < along < BESIDE[1] and across < _ASIDE * along


def _each_object(task: str, objects: Things, *_: object) -> Iterator[Goal]:
    for number in range(len(objects)):
        yield Goal(task=task, objects=(number,))


def _each_pair(kind: str) -> Callable[..., Iterator[Goal]]:
    """Every object with every fixture of a kind."""

    def pairs(task: str, objects: Things, fixtures: Fixtures, _: Workspace) -> Iterator[Goal]:
        for thing, fixture in product(range(len(objects)), of_kind(fixtures, kind)):
            yield Goal(task=task, objects=(thing,), fixtures=(fixture,))

    return pairs


def _each_fixture(kind: str, *, begins_open: bool = False) -> Callable[..., Iterator[Goal]]:
    """Every fixture of a kind that begins open, or closed."""

    def each(task: str, _: Things, fixtures: Fixtures, __: Workspace) -> Iterator[Goal]:
        for number in of_kind(fixtures, kind):
            if fixtures[number].open == begins_open:
                yield Goal(task=task, fixtures=(number,))

    return each


def _put_beside(task: str, objects: Things, fixtures: Fixtures, workspace: Workspace) -> Iterator[Goal]:
    for thing, bowl, side in product(range(len(objects)), of_kind(fixtures, "bowl"), SIDES):
        middle, direction = fixtures[bowl].position, SIDES[side]
        spot = (middle[0] + BESIDE_SPOT * direction[0], middle[1] + BESIDE_SPOT * direction[1])
        others = [other for number, other in enumerate(objects) if number != thing]
        rest = [fixture for number, fixture in enumerate(fixtures) if number != bowl]
        room = (
            workspace.holds(spot)
            and all(gap(spot, other) >= GRIPPER_REACH for other in others)
            and all(fixture.gap(spot) >= GRIPPER_REACH for fixture in rest)
        )
        x, y = objects[thing].position
        if room and not beside((x - middle[0], y - middle[1]), side):
            yield Goal(task=task, objects=(thing,), fixtures=(bowl,), side=side)


def _stack(task: str, objects: Things, *_: object) -> Iterator[Goal]:
    flat = [number for number, thing in enumerate(objects) if thing.shape in _FLAT]
    for pair in permutations(flat, 2):
        yield Goal(task=task, objects=pair)


def _push(task: str, objects: Things, fixtures: Fixtures, workspace: Workspace) -> Iterator[Goal]:
    for thing, zone in product(range(len(objects)), of_kind(fixtures, "zone")):
        start, end = objects[thing].position, fixtures[zone].position
        length = math.dist(start, end)
        share = -_BEHIND / length
        behind = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
        others = [other for number, other in enumerate(objects) if number != thing]
        if (
            objects[thing].shape != "ball"  # it would roll on
            and _PUSH[0] < length < _PUSH[1]
            and behind[0] > workspace.x[0] - 0.06
            and abs(behind[1]) < workspace.y[1] + 0.08
            and all(_off_the_way(other, behind, end) > _LANE for other in others)
        ):
            yield Goal(task=task, objects=(thing,), fixtures=(zone,))


def _off_the_way(thing: Thing, start: tuple[float, float], end: tuple[float, float]) -> float:
    """Distance of an object from a straight way, sampled every centimeter or so."""
    steps = max(2, round(math.dist(start, end) / 0.01))
    shares = [step / steps for step in range(steps + 1)]
    way = ((start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])) for s in shares)
    return min(gap(point, thing) for point in way)


def _put_two(task: str, objects: Things, fixtures: Fixtures, _: Workspace) -> Iterator[Goal]:
    for pair in combinations(range(len(objects)), 2):
        for bowls in permutations(of_kind(fixtures, "bowl"), 2):
            yield Goal(task=task, objects=pair, fixtures=bowls)


def _clear(task: str, objects: Things, fixtures: Fixtures, _: Workspace) -> Iterator[Goal]:
    """The two things of one color into one bowl, the one thing of another color into the other."""
    by_color: dict[str, list[int]] = {}
    for number, thing in enumerate(objects):
        by_color.setdefault(thing.color, []).append(number)
    twins = [numbers for numbers in by_color.values() if len(numbers) == 2]
    singles = [numbers[0] for numbers in by_color.values() if len(numbers) == 1]
    for (first, second), single in product(twins, singles):
        for bowl, other in permutations(of_kind(fixtures, "bowl"), 2):
            yield Goal(task=task, objects=(first, second, single), fixtures=(bowl, bowl, other))


def _hand_over(task: str, objects: Things, *_: object) -> Iterator[Goal]:
    for number, hand in product(range(len(objects)), HANDS):
        yield Goal(task=task, objects=(number,), hand=hand)


_GOALS: dict[str, Callable[..., Iterator[Goal]]] = {
    "lift": _each_object,
    "put_in": _each_pair("bowl"),
    "put_beside": _put_beside,
    "stack": _stack,
    "push": _push,
    "open_drawer": _each_fixture("drawer"),
    "close_drawer": _each_fixture("drawer", begins_open=True),
    "press": _each_fixture("button"),
    "pass_obstacle": _each_pair("bowl"),
    "insert": _each_pair("socket"),
    "put_in_drawer": _each_pair("drawer"),
    "put_two": _put_two,
    "clear": _clear,
    "hand_over": _hand_over,
}

TASKS = tuple(_GOALS)
"""What can be asked, from one stage to three."""
