"""Questions about where things stand to one another, and about what is held, filled and open."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from visuomotor.envs.tabletop.asking import Question, Sight, Slots, fair, noun_words, pick, question
from visuomotor.envs.tabletop.phrasings import LEXICON
from visuomotor.envs.tabletop.tasks import CLOSED, OPEN, inside
from visuomotor.envs.tabletop.things import (
    BOWL_OUTER_RADIUS,
    BUTTON_RADIUS,
    DRAWER,
    SIDES,
    SOCKET_OUTER_RADIUS,
    ZONE_RADIUS,
)
from visuomotor.envs.tabletop.views import names
from visuomotor.text.grammar import Words

__all__ = ["relation", "state"]

_BETWEEN = 0.03  # meters of room between two things of which one is beside the other
_BEYOND = 0.05  # meters by which something is clearly on the other side
_ASIDE = 0.8  # meters across for each meter to the side
_ELSEWHERE = 0.12  # meters from the middle of a fixture at which something is clearly not in it
_REACH = {
    "bowl": BOWL_OUTER_RADIUS,
    "zone": ZONE_RADIUS,
    "drawer": max(DRAWER.half),
    "button": BUTTON_RADIUS,
    "socket": SOCKET_OUTER_RADIUS,
}
_THING_REACH = 0.03  # meters from the middle of an object to its outside, more or less
_STATES = {
    "open": Words(seen=("open", "pulled out"), held_out=("drawn out",)),
    "closed": Words(seen=("closed", "shut"), held_out=("pushed in",)),
}
_OPPOSITE = {"left": "right", "right": "left", "front": "behind", "behind": "front"}

Draw = np.random.Generator


def relation(sight: Sight, generator: Draw) -> Question | None:
    """Whether one thing is beside another, or what is, as the robot sees it."""
    kinds = {fixture.kind for fixture in sight.env.layout.fixtures}
    if sight.env.spec.camera(sight.camera).mount != "base" or "fence" in kinds:
        return None  # behind a fence there is always the bowl
    still = [number for number in sight.things if number not in _held(sight)]
    way = pick([_is_side, _what_side], generator)
    return way(sight, still, generator)


def _is_side(sight: Sight, still: list[int], generator: Draw) -> Question | None:
    pairs = [
        (first, second, side)
        for (first, second), side in product(permutations(still, 2), SIDES)
        if _beside(sight, first, second, side)
    ]
    if not pairs:
        return None
    first, second, side = pick(pairs, generator)

    def slots(name: str) -> Slots:
        sides = LEXICON["side"][name]
        return {"thing": sight.words(first), "thing2": sight.words(second), "side": sides}

    yes, no = [slots(side)], [slots(_OPPOSITE[side])]
    return fair(sight, "relation", "is_side", yes, no, generator)


def _what_side(sight: Sight, still: list[int], generator: Draw) -> Question | None:
    found = []
    for thing, side in product(still, SIDES):
        others = [other for other in range(len(names(sight.env))) if other != thing]
        near = [other for other in others if _perhaps_beside(sight, other, thing, side)]
        if len(near) == 1 and near[0] in still and _beside(sight, near[0], thing, side):
            found.append((thing, side, near[0]))
    if not found:
        return None
    thing, side, answer = pick(found, generator)
    slots: Slots = {"thing": sight.words(thing), "side": LEXICON["side"][side]}
    return question(sight, "relation", "what_side", sight.name(answer), slots, generator)


def _reach(sight: Sight, number: int) -> float:
    """From the middle of anything to its outside, meters."""
    return _REACH.get(sight.words(number)[1], _THING_REACH)


def _way(sight: Sight, first: int, second: int, side: str) -> tuple[float, float]:
    """How far the first thing is from the second along a side, and across it, meters."""
    offset, (x, y) = sight.place(first) - sight.place(second), SIDES[side]
    return float(x * offset[0] + y * offset[1]), abs(float(x * offset[1] - y * offset[0]))


def _beside(sight: Sight, first: int, second: int, side: str) -> bool:
    """Whether nobody would deny that the first thing is on that side of the second."""
    along, across = _way(sight, first, second, side)
    return along > _reach(sight, first) + _reach(sight, second) + _BETWEEN and across < _ASIDE * along


def _perhaps_beside(sight: Sight, first: int, second: int, side: str) -> bool:
    """Whether somebody could say that the first thing is on that side of the second."""
    along, across = _way(sight, first, second, side)
    return along > -_BEYOND and across < _reach(sight, first) + _reach(sight, second) + 1.5 * max(along, 0.0)


def state(sight: Sight, generator: Draw) -> Question | None:
    """What is held, what is in what, and which drawer is open; a way to ask that there is now."""
    ways = (_is_held, _what_held, _is_in, _is_open, _what_open)
    for number in generator.permutation(len(ways)):
        question = ways[number](sight, generator)
        if question is not None:
            return question
    return None


def _held(sight: Sight) -> list[int]:
    """Numbers of the objects that a hand holds."""
    return [number for number in range(len(sight.env.layout.objects)) if sight.env.scene.holders(number)]


def _is_held(sight: Sight, generator: Draw) -> Question | None:
    held = _held(sight)
    others = [number for number in sight.objects if number not in held]
    if len(held) != 1 or held[0] not in sight.things or not others:
        return None
    yes, no = ([{"thing": sight.words(number)} for number in numbers] for numbers in (held, others))
    return fair(sight, "state", "is_held", yes, no, generator)


def _what_held(sight: Sight, generator: Draw) -> Question | None:
    held = _held(sight)
    if len(held) != 1 or held[0] not in sight.things:
        return None
    return question(sight, "state", "what_held", sight.name(held[0]), {}, generator)


def _is_in(sight: Sight, generator: Draw) -> Question | None:
    """The other answer is for another thing, or for another fixture of the kind."""
    held = _held(sight)
    places = sight.fixtures("bowl", "zone", "drawer", "socket")
    pairs = [pair for pair in product(sight.objects, places) if pair[0] not in held]
    there = [(thing, place) for thing, place in pairs if inside(sight.env.scene, thing, sight.stand(place))]
    away = [(thing, place) for thing, place in pairs if _elsewhere(sight, thing, place)]
    found = []
    for thing, place in there:
        kind = sight.words(place)[1]
        same = [
            pair
            for pair in away
            if pair[1] == place or (pair[0] == thing and sight.words(pair[1])[1] == kind)
        ]
        if kind == "zone":  # balls are never pushed there
            same = [pair for pair in same if sight.words(pair[0])[1] != "ball"]
        found += [((thing, place), other) for other in same]
    if not found:
        return None
    yes, no = (
        [{"thing": sight.words(thing), "thing2": sight.words(place)}]
        for thing, place in pick(found, generator)
    )
    return fair(sight, "state", "is_in", yes, no, generator)


def _elsewhere(sight: Sight, thing: int, place: int) -> bool:
    """Whether an object is clearly not in a fixture."""
    way = sight.env.scene.place(thing) - sight.env.scene.fixture(sight.stand(place))
    return float(np.hypot(way[0], way[1])) > _ELSEWHERE


def _drawers(sight: Sight) -> dict[str, list[int]]:
    """Numbers of the drawers that are seen to be open, and of those that are closed."""
    travel = {number: sight.env.scene.travel(sight.stand(number)) for number in sight.fixtures("drawer")}
    return {
        "open": [number for number, way in travel.items() if way > OPEN],
        "closed": [number for number, way in travel.items() if way < CLOSED],
    }


def _is_open(sight: Sight, generator: Draw) -> Question | None:
    drawers = _drawers(sight)
    if not all(drawers.values()):
        return None
    state = pick(list(_STATES), generator)

    def slots(number: int) -> Slots:
        return {"thing": sight.words(number), "open": _STATES[state]}

    others = drawers["closed" if state == "open" else "open"]
    yes, no = list(map(slots, drawers[state])), list(map(slots, others))
    return fair(sight, "state", "is_open", yes, no, generator)


def _what_open(sight: Sight, generator: Draw) -> Question | None:
    drawers = _drawers(sight)
    if not all(len(numbers) == 1 for numbers in drawers.values()):
        return None
    state = pick(list(_STATES), generator)
    slots: Slots = {"noun": noun_words("drawer"), "open": _STATES[state]}
    return question(sight, "state", "what_open", sight.name(drawers[state][0]), slots, generator)
