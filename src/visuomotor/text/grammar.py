"""Sentences from templates: "{put} the {color} {shape} {in} the {bowl}" with words for each slot.

A template is a sentence with slots in braces. A lexicon maps a slot to the words that may stand
there; words may hold slots again. Some words can be held out: they are real words that training
never sees, for measuring what a policy does with new ones. Everything is a pure function; choices
come from a generator that is passed in, one draw a slot, so that equal draws make sentences of the
same form for two different meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from visuomotor.errors import unknown_name

__all__ = ["Lexicon", "Words", "count", "expand", "sample", "slots"]

_SLOT = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Words:
    """What may stand in one slot.

    Attributes:
        seen: Words for training, the plain one first.
        held_out: Words that training never uses.
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words = (*self.seen, *self.held_out)
        if not self.seen or len(set(words)) != len(words):
            raise ValueError(f"words of a slot: expected at least one seen word and none twice, got {words}.")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Words for slots.

    Attributes:
        words: Slot name to what may stand there.
        plain: How often the plain word of a slot is taken; the others share the rest equally.
    """

    words: Mapping[str, Words] = field(default_factory=dict)
    plain: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.plain <= 1:
            raise ValueError(f"lexicon: plain must be in [0, 1], got {self.plain}.")

    def __getitem__(self, slot: str) -> Words:
        if slot not in self.words:
            raise unknown_name("slot", slot, self.words)
        return self.words[slot]


def slots(template: str) -> tuple[str, ...]:
    """Names of the slots of a template, in order."""
    return tuple(_SLOT.findall(template))


def sample(
    template: str, lexicon: Lexicon, generator: np.random.Generator, *, held_out: float = 0.0
) -> tuple[str, int]:
    """A sentence from `template`, and how many held-out words it has.

    Args:
        template: Sentence with slots.
        lexicon: Words for all its slots.
        generator: Source of the choices.
        held_out: Chance that a slot with held-out words gets one of them. At 0 no number is drawn for it.
    """
    taken = 0
    while (match := _SLOT.search(template)) is not None:
        words = lexicon[match[1]]
        new = held_out > 0 and generator.random() < held_out and bool(words.held_out)
        draw = generator.random()
        if new:
            word = words.held_out[int(draw * len(words.held_out))]
        elif len(words.seen) == 1 or draw < lexicon.plain:
            word = words.seen[0]
        else:
            rest = (draw - lexicon.plain) / (1 - lexicon.plain)
            word = words.seen[1 + int(rest * (len(words.seen) - 1))]
        taken += new
        template = template[: match.start()] + word + template[match.end() :]
    return template, taken


def expand(template: str, lexicon: Lexicon, *, held_out: bool = False) -> Iterator[str]:
    """Every sentence that `template` can become.

    Args:
        template: Sentence with slots.
        lexicon: Words for all its slots.
        held_out: Use held-out words beside the seen ones.
    """
    match = _SLOT.search(template)
    if match is None:
        yield template
        return
    for word in _alternatives(lexicon, match[1], held_out):
        yield from expand(
            template[: match.start()] + word + template[match.end() :], lexicon, held_out=held_out
        )


def count(template: str, lexicon: Lexicon, *, held_out: bool = False) -> int:
    """How many sentences `expand` gives, without making them."""
    product = 1
    for slot in slots(template):
        product *= sum(
            count(word, lexicon, held_out=held_out) for word in _alternatives(lexicon, slot, held_out)
        )
    return product


def _alternatives(lexicon: Lexicon, slot: str, held_out: bool) -> Sequence[str]:
    """The words that may stand in `slot`."""
    words = lexicon[slot]
    return (*words.seen, *words.held_out) if held_out else words.seen
