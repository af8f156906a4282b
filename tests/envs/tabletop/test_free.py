"""Sentences written by hand: each has one meaning, none can come from the grammar."""

from __future__ import annotations

import re

import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.free import draw, free_sentences, saying
from visuomotor.envs.tabletop.layout import COLORS, HELD_OUT_PAIRS, SHAPES, TASKS, instructions, sample_layout
from visuomotor.envs.tabletop.sentences import LEXICON, PHRASINGS, Meaning

ALL = [(task, free) for task, found in free_sentences().items() for free in found]


def bare(sentence: str) -> str:
    return re.sub(r"[^a-z ]", "", sentence.lower()).strip()


def test_there_are_150_different_ones_for_every_task() -> None:
    assert len(ALL) >= 150
    assert len({bare(free.text) for _, free in ALL}) == len(ALL)
    assert set(free_sentences()) == set(TASKS)


def test_each_names_a_goal_that_scenes_can_have() -> None:
    for task, (meaning, text) in ALL:
        assert meaning.color in COLORS, text
        assert meaning.shape in SHAPES, text
        assert (meaning.color, meaning.shape) not in HELD_OUT_PAIRS, text
        assert (meaning.bowl in COLORS) if task == "put_in" else (meaning.bowl is None), text


def test_colors_and_shapes_are_spread() -> None:
    for part in (lambda m: m.color, lambda m: m.shape):
        counts = np.unique([part(free.meaning) for _, free in ALL], return_counts=True)[1]
        assert counts.min() > 0.5 * counts.mean()


def test_no_grammar_makes_them() -> None:
    words = {
        kind: "|".join(bare(w) for name in names.values() for w in (*name.seen, *name.held_out))
        for kind, names in LEXICON.items()
        if kind != "verb"
    }
    verbs = {name: "|".join((*w.seen, *w.held_out)) for name, w in LEXICON["verb"].items()}
    slots = {**verbs, "color": words["color"], "shape": words["shape"]}
    slots["thing"] = f"(?:{words['color']}) (?:{words['shape']})"
    slots["place"] = f"(?:{words['color']}) (?:{words['place']})"
    phrasings = [p for found in PHRASINGS.values() for p in (*found.seen, *found.held_out)]
    patterns = [
        re.compile(
            re.sub(r"\{(\w+)\}", lambda slot: f"(?:{slots[slot[1]]})", re.sub(r"[^\w {}]", "", phrasing))
        )
        for phrasing in phrasings
    ]
    assert any(pattern.fullmatch("fill the plum dish with the lime tin") for pattern in patterns)
    for _, free in ALL:
        assert not any(pattern.fullmatch(bare(free.text)) for pattern in patterns), free.text


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_holds_what_its_sentence_names(task: str) -> None:
    asked = set()
    for seed in range(60):
        layout = sample_layout(seed, task=task, split="free")
        thing = layout.objects[layout.goal.object]
        bowl = None if layout.goal.bowl is None else layout.bowls[layout.goal.bowl].color
        said = {free.text: free.meaning for free in free_sentences()[task]}
        assert said[layout.instruction] == Meaning(thing.color, thing.shape, bowl)
        assert len({bowl.color for bowl in layout.bowls}) == 2
        asked.add(layout.instruction)
    assert len(asked) > 20


def test_another_goal_of_the_scene_may_have_no_sentence() -> None:
    layout = sample_layout(3, task="put_in", split="free")
    other = next(o for o in range(4) if o != layout.goal.object)
    name = f"put_in:{layout.objects[other].name}>{layout.bowls[layout.goal.bowl or 0].name}"
    known = {free.meaning for free in free_sentences()["put_in"]}
    thing, bowl = layout.objects[other], layout.bowls[layout.goal.bowl or 0]
    assert Meaning(thing.color, thing.shape, bowl.color) not in known
    with pytest.raises(ValueError, match="split 'free': no sentence asks for"):
        sample_layout(3, task="put_in", split="free", goal=name)
    with pytest.raises(ValueError, match="asked for"):
        instructions(layout, 20)


def test_a_task_without_free_sentences_is_named() -> None:
    with pytest.raises(ValueError, match="put_in"):
        draw("put_on", np.random.default_rng(0))


def test_the_sentence_that_was_drawn_leads() -> None:
    meaning = Meaning("red", "cube", None)
    texts = saying("lift", meaning, "Is the red block heavy? Lift it and see.")
    assert texts[0] == "Is the red block heavy? Lift it and see."
    assert len(texts) == 2


def test_the_environment_says_it() -> None:
    env = TabletopEnv(task="put_in")
    observation = env.reset(seed=1_000_000_000, options={"split": "free"})
    assert observation.instruction in {free.text for free in free_sentences()["put_in"]}
