"""How people ask for the goals of the table top: phrasings, synonyms, and which are held out.

A sentence names the object by color and shape and the bowl by color, never by place, in one of many
phrasings and with one of several words for each thing. Held-out phrasings and words are never used
in training. `understand` reads a sentence back: each has exactly one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from visuomotor.errors import unknown_name
from visuomotor.text import grammar
from visuomotor.text.grammar import Lexicon, Words

__all__ = ["LEXICON", "PHRASINGS", "Meaning", "describe", "every_sentence", "instructions", "understand"]

PHRASINGS: dict[str, Words] = {
    "lift": Words(
        seen=(
            "{lift} the {thing}",
            "lift up the {thing}",
            "lift the {thing} up",
            "pick the {thing} up",
            "please {lift} the {thing}",
            "can you {lift} the {thing}?",
            "could you please {lift} the {thing}?",
            "i want you to {lift} the {thing}",
            "{take} the {thing} and lift it",
            "{take} the {thing} and hold it up",
            "raise the {thing} off the table",
            "take the {thing} from the table",
            "hold the {thing} in the air",
            "find the {shape} that is {color} and raise it",
            "up goes the {thing}",
            "the {thing} should go up",
            "your task is to {lift} the {thing}",
            "robot, {lift} the {thing} now",
            "get the {thing} up in the air",
            "{thing} up",
        ),
        held_out=(
            "would you mind lifting the {thing}?",
            "the one to {lift} is the {thing}",
            "let me see the {thing} high above the table",
            "get hold of the {thing} and bring it up",
            "the {thing} has to leave the table",
            "i would like to have the {thing} up here",
        ),
    ),
    "put_in": Words(
        seen=(
            "{put} the {thing} {in} the {place}",
            "please {put} the {thing} {in} the {place}",
            "can you {put} the {thing} {in} the {place}?",
            "could you please {put} the {thing} {in} the {place}?",
            "i want you to {put} the {thing} {in} the {place}",
            "{take} the {thing} and {put} it {in} the {place}",
            "pick up the {thing}, then {put} it {in} the {place}",
            "move the {thing} into the {place}",
            "the {thing} goes {in} the {place}",
            "the {thing} belongs {in} the {place}",
            "i want the {thing} {in} the {place}",
            "make sure the {thing} ends up in the {place}",
            "bring the {thing} to the {place} and let it go",
            "your task is to {put} the {thing} {in} the {place}",
            "robot, {put} the {thing} {in} the {place} now",
            "find the {shape} that is {color} and {put} it {in} the {place}",
            "{thing} {in} the {place}",
            "into the {place} goes the {thing}",
            "{in} the {place}, {put} the {thing}",
            "the {place} is where the {thing} goes",
            "the {place} should hold the {thing}",
            "fill the {place} with the {thing}",
        ),
        held_out=(
            "would you mind putting the {thing} {in} the {place}?",
            "carry the {thing} over to the {place} and leave it there",
            "i would like to see the {thing} inside the {place}",
            "what the {place} needs is the {thing}",
            "let the {place} receive the {thing}",
            "the {thing} has to be moved into the {place}",
        ),
    ),
}
"""Task to its phrasings. `{thing}` is "{color} {shape}", `{place}` is "{bowl_color} {bowl}"."""

LEXICON: dict[str, dict[str, Words]] = {
    "color": {
        "red": Words(seen=("red", "crimson", "ruby"), held_out=("scarlet", "cherry")),
        "orange": Words(seen=("orange", "tangerine", "apricot"), held_out=("mandarin", "carrot-colored")),
        "yellow": Words(seen=("yellow", "golden", "banana-colored"), held_out=("lemon", "canary")),
        "green": Words(seen=("green", "emerald", "lime"), held_out=("jade", "olive")),
        "cyan": Words(seen=("cyan", "turquoise", "aqua"), held_out=("teal", "aquamarine")),
        "blue": Words(seen=("blue", "azure", "cobalt"), held_out=("navy", "sapphire")),
        "purple": Words(seen=("purple", "violet", "lavender"), held_out=("lilac", "plum")),
        "pink": Words(seen=("pink", "rose", "bubblegum"), held_out=("fuchsia", "flamingo")),
    },
    "shape": {
        "cube": Words(seen=("cube", "block", "square"), held_out=("box", "dice")),
        "cylinder": Words(seen=("cylinder", "tin", "barrel"), held_out=("tube", "canister")),
        "ball": Words(seen=("ball", "sphere", "globe"), held_out=("orb", "marble")),
        "bar": Words(seen=("bar", "stick", "beam"), held_out=("rod", "plank")),
    },
    "place": {
        "bowl": Words(seen=("bowl", "dish", "pot"), held_out=("basin", "container")),
    },
    "verb": {
        "put": Words(seen=("put", "place", "drop", "set", "lay"), held_out=("deposit", "stash")),
        "take": Words(seen=("take", "grab", "grasp", "pick up", "get"), held_out=("seize", "fetch")),
        "lift": Words(seen=("lift", "raise", "pick up"), held_out=("hoist", "heave")),
        "in": Words(seen=("in", "into", "inside")),
    },
}
"""Kind of word to plain name to the words for it."""

_PLAIN = 0.5  # how often a plain word is taken
_HELD_OUT = 0.5  # chance of a held-out word in the split "words"
_ROUNDS = 100  # through the phrasings, before too few different sentences are an error


class Meaning(NamedTuple):
    """What a sentence names: color and shape of the object, color of the bowl if there is one."""

    color: str
    shape: str
    bowl: str | None


def instructions(
    task: str,
    *,
    color: str,
    shape: str,
    bowl: str | None,
    split: str,
    count: int,
    generator: np.random.Generator,
) -> tuple[str, ...]:
    """`count` different sentences for one goal, each in another phrasing as long as there are some.

    Equal draws of the generator give sentences of equal form for another object or bowl.

    Args:
        task: A key of `PHRASINGS`.
        color: Plain name of the object's color.
        shape: Plain name of its shape.
        bowl: Plain name of the bowl's color, None for tasks without one.
        split: "phrasing" uses held-out phrasings with seen words, "words" seen phrasings with at
            least one held-out word, every other split seen ones of both.
        count: How many.
        generator: Source of the choices.

    Raises:
        ValueError: Unknown task or name; more sentences than the grammar has.
    """
    if task not in PHRASINGS:
        raise unknown_name("task", task, PHRASINGS)
    lexicon = _lexicon(Meaning(color, shape, bowl))
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
            found.setdefault(sentence, _write(sentence, float(generator.random())))
    raise ValueError(
        f"task {task!r}, split {split!r}: found {len(found)} different sentences, {count} asked for."
    )


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


def understand(sentence: str) -> Meaning:
    """What a sentence names, in plain names.

    Raises:
        ValueError: It does not name exactly one object and at most one bowl.
    """
    pattern, plain = _reader()
    named: dict[str, list[tuple[str, str]]] = {"shape": [], "place": []}
    for match in pattern.finditer(sentence.lower()):
        color, noun = match["color"] or match["color_after"], match["noun"] or match["noun_before"]
        kind, name = plain[noun]
        named[kind].append((plain[color][1], name))
    if len(named["shape"]) != 1 or len(named["place"]) > 1:
        raise ValueError(f"sentence {sentence!r}: expected one object and at most one bowl, found {named}.")
    ((color, shape),) = named["shape"]
    return Meaning(color, shape, named["place"][0][0] if named["place"] else None)


def describe() -> str:
    """Phrasings and words as Markdown, as they stand in the documentation."""
    lines = []
    for task, phrasings in PHRASINGS.items():
        example = Meaning("red", "cube", "blue" if task == "put_in" else None)
        seen = sum(1 for _ in every_sentence(task, example))
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
    slots = {
        **LEXICON["verb"],
        "color": _words("color", meaning.color),
        "shape": _words("shape", meaning.shape),
        "thing": Words(seen=("{color} {shape}",)),
    }
    if meaning.bowl is not None:
        slots["bowl_color"] = _words("color", meaning.bowl)
        slots["bowl"] = LEXICON["place"]["bowl"]
        slots["place"] = Words(seen=("{bowl_color} {bowl}",))
    return Lexicon(words=slots, plain=_PLAIN)


def _words(kind: str, name: str) -> Words:
    """The words for a plain name."""
    if name not in LEXICON[kind]:
        raise unknown_name(kind, name, LEXICON[kind])
    return LEXICON[kind][name]


def _write(sentence: str, draw: float) -> str:
    """The sentence as a person types it: bare, or with capital and full stop, or louder."""
    if draw < 0.5:
        return sentence.rstrip("?")
    mark = "" if sentence.endswith("?") else "." if draw < 0.9 else "!"
    return sentence[0].upper() + sentence[1:] + mark


@lru_cache(maxsize=1)
def _reader() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Pattern of a named thing, and each word's kind and plain name."""
    plain = {
        word: (kind, name)
        for kind in ("color", "shape", "place")
        for name, words in LEXICON[kind].items()
        for word in (*words.seen, *words.held_out)
    }

    def one_of(*kinds: str) -> str:
        return "|".join(re.escape(word) for word, (kind, _) in plain.items() if kind in kinds)

    colors, nouns = one_of("color"), one_of("shape", "place")
    before = rf"\b(?P<color>{colors}) (?P<noun>{nouns})\b"
    after = rf"\b(?P<noun_before>{nouns}) that is (?P<color_after>{colors})\b"
    return re.compile(f"{before}|{after}"), plain
