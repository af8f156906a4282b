"""Sentences of every task: each has exactly one meaning, and training never meets what is held out."""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.envs.tabletop.goals import TASKS, meaning
from visuomotor.envs.tabletop.layout import sample_layout
from visuomotor.envs.tabletop.phrasings import LEXICON, PHRASINGS
from visuomotor.envs.tabletop.sentences import (
    Meaning,
    describe,
    every_sentence,
    instructions,
    plain,
    understand,
)
from visuomotor.envs.tabletop.things import COLORS, FIXTURES, HANDS, SHAPES, SIDES
from visuomotor.text import grammar
from visuomotor.text.grammar import Words

DOCS = Path(__file__).parents[3] / "docs" / "tabletop.md"
SPLITS = ("train", "phrasing", "words")  # those of sentences; in the others they are those of training


def any_of(words: list[str]) -> str:
    """Pattern of one of some words."""
    return "|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in sorted(words, key=len, reverse=True))


HELD_OUT_WORDS = re.compile(
    any_of([word for entries in LEXICON.values() for words in entries.values() for word in words.held_out])
)


@cache
def patterns(task: str) -> tuple[re.Pattern[str], ...]:
    """What matches exactly the sentences of training, for any meaning."""
    slots = {name: any_of(list(words.seen)) for name, words in LEXICON["verb"].items()}
    for slot, kind in (("color", "color"), ("shape", "shape"), ("place_kind", "place")):
        slots[slot] = any_of([word for words in LEXICON[kind].values() for word in words.seen])
    for slot in ("side", "hand"):
        slots[slot] = any_of([word for words in LEXICON[slot].values() for word in words.seen])
    slots["place_color"] = slots["color"]
    slots["thing"] = f"(?:{slots['color']}) (?:{slots['shape']})"
    slots["place"] = f"(?:{slots['color']}) (?:{slots['place_kind']})"
    slots |= {f"{slot}2": slots[slot] for slot in ("thing", "place")}
    return tuple(
        re.compile("".join(_part(part, slots) for part in re.split(r"(\{\w+\})", phrasing.rstrip("?"))))
        for phrasing in PHRASINGS[task].seen
    )


def _part(part: str, slots: dict[str, str]) -> str:
    return f"(?:{slots[part[1:-1]]})" if part.startswith("{") else re.escape(part)


def is_trained(task: str, sentence: str) -> bool:
    """Whether training could show a sentence."""
    return any(pattern.fullmatch(bare(sentence)) for pattern in patterns(task))


def bare(sentence: str) -> str:
    return sentence.lower().rstrip("?.!")


@cache
def asked(task: str, seed: int = 0) -> Meaning:
    """What some scene of a task asks for."""
    layout = sample_layout(seed, task=task)
    return meaning(layout, layout.goal)


def draw(task: str, split: str, seed: int, count: int = 1, named: Meaning | None = None) -> tuple[str, ...]:
    generator = np.random.default_rng(seed)
    return instructions(task, named or asked(task), split=split, count=count, generator=generator)


# ---- words --------------------------------------------------------------------------------------


def test_every_color_shape_fixture_and_side_of_the_suite_has_words() -> None:
    assert set(LEXICON["color"]) == set(COLORS)
    assert set(LEXICON["shape"]) == {*SHAPES, "peg", "things"}
    assert set(LEXICON["place"]) == {*FIXTURES} - {"fence"}  # which no goal names
    assert set(LEXICON["side"]) == set(SIDES)
    assert set(LEXICON["hand"]) == set(HANDS)
    assert set(PHRASINGS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_there_are_enough_phrasings_and_none_twice(task: str) -> None:
    assert len(PHRASINGS[task].seen) >= 14
    assert len(PHRASINGS[task].held_out) >= 4
    phrasings = (*PHRASINGS[task].seen, *PHRASINGS[task].held_out)
    assert len({bare(phrasing) for phrasing in phrasings}) == len(phrasings)


def test_no_word_means_two_things_and_every_noun_and_color_has_held_out_words() -> None:
    named = ("color", "shape", "place", "side", "hand")
    words = [
        word for kind in named for entry in LEXICON[kind].values() for word in (*entry.seen, *entry.held_out)
    ]
    assert len(set(words)) == len(words)
    assert all(entry.held_out for kind in named for entry in LEXICON[kind].values())


def test_every_phrasing_names_what_the_others_of_its_task_name() -> None:
    for task, phrasings in PHRASINGS.items():
        named = asked(task)
        for phrasing in (*phrasings.seen, *phrasings.held_out):
            for word in ("thing", "place"):
                slots = [slot for slot in grammar.slots(phrasing) if slot in (word, f"{word}2")]
                by_color = {"thing": "{color}", "place": "{place_color}"}[word] in phrasing
                wanted = len(named.things if word == "thing" else named.places)
                assert len(slots) + by_color == wanted, (task, phrasing)
                assert slots == sorted(slots), (task, phrasing)  # in the order of the goal


# ---- meanings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("put_two", "clear")])
def test_every_training_sentence_has_exactly_its_meaning(task: str) -> None:
    """Of put_two and clear there are millions; those that are drawn are tested below."""
    named = asked(task)
    some = set(islice(every_sentence(task, named), 0, 40_000, 29))
    assert {understand(task, sentence) for sentence in some} == {named}
    assert all(is_trained(task, sentence) for sentence in list(some)[:60])


@given(seed=st.integers(0, 10**6), task=st.sampled_from(TASKS), split=st.sampled_from(SPLITS))
def test_drawn_sentences_are_different_and_mean_the_goal(seed: int, task: str, split: str) -> None:
    named = asked(task, seed)
    drawn = draw(task, split, seed, 6, named)
    assert len({bare(sentence) for sentence in drawn}) == 6
    assert {understand(task, sentence) for sentence in drawn} == {named}


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    task=st.sampled_from(TASKS),
    held_out=st.booleans(),
    pick=st.integers(0, 99),
    share=st.sampled_from([0.0, 1.0]),
)
def test_every_phrasing_with_any_words_is_understood(seed, task, held_out, pick, share) -> None:
    """Held-out phrasings with held-out words, too, though no split has both."""
    phrasings = PHRASINGS[task].held_out if held_out else PHRASINGS[task].seen
    named, generator = asked(task, seed), np.random.default_rng(seed)
    slots = dict(LEXICON["verb"])
    for number, (color, shape) in zip(("", "2"), named.things):
        slots |= {f"color{number}": LEXICON["color"][color], f"shape{number}": LEXICON["shape"][shape]}
        slots[f"thing{number}"] = Words(seen=(f"{{color{number}}} {{shape{number}}}",))
    for number, (color, kind) in zip(("", "2"), named.places):
        slots |= {f"place_color{number}": LEXICON["color"][color]}
        slots |= {f"place_kind{number}": LEXICON["place"][kind]}
        slots[f"place{number}"] = Words(seen=(f"{{place_color{number}}} {{place_kind{number}}}",))
    if named.side is not None:
        slots["side"] = LEXICON["side"][named.side]
    if named.hand is not None:
        slots["hand"] = LEXICON["hand"][named.hand]
    phrasing = phrasings[pick % len(phrasings)]
    sentence, _ = grammar.sample(phrasing, grammar.Lexicon(words=slots), generator, held_out=share)
    assert understand(task, sentence) == named


