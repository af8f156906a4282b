from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.envs.tabletop.layout import COLORS, SHAPES, SPLITS, TASKS
from visuomotor.envs.tabletop.sentences import (
    LEXICON,
    PHRASINGS,
    Meaning,
    describe,
    every_sentence,
    instructions,
    understand,
)

DOCS = Path(__file__).parents[3] / "docs" / "tabletop.md"
HELD_OUT_WORDS = re.compile(
    r"(?<![\w-])({})(?![\w-])".format(
        "|".join(
            word for entries in LEXICON.values() for words in entries.values() for word in words.held_out
        )
    )
)


def draw(
    task: str, split: str, seed: int, count: int = 1, color: str = "red", shape: str = "bar"
) -> tuple[str, ...]:
    bowl = "blue" if task == "put_in" else None
    generator = np.random.default_rng(seed)
    return instructions(
        task, color=color, shape=shape, bowl=bowl, split=split, count=count, generator=generator
    )


def meaning(task: str) -> Meaning:
    """What `draw` asks for."""
    return Meaning("red", "bar", "blue" if task == "put_in" else None)


TRAINED = {task: list(every_sentence(task, meaning(task))) for task in TASKS}


def bare(sentence: str) -> str:
    return sentence.lower().rstrip("?.!")


def test_every_color_and_shape_of_the_suite_has_words() -> None:
    assert set(LEXICON["color"]) == set(COLORS)
    assert set(LEXICON["shape"]) == set(SHAPES)
    assert set(PHRASINGS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_there_are_enough_phrasings(task: str) -> None:
    assert len(PHRASINGS[task].seen) >= 14
    assert len(PHRASINGS[task].held_out) >= 4


def test_no_word_means_two_things_and_every_noun_and_color_has_held_out_words() -> None:
    words = [
        word
        for kind in ("color", "shape", "place")
        for entry in LEXICON[kind].values()
        for word in (*entry.seen, *entry.held_out)
    ]
    assert len(set(words)) == len(words)
    assert all(entry.held_out for kind in ("color", "shape", "place") for entry in LEXICON[kind].values())


@pytest.mark.parametrize("task", TASKS)
def test_every_training_sentence_has_exactly_its_meaning(task: str) -> None:
    assert {understand(sentence) for sentence in TRAINED[task][::7]} == {meaning(task)}


@given(
    task=st.sampled_from(TASKS),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 10**6),
    color=st.sampled_from(sorted(COLORS)),
    shape=st.sampled_from(SHAPES),
)
def test_drawn_sentences_are_different_and_mean_the_goal(task, split, seed, color, shape) -> None:
    drawn = draw(task, split, seed, 6, color, shape)
    assert len({bare(sentence) for sentence in drawn}) == 6
    assert {understand(sentence) for sentence in drawn} == {
        Meaning(color, shape, "blue" if task == "put_in" else None)
    }


@pytest.mark.parametrize("task", TASKS)
def test_training_and_held_out_sentences_never_meet(task: str) -> None:
    trained = set(map(bare, TRAINED[task]))
    for seed in range(30):
        assert {bare(sentence) for sentence in draw(task, "train", seed, 3)} <= trained
        assert not {bare(sentence) for sentence in draw(task, "phrasing", seed, 3)} & trained
        assert not {bare(sentence) for sentence in draw(task, "words", seed, 3)} & trained


@pytest.mark.parametrize("task", TASKS)
def test_held_out_words_stand_in_the_split_words_and_nowhere_else(task: str) -> None:
    for seed in range(30):
        for split in SPLITS:
            found = HELD_OUT_WORDS.search(draw(task, split, seed)[0].lower())
            assert bool(found) == (split == "words")


def test_equal_draws_give_the_same_phrasing_for_another_goal() -> None:
    for seed in range(40):
        sentences = []
        for color, shape in (("red", "bar"), ("green", "ball")):
            text = draw("put_in", "train", seed, 1, color, shape)[0].lower()
            for kind, name in (("color", color), ("shape", shape)):
                for word in LEXICON[kind][name].seen:
                    text = re.sub(rf"(?<![\w-]){word}(?![\w-])", kind, text)
            sentences.append(text)
        assert sentences[0] == sentences[1]


def test_spelling_varies() -> None:
    sentences = [draw("put_in", "train", seed)[0] for seed in range(60)]
    assert {sentence[0].isupper() for sentence in sentences} == {True, False}
    assert {sentence[-1] in ".?!" for sentence in sentences} == {True, False}


def test_sentences_that_name_too_little_or_too_much_are_refused() -> None:
    for sentence in ("put it in the blue bowl", "the red cube and the green ball", "Hello!"):
        with pytest.raises(ValueError, match="expected one object"):
            understand(sentence)
    assert understand("Find the cube that is red!") == Meaning("red", "cube", None)


def test_wrong_names_and_too_many_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'lift'"):
        draw("lifts", "train", 0)
    with pytest.raises(ValueError, match="Did you mean 'red'"):
        draw("lift", "train", 0, color="rad")
    with pytest.raises(ValueError, match="100000 asked for"):
        draw("lift", "phrasing", 0, 100_000)


def test_the_documentation_lists_every_phrasing_and_word() -> None:
    assert describe() in DOCS.read_text()
