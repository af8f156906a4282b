"""Questions about what a camera sees, with true answers read from the state of the simulation.

Nothing is asked about what is hidden, and nothing that could be answered either way. A yes/no question
is asked only where the same words could be asked of something else here with the other answer, and
which one is a fair draw: who does not look is right half of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from visuomotor.envs.tabletop.asking import (
    Question,
    Sight,
    Slots,
    fair,
    look,
    noun_words,
    pick,
    plural,
    plurals,
    question,
    with_articles,
)
from visuomotor.envs.tabletop.phrasings import LEXICON
from visuomotor.envs.tabletop.relations import relation, state
from visuomotor.envs.tabletop.tasks import TASKS
from visuomotor.envs.tabletop.things import COLORS, HELD_OUT_PAIRS, SHAPES
from visuomotor.envs.tabletop.views import names
from visuomotor.errors import unknown_name
from visuomotor.text.grammar import Words

__all__ = ["KINDS", "Question", "Sight", "ask", "look"]

_COUNTS = 3  # different counts that a scene must offer
_NUMBERS = ("no", "one", "two", "three", "four")

Draw = np.random.Generator
Ways = tuple[list[Slots], list[Slots]]  # how to ask for "yes", and for "no"


def ask(sight: Sight, kind: str, generator: np.random.Generator) -> Question | None:
    """A question of a kind; None if there is nothing of it to ask now.

    The words follow the split of the episode: "phrasing" uses held-out phrasings, "words" takes
    held-out words, every other split neither.

    Args:
        sight: What is asked about.
        kind: One of `KINDS`. "relation" is asked only of cameras that stand still, because left and
            right are meant as the robot sees them.
        generator: Source of all choices.

    Raises:
        ValueError: Unknown kind.
    """
    if kind not in _ASK:
        raise unknown_name("kind of question", kind, _ASK)
    return _ASK[kind](sight, generator)


def _caption(sight: Sight, generator: Draw) -> Question | None:
    """Everything that is seen, single things first, each from left to right."""
    if not sight.boxes:
        return None
    colors: dict[str, list[str]] = {}
    for box in sight.boxes:
        color, noun = box.name.split(" ")
        colors.setdefault(noun, []).append(color)
    parts = [f"a {found[0]} {noun}" for noun, found in colors.items() if len(found) == 1]
    groups = [
        f"{_NUMBERS[len(found)]} {plural(noun)}, {_listed([f'one {color}' for color in found])}"
        for noun, found in colors.items()
        if len(found) > 1
    ]
    text = (
        _listed([*parts, groups[0]])
        if len(groups) == 1
        else "; ".join(filter(None, [_listed(parts), *groups]))
    )
    return question(sight, "caption", "caption", with_articles(text), {}, generator)


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _color(sight: Sight, generator: Draw) -> Question | None:
    """The color of the only thing of its shape or kind."""
    every = [sight.words(number)[1] for number in (*sight.things, *sight.partly)]
    single = [number for number in sight.things if every.count(sight.words(number)[1]) == 1]
    if not single:
        return None
    color, noun = sight.words(pick(single, generator))
    return question(sight, "color", "color", color, {"noun": noun_words(noun)}, generator)


def _count(sight: Sight, generator: Draw) -> Question | None:
    """How many there are of a shape, or of a color; each count that the scene offers is as likely."""
    shapes = [] if "peg" in sight.env.scene.shapes else list(SHAPES)
    classes = pick([list(COLORS), shapes], generator)
    seen = [sight.words(number) for number in sight.things]
    partly = [sight.words(number) for number in sight.partly]
    by_count: dict[int, list[str]] = {}
    for name in classes:
        if not any(name in words for words in partly):
            by_count.setdefault(sum(name in words for words in seen), []).append(name)
    if len(by_count) < _COUNTS:
        return None
    count = pick(sorted(by_count), generator)
    name = pick(by_count[count], generator)
    if name in COLORS:
        slots: Slots = {
            "many": Words(seen=("{color} {things}",)),
            "color": LEXICON["color"][name],
            "things": LEXICON["shape"]["things"],
        }
    else:
        slots = {"many": plurals(noun_words(name))}
    return question(sight, "count", "count", str(count), slots, generator)


def _exists(sight: Sight, generator: Draw) -> Question | None:
    """Whether there is something of a name, a shape or a color; what is hidden is not asked for."""
    ways = [way for way in (_some_name, _some_shape, _some_color) if sight.things]
    for number in generator.permutation(len(ways)):
        found = ways[number](sight, generator)
        if found is not None:
            yes, no = found
            return fair(sight, "exists", "exists", yes, no, generator)
    return None


def _some_name(sight: Sight, generator: Draw) -> Ways:
    """The name of something seen, or with another color, in half of the cases one from the scene."""
    color, noun = sight.words(pick(list(sight.things), generator))
    scene = [name.split(" ") for name in names(sight.env)]
    taken = {other for other, kind in scene if kind == noun}
    known = HELD_OUT_PAIRS if sight.env.layout.split != "pairs" else frozenset()
    new = [other for other in COLORS if other not in taken and (other, noun) not in known]
    near = [other for other in new if other in {other for other, _ in scene}]
    other = pick(near if near and generator.random() < 0.5 else new, generator)
    return [{"thing": (color, noun)}], [{"thing": (other, noun)}]


def _some_shape(sight: Sight, generator: Draw) -> Ways | None:
    """A shape that is seen, or one that is not in the scene."""
    seen = [shape for shape in SHAPES if any(shape in sight.words(number) for number in sight.objects)]
    missing = [shape for shape in SHAPES if shape not in sight.env.scene.shapes]
    if not seen or not missing or "peg" in sight.env.scene.shapes:
        return None
    return [{"thing": noun_words(pick(seen, generator))}], [{"thing": noun_words(pick(missing, generator))}]


def _some_color(sight: Sight, generator: Draw) -> Ways:
    """A color that is seen, or one that is not in the scene."""
    scene = {name.split(" ")[0] for name in names(sight.env)}
    seen = pick([sight.words(number)[0] for number in sight.things], generator)
    missing = pick([color for color in COLORS if color not in scene], generator)
    return [_something(seen)], [_something(missing)]


def _something(color: str) -> Slots:
    return {"thing": Words(seen=("{color} thing",)), "color": LEXICON["color"][color]}


def _point(sight: Sight, generator: Draw) -> Question | None:
    """A pixel of a thing."""
    if not sight.things:
        return None
    box = pick(list(sight.things.values()), generator)
    slots: Slots = {"thing": sight.words(box.number)}
    asked = question(sight, "point", "point", _digits(box.point), slots, generator)
    return replace(asked, point=box.point)


def _box(sight: Sight, generator: Draw) -> Question | None:
    """The box around a thing."""
    if not sight.things:
        return None
    box = pick(list(sight.things.values()), generator)
    slots: Slots = {"thing": sight.words(box.number)}
    asked = question(sight, "box", "box", _digits(box.shares), slots, generator)
    return replace(asked, box=box.shares)


def _digits(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.3f}" for share in shares)


def _subtask(sight: Sight, generator: Draw) -> Question | None:
    """What to do now to follow the instruction of the episode."""
    env, part = sight.env, sight.env.stage
    needed = {*part.objects, *(len(env.layout.objects) + number for number in part.fixtures)}
    if TASKS[env.wanted.task].reached(env.scene, env.wanted) or not needed <= set(sight.things):
        return None
    told = Words(seen=(env.instructions(1)[0].rstrip(".?!"),))
    return question(sight, "subtask", "subtask", env.subtask, {"told": told}, generator)


_ASK: dict[str, Callable[[Sight, Draw], Question | None]] = {
    "box": _box,
    "caption": _caption,
    "color": _color,
    "count": _count,
    "exists": _exists,
    "point": _point,
    "relation": relation,
    "state": state,
    "subtask": _subtask,
}

KINDS = tuple(_ASK)
"""What can be asked."""