@pytest.mark.parametrize("task", TASKS)
def test_the_plain_sentence_is_the_first_phrasing_with_first_words(task: str) -> None:
    named = asked(task)
    sentence = plain(task, named)
    assert understand(task, sentence) == named
    for color, noun in (*named.things, *named.places):
        assert f"{color} {noun}" in sentence


def test_sentences_that_name_too_little_or_too_much_are_refused() -> None:
    for sentence in ("put it in the blue bowl", "the red cube and the green ball", "Hello!"):
        with pytest.raises(ValueError, match="expected 1 objects and 0 places"):
            understand("lift", sentence)
    with pytest.raises(ValueError, match="expected 1 objects and 1 places"):
        understand("put_in", "put the red cube away")
    with pytest.raises(ValueError, match="side None"):
        understand("put_beside", "put the red cube near the blue bowl")
    red = Meaning((("red", "cube"),))
    assert understand("lift", "Find the cube that is red!") == red
    assert understand("put_beside", "the red cube goes beyond the navy pot") == Meaning(
        red.things, (("blue", "bowl"),), "behind"
    )


# ---- splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_training_and_held_out_sentences_never_meet(task: str) -> None:
    for seed in range(15):
        assert all(is_trained(task, sentence) for sentence in draw(task, "train", seed, 3))
        assert not any(is_trained(task, sentence) for sentence in draw(task, "phrasing", seed, 3))
        assert not any(is_trained(task, sentence) for sentence in draw(task, "words", seed, 3))


@pytest.mark.parametrize("task", TASKS)
def test_held_out_words_stand_in_the_split_words_and_nowhere_else(task: str) -> None:
    for seed in range(12):
        for split in (*SPLITS, "positions", "pairs"):
            found = HELD_OUT_WORDS.search(draw(task, split, seed)[0].lower())
            assert bool(found) == (split == "words"), (split, found)


def test_no_phrasing_brings_a_held_out_word_of_its_own() -> None:
    for task, phrasings in PHRASINGS.items():
        for phrasing in (*phrasings.seen, *phrasings.held_out):
            assert not HELD_OUT_WORDS.search(re.sub(r"\{\w+\}", "", phrasing)), (task, phrasing)


# ---- form ---------------------------------------------------------------------------------------


def test_equal_draws_give_the_same_phrasing_for_another_goal() -> None:
    for seed in range(40):
        texts = []
        for named in ((("red", "bar"), ("blue", "bowl")), (("green", "ball"), ("pink", "bowl"))):
            (text,) = draw("put_in", "train", seed, 1, Meaning(named[:1], named[1:]))
            text = text.lower()
            for color, noun in named:
                for kind, name in (("color", color), ("shape", noun)):
                    for word in LEXICON[kind].get(name, Words(seen=("bowl",))).seen:
                        text = re.sub(rf"(?<![\w-]){word}(?![\w-])", kind, text)
            texts.append(text)
        assert texts[0] == texts[1]


@pytest.mark.parametrize("task", TASKS)
def test_spelling_varies(task: str) -> None:
    drawn = [draw(task, "train", seed)[0] for seed in range(60)]
    assert {sentence[0].isupper() for sentence in drawn} == {True, False}
    assert {sentence[-1] in ".?!" for sentence in drawn} == {True, False}


def test_wrong_names_and_too_many_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'lift'"):
        draw("lifts", "train", 0, named=asked("lift"))
    with pytest.raises(ValueError, match="Did you mean 'red'"):
        draw("lift", "train", 0, named=Meaning((("rad", "cube"),)))
    with pytest.raises(ValueError, match="Did you mean 'bowl'"):
        draw("put_in", "train", 0, named=Meaning((("red", "cube"),), (("red", "bowls"),)))
    with pytest.raises(ValueError, match="100000 asked for"):
        draw("lift", "phrasing", 0, 100_000)


def test_the_documentation_lists_every_phrasing_and_word() -> None:
    assert describe() in DOCS.read_text()
