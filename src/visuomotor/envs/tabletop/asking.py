"""What questions about a picture are made of: what is seen, the words, and fair draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from visuomotor.envs.tabletop.env import TabletopEnv
from visuomotor.envs.tabletop.phrasings import LEXICON
from visuomotor.envs.tabletop.question_words import QUESTIONS
from visuomotor.envs.tabletop.sentences import write
from visuomotor.envs.tabletop.views import HIDDEN, Box, boxes, names
from visuomotor.text import grammar
from visuomotor.text.grammar import Lexicon, Words

__all__ = [
    "Question",
    "Sight",
    "Slots",
    "fair",
    "look",
    "noun_words",
    "pick",
    "plural",
    "plurals",
    "question",
    "with_articles",
]

_PLAIN = 0.5  # how often a plain word is taken
_HELD_OUT = 0.5  # chance of a held-out word in the split "words"

Draw = np.random.Generator
_T = TypeVar("_T")
Slots = Mapping[str, Words | tuple[str, str]]
"""Slot of a phrasing to its words, or to color and noun of what is named there."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about a picture, and what is true.

    Attributes:
        kind: One of `questions.KINDS`.
        question: As a person types it.
        answer: In plain names; places as shares of the picture with three digits, "x y" for a point and
            "left top right bottom" for a box.
        camera: Name of the view it is about.
        form: Key of `question_words.QUESTIONS`.
        point: x and y as shares of the picture, if it asks for a point.
        box: Left, top, right and bottom as shares of the picture, if it asks for a box.
    """

    kind: str
    question: str
    answer: str
    camera: str
    form: str
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a camera sees now.

    Attributes:
        env: Whose episode is running.
        camera: Name of the view.
        boxes: Of what is seen well enough to be asked about, from left to right.
        partly: Numbers of what is seen, but too much of it is hidden.
    """

    env: TabletopEnv
    camera: str
    boxes: tuple[Box, ...]
    partly: frozenset[int]

    @property
    def things(self) -> dict[int, Box]:
        """The boxes of objects and of fixtures that have a color, by number."""
        return {box.number: box for box in self.boxes if not box.name.endswith("fence")}

    @property
    def objects(self) -> list[int]:
        """Numbers of the objects among `things`."""
        return [number for number in self.things if number < len(self.env.layout.objects)]

    def fixtures(self, *kinds: str) -> list[int]:
        """Numbers of the fixtures of some kinds among `things`."""
        return [number for number in self.things if self.words(number)[1] in kinds]

    def words(self, number: int) -> tuple[str, str]:
        """Color and noun of anything in the scene."""
        color, noun = self.name(number).split(" ")
        return color, noun

    def name(self, number: int) -> str:
        """Plain name of anything in the scene."""
        return names(self.env)[number]

    def stand(self, number: int) -> int:
        """Number of a fixture as the scene counts it."""
        return number - len(self.env.layout.objects)

    def place(self, number: int) -> np.ndarray:
        """Where the middle of anything is on the table (2,), of a drawer that of its chest; meters."""
        if number < len(self.env.layout.objects):
            return self.env.scene.place(number)[:2]
        return np.array(self.env.layout.fixtures[self.stand(number)].position)


def look(env: TabletopEnv, camera: str) -> Sight:
    """What a camera of the environment's spec sees now."""
    view = env.spec.camera(camera)
    every = boxes(env, camera, view.height, view.width, hidden=1.0)
    clear = sorted((box for box in every if box.hidden <= HIDDEN), key=lambda box: (box.left, box.top))
    return Sight(
        env=env,
        camera=camera,
        boxes=tuple(clear),
        partly=frozenset(box.number for box in every) - {box.number for box in clear},
    )


def question(sight: Sight, kind: str, form: str, answer: str, slots: Slots, generator: Draw) -> Question:
    """A question in one of the phrasings of its form."""
    text = _say(sight, form, slots, generator)
    return Question(kind=kind, question=text, answer=answer, camera=sight.camera, form=form)


def fair(
    sight: Sight, kind: str, form: str, yes: Sequence[Slots], no: Sequence[Slots], generator: Draw
) -> Question:
    """A yes/no question whose answer is a fair draw.

    Args:
        sight: What is asked about.
        kind: Of the question.
        form: Key of `question_words.QUESTIONS`.
        yes: Slots with which the answer is "yes"; at least one.
        no: The same for "no".
        generator: Source of all choices.
    """
    answer = "yes" if generator.random() < 0.5 else "no"
    return question(sight, kind, form, answer, pick(yes if answer == "yes" else no, generator), generator)


def pick(options: Sequence[_T], generator: Draw) -> _T:
    """One of the options, evenly drawn."""
    return options[int(generator.integers(len(options)))]


# ---- words --------------------------------------------------------------------------------------


def _say(sight: Sight, form: str, slots: Slots, generator: Draw) -> str:
    """A phrasing of a form with words in its slots."""
    split = sight.env.layout.split
    phrasings = QUESTIONS[form].held_out if split == "phrasing" else QUESTIONS[form].seen
    words: dict[str, Words] = {}
    for slot, named in slots.items():
        if isinstance(named, Words):
            words[slot] = named
        else:
            words[slot] = Words(seen=(f"{{{slot}_color}} {{{slot}_noun}}",))
            words[f"{slot}_color"], words[f"{slot}_noun"] = LEXICON["color"][named[0]], noun_words(named[1])
    phrasing = phrasings[int(generator.integers(len(phrasings)))]
    share = _HELD_OUT if split == "words" else 0.0
    text, _ = grammar.sample(phrasing, Lexicon(words=words, plain=_PLAIN), generator, held_out=share)
    return write(with_articles(text), float(generator.random()))


def noun_words(name: str) -> Words:
    """The words for a shape or a kind of fixture."""
    return LEXICON["shape" if name in LEXICON["shape"] else "place"][name]


def plural(word: str) -> str:
    """Several of it."""
    if word in ("dice", "stuff") or word.endswith("s"):
        return word
    return f"{word}es" if word.endswith(("x", "ch", "sh")) else f"{word}s"


def plurals(words: Words) -> Words:
    """Several of each."""
    return Words(seen=tuple(plural(word) for word in words.seen), held_out=tuple(map(plural, words.held_out)))


def with_articles(text: str) -> str:
    """The text with "an" where "a" stands before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)
