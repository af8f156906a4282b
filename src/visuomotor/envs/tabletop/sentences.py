"""How people ask for the goals of the table top, and how such a sentence is read back.

A sentence names objects by color and shape and fixtures by color and kind, never by place, in one of
many phrasings and with one of several words for each thing. Held-out phrasings and words are never
used in training. `understand` reads a sentence back: within its task each has exactly one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from visuomotor.envs.tabletop.phrasings import LEXICON, PHRASINGS
from visuomotor.errors import unknown_name
from visuomotor.text import grammar
from visuomotor.text.grammar import Lexicon, Words

__all__ = ["Meaning", "describe", "every_sentence", "instructions", "plain", "understand", "write"]

_PLAIN = 0.5  # how often a plain word is taken
_HELD_OUT = 0.5  # chance of a held-out word in the split "words"
_ROUNDS = 100  # through the phrasings, before too few different sentences are an error
_NAMED = {"shape": "{thing", "place": "{place"}  # kind of noun -> how the slots begin that name one


class Meaning(NamedTuple):
    """What a sentence names, in plain names and in the order of the sentence's task.

    Attributes:
        things: Color and shape of each object; "things" stands for any shape.
        places: Color and kind of each fixture.
        side: Of the fixture, a key of `things.SIDES`.
        hand: One of `things.HANDS`.
    """

    things: tuple[tuple[str, str], ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    side: str | None = None
    hand: str | None = None


def instructions(
    task: str, meaning: Meaning, *, split: str, count: int, generator: np.random.Generator
) -> tuple[str, ...]:
    """`count` different sentences for one goal, each in another phrasing as long as there are some.

    Equal draws of the generator give sentences of equal form for other objects or fixtures.

    Args:
        task: A key of `PHRASINGS`.
        meaning: What they name.
        split: "phrasing" uses held-out phrasings with seen words, "words" seen phrasings with at
            least one held-out word, every other split seen ones of both.
        count: How many.
        generator: Source of the choices.

    Raises:
        ValueError: Unknown task or name; more sentences than the grammar has.
    """
    if task not in PHRASINGS:
        raise unknown_name("task", task, PHRASINGS)
    lexicon = _lexicon(meaning)
    phrasings = PHRASINGS[task].held_out if split == "phrasing" else PHRASINGS[task].seen
    share = _HELD_OUT if split == "words" else 0.0
    found: dict[str, str] = {}  # spelled the same way -> as written
    for _ in range(_ROUNDS):
        for number in generator.permutation(len(phrasings)):
            if len(found) == count:
                return tuple(found.values())
            sentence, new = grammar.sample(phrasings[number], lexicon, generator, held_out=share)
            while share and not new:
                sentence, new = grammar.sample(phrasings[number], lexicon, generator, held_out=share)
            found.setdefault(sentence, write(sentence, float(generator.random())))
    raise ValueError(
        f"task {task!r}, split {split!r}: found {len(found)} different sentences, {count} asked for."
    )


def plain(task: str, meaning: Meaning) -> str:
    """The plainest sentence: the first phrasing with the first words."""
    return next(grammar.expand(PHRASINGS[task].seen[0], _lexicon(meaning)))


def every_sentence(task: str, meaning: Meaning, *, held_out: bool = False) -> Iterator[str]:
    """All sentences of `task` for one meaning, in plain spelling.

    Args:
        task: A key of `PHRASINGS`.
        meaning: What they name.
        held_out: Use held-out phrasings and words beside the seen ones.
    """
    phrasings = PHRASINGS[task]
    for phrasing in (*phrasings.seen, *phrasings.held_out) if held_out else phrasings.seen:
        yield from grammar.expand(phrasing, _lexicon(meaning), held_out=held_out)


def understand(task: str, sentence: str) -> Meaning:
    """What a sentence names, in plain names.

    Raises:
        ValueError: It does not name what sentences of this task name.
    """
    pattern, known = _reader()
    named: dict[str, list[tuple[str, str]]] = {"shape": [], "place": []}
    for match in pattern.finditer(sentence.lower()):
        color, noun = match["color"] or match["color_after"], match["noun"] or match["noun_before"]
        kind, name = known[noun]
        named[kind].append((known[color][1], name))
    side, hand = _only("side", task, sentence), _only("hand", task, sentence)
    wanted = {kind: PHRASINGS[task].seen[0].count(slot) for kind, slot in _NAMED.items()}
    found = {kind: len(names) for kind, names in named.items()}
    lacks = any((value is None) == _names(task, kind) for kind, value in (("side", side), ("hand", hand)))
    if found != wanted or lacks:
        raise ValueError(
            f"sentence {sentence!r}: expected {wanted['shape']} objects and {wanted['place']} places, "
            f"found {named}, side {side}, hand {hand}."
        )
    return Meaning(tuple(named["shape"]), tuple(named["place"]), side, hand)


def _names(task: str, kind: str) -> bool:
    """Whether sentences of a task name a "side" or a "hand"."""
    return f"{{{kind}}}" in PHRASINGS[task].seen[0]


def _only(kind: str, task: str, sentence: str) -> str | None:
    """The one side or hand that a sentence names, None where its task has none or it is not one."""
    known = _reader()[1]
    found = {known[match[0]][1] for match in _spans(kind).finditer(sentence.lower())}
    return found.pop() if _names(task, kind) and len(found) == 1 else None


def describe() -> str:
    """Phrasings and words as Markdown, as they stand in the documentation."""
    lines = []
    for task, phrasings in PHRASINGS.items():
        example = _example(task)
        seen = sum(grammar.count(phrasing, _lexicon(example)) for phrasing in phrasings.seen)
        lines += [
            f"### `{task}`",
            "",
            f"{len(phrasings.seen)} phrasings for training, {seen} sentences a goal:",
            "",
        ]
        lines += [f"- {phrasing}" for phrasing in phrasings.seen]
        lines += ["", f"{len(phrasings.held_out)} held out:", ""]
        lines += [f"- {phrasing}" for phrasing in phrasings.held_out]
        lines.append("")
    lines += ["### Words", "", "| | plain name | other words in training | held out |", "|---|---|---|---|"]
    for kind, entries in LEXICON.items():
        for name, words in entries.items():
            lines.append(f"| {kind} | {name} | {', '.join(words.seen[1:])} | {', '.join(words.held_out)} |")
    return "\n".join(lines) + "\n"


def _lexicon(meaning: Meaning) -> Lexicon:
    """Words for all slots of a phrasing with this meaning."""
    slots = dict(LEXICON["verb"])
    for number, (color, shape) in zip(("", "2"), meaning.things, strict=False):
        slots[f"color{number}"], slots[f"shape{number}"] = _words("color", color), _words("shape", shape)
        slots[f"thing{number}"] = Words(seen=(f"{{color{number}}} {{shape{number}}}",))
    for number, (color, kind) in zip(("", "2"), meaning.places, strict=False):
        slots[f"place_color{number}"] = _words("color", color)
        slots[f"place_kind{number}"] = _words("place", kind)
        slots[f"place{number}"] = Words(seen=(f"{{place_color{number}}} {{place_kind{number}}}",))
    if meaning.side is not None:
        slots["side"] = _words("side", meaning.side)
    if meaning.hand is not None:
        slots["hand"] = _words("hand", meaning.hand)
    return Lexicon(words=slots, plain=_PLAIN)


def _example(task: str) -> Meaning:
    """Some meaning that sentences of a task can have."""
    first = PHRASINGS[task].seen[0]
    things = (("red", "cube"), ("green", "bar"))[: first.count("{thing")]
    places = (("blue", "bowl"), ("pink", "bowl"))[: first.count("{place")]
    side, hand = ("left" if _names(task, kind) else None for kind in ("side", "hand"))
    return Meaning(things, places, side, hand)


def _words(kind: str, name: str) -> Words:
    """The words for a plain name."""
    if name not in LEXICON[kind]:
        raise unknown_name(kind, name, LEXICON[kind])
    return LEXICON[kind][name]


def write(sentence: str, draw: float) -> str:
    """The sentence as a person types it: bare, or with capital and full stop, or louder."""
    if draw < 0.5:
        return sentence.rstrip("?")
    mark = "" if sentence.endswith("?") else "." if draw < 0.9 else "!"
    return sentence[0].upper() + sentence[1:] + mark


@lru_cache(maxsize=1)
def _reader() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Pattern of a named thing, and each word's kind and plain name."""
    known = {
        word: (kind, name)
        for kind in ("color", "shape", "place", "side", "hand")
        for name, words in LEXICON[kind].items()
        for word in (*words.seen, *words.held_out)
    }

    def one_of(*kinds: str) -> str:
        return "|".join(re.escape(word) for word, (kind, _) in known.items() if kind in kinds)

    colors, nouns = one_of("color"), one_of("shape", "place")
    before = rf"\b(?P<color>{colors}) (?P<noun>{nouns})\b"
    after = rf"\b(?P<noun_before>{nouns}) that is (?P<color_after>{colors})\b"
    return re.compile(f"{before}|{after}"), known


@lru_cache(maxsize=2)
def _spans(kind: str) -> re.Pattern[str]:
    """Pattern of every way to name a side, or a hand, the longest first."""
    words = [word for entry in LEXICON[kind].values() for word in (*entry.seen, *entry.held_out)]
    return re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(words, key=len, reverse=True)))
