"""Sentences as people type them, which no grammar made: the split "free".

`free.json` holds them by hand, each with the one goal that it names; nothing is ever trained on them.
They use other words, several clauses, asides and telegrams, so they tell how far a policy is from
being talked to.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from visuomotor.envs.tabletop.phrasings import LEXICON
from visuomotor.envs.tabletop.sentences import Meaning
from visuomotor.errors import unknown_name

__all__ = ["Free", "draw", "free_sentences", "saying"]


class Free(NamedTuple):
    """A sentence, and what it names."""

    meaning: Meaning
    text: str


@lru_cache(maxsize=1)
def free_sentences() -> dict[str, tuple[Free, ...]]:
    """Task to its sentences."""
    told = json.loads(files(__package__).joinpath("free.json").read_text(encoding="utf-8"))
    return {task: tuple(Free(_meaning(row[:-1]), row[-1]) for row in rows) for task, rows in told.items()}


def _meaning(names: list[str]) -> Meaning:
    """What plain names stand for: objects, fixtures, perhaps a side or a hand, in the order of the task."""
    pairs = [tuple(name.split(" ")) for name in names if " " in name]
    things = tuple((color, noun) for color, noun in pairs if noun in LEXICON["shape"])
    places = tuple((color, noun) for color, noun in pairs if noun in LEXICON["place"])
    side = next((name for name in names if name in LEXICON["side"]), None)
    return Meaning(things, places, side, next((which for which, noun in pairs if noun == "hand"), None))


def draw(task: str, generator: np.random.Generator) -> Free:
    """One of the sentences of a task, evenly drawn.

    Raises:
        ValueError: The task has none, with the closest one that has.
    """
    known = free_sentences()
    if task not in known:
        raise unknown_name("task with free sentences", task, known)
    return known[task][int(generator.integers(len(known[task])))]


def saying(task: str, meaning: Meaning, first: str) -> tuple[str, ...]:
    """Every sentence with this meaning, `first` leading if it is one of them.

    Raises:
        ValueError: There is none.
    """
    found = [free.text for free in free_sentences().get(task, ()) if free.meaning == meaning]
    if not found:
        named = " and ".join(f"{color} {noun}" for color, noun in (*meaning.things, *meaning.places))
        raise ValueError(
            f"split 'free': no sentence asks for {task!r} of {named}. Choose another split for this goal."
        )
    return tuple(sorted(found, key=lambda text: text != first))
