"""Sentences written by hand: each has one meaning, none can come from the grammar."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.arrange import KITS
from visuomotor.envs.tabletop.free import draw, free_sentences, saying
from visuomotor.envs.tabletop.goals import TASKS
from visuomotor.envs.tabletop.layout import goals, instructions, sample_layout
from visuomotor.envs.tabletop.phrasings import LEXICON, PHRASINGS
from visuomotor.envs.tabletop.sentences import Meaning, plain, understand
from visuomotor.envs.tabletop.things import COLORS, HELD_OUT_PAIRS, SHAPES, SIDES, Layout

FLAT = ("cube", "cylinder", "bar")
ALL = [(task, free) for task, found in free_sentences().items() for free in found]
SIDED = "put_beside"
WRITTEN = {"put_in": 100, "lift": 30, **dict.fromkeys(("pass_obstacle", "insert", "put_two", "clear"), 12)}


def bare(sentence: str) -> str:
    return re.sub(r"[^a-z ]", "", sentence.lower()).strip()


def named(layout: Layout) -> Meaning:
    """What the goal of a layout names, put together by hand."""
    things = [layout.objects[number] for number in layout.goal.objects]
    fixtures = [layout.fixtures[number] for number in layout.goal.fixtures]
    nouns = [(thing.color, thing.shape) for thing in things]
    places = [(fixture.color, fixture.kind) for fixture in fixtures]
    if layout.goal.task == "clear":
        assert nouns[0][0] == nouns[1][0]
        nouns, places = [(nouns[0][0], "things"), (nouns[2][0], "things")], [places[0], places[2]]
    return Meaning(tuple(nouns), tuple(places), layout.goal.side, layout.goal.hand)


def test_every_task_has_some_and_no_two_are_alike() -> None:
    assert set(free_sentences()) == set(TASKS)
    assert len({bare(free.text) for _, free in ALL}) == len(ALL) >= 330
    for task, found in free_sentences().items():
        assert len(found) >= WRITTEN.get(task, 20), task


def test_each_names_what_the_grammar_of_its_task_names() -> None:
    for task, (meaning, text) in ALL:
        assert understand(task, plain(task, meaning)) == meaning, text


def test_each_names_a_goal_that_scenes_can_have() -> None:
    for task, (meaning, text) in ALL:
        kit = KITS[task]
        shapes = ("things",) if task == "clear" else FLAT if task in ("stack", "push") else kit.shapes
        for thing in meaning.things:
            assert thing[0] in COLORS, text
            assert thing[1] in shapes, text
            assert thing not in HELD_OUT_PAIRS, text
        for color, kind in meaning.places:
            assert color in COLORS, text
            assert kind in kit.fixtures, text
        assert (meaning.side in SIDES) == (task == SIDED), text
        assert len(set(meaning.places)) == len(meaning.places), text
        if len(meaning.things) == 2:  # or scenes without rivals could not hold both
            first, second = meaning.things
            assert first[0] != second[0], text
            assert first[1] != second[1] or task == "clear", text


def test_each_says_the_colors_that_it_means() -> None:
    """ "turquoise" and "light blue" are cyan; no other color is in the sentence."""
    for _, (meaning, text) in ALL:
        heard = re.sub(r"turquoise|light blue", "cyan", text.lower())
        colors = {color for color, _ in (*meaning.things, *meaning.places)}
        assert {color for color in COLORS if re.search(rf"\b{color}\b", heard)} == colors, text


def test_sides_are_said() -> None:
    words = {"front": "front|between yourself"}
    for meaning, text in free_sentences()[SIDED]:
        said = {side for side in SIDES if re.search(rf"\b({words.get(side, side)})\b", text.lower())}
        assert said == {meaning.side}, text


@pytest.mark.parametrize("part", ["things", "places"])
def test_colors_nouns_and_sides_are_spread(part: str) -> None:
    for tasks in (("put_in", "lift"), tuple(set(TASKS) - {"put_in", "lift"})):
        names = [name for task, free in ALL if task in tasks for name in getattr(free.meaning, part)]
        counts = Counter(color for color, _ in names)
        assert len(counts) in (0, len(COLORS))
        if part == "things":
            for shape in SHAPES if tasks[0] in ("put_in", "lift") else ():
                counts[shape] = sum(name[1] == shape for name in names) // 2
        assert min(counts.values()) > 0.5 * np.mean(list(counts.values()))
    sides = Counter(free.meaning.side for free in free_sentences()[SIDED])
    assert max(sides.values()) == min(sides.values())
    hands = Counter(free.meaning.hand for free in free_sentences()["hand_over"])
    assert hands == {"left": 10, "right": 10}


def test_the_named_hand_stands_in_the_sentence() -> None:
    """The other one may be mentioned, too, but never alone."""
    for free in free_sentences()["hand_over"]:
        assert free.meaning.hand in re.findall("left|right", free.text.lower()), free.text


def test_no_grammar_makes_them() -> None:
    words = {
        kind: "|".join(bare(w) for name in names.values() for w in (*name.seen, *name.held_out))
        for kind, names in LEXICON.items()
        if kind != "verb"
    }
    slots = {name: "|".join((*w.seen, *w.held_out)) for name, w in LEXICON["verb"].items()}
    slots["side"], slots["hand"] = words["side"], words["hand"]
    for number in ("", "2"):
        slots[f"color{number}"] = slots[f"place_color{number}"] = words["color"]
        slots[f"shape{number}"], slots[f"place_kind{number}"] = words["shape"], words["place"]
        slots[f"thing{number}"] = f"(?:{words['color']}) (?:{words['shape']})"
        slots[f"place{number}"] = f"(?:{words['color']}) (?:{words['place']})"
    phrasings = [p for found in PHRASINGS.values() for p in (*found.seen, *found.held_out)]
    patterns = [
        re.compile(
            re.sub(r"\{(\w+)\}", lambda slot: f"(?:{slots[slot[1]]})", re.sub(r"[^\w {}]", "", phrasing))
        )
        for phrasing in phrasings
    ]
    for sentence in ("fill the plum dish with the lime tin", "lay the red cube beyond the lemon pot"):
        assert any(pattern.fullmatch(sentence) for pattern in patterns)
    for _, free in ALL:
        assert not any(pattern.fullmatch(bare(free.text)) for pattern in patterns), free.text


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_holds_what_its_sentence_names(task: str) -> None:
    said, asked = {free.text: free.meaning for free in free_sentences()[task]}, set()
    for seed in range(20):
        layout = sample_layout(seed, task=task, split="free")
        assert said[layout.instruction] == named(layout)
        for kind, count in KITS[task].fixtures.items():
            colors = {fixture.color for fixture in layout.fixtures if fixture.kind == kind}
            assert len(colors) == count
        asked.add(layout.instruction)
    assert len(asked) > 5


def test_another_goal_of_the_scene_may_have_no_sentence() -> None:
    layout = sample_layout(3, task="put_in", split="free")
    known = {free.meaning for free in free_sentences()["put_in"]}
    others = [replace(layout, goal=goal) for goal in goals(layout)]
    silent = next(other for other in others if named(other) not in known)
    with pytest.raises(ValueError, match="split 'free': no sentence asks for"):
        sample_layout(3, task="put_in", split="free", goal=silent.goal.name(layout))
    with pytest.raises(ValueError, match="asked for"):
        instructions(layout, 20)


def test_a_task_without_free_sentences_is_named() -> None:
    with pytest.raises(ValueError, match="put_in"):
        draw("put_on", np.random.default_rng(0))


def test_the_sentence_that_was_drawn_leads() -> None:
    meaning = Meaning((("red", "cube"),))
    texts = saying("lift", meaning, "Is the red block heavy? Lift it and see.")
    assert texts[0] == "Is the red block heavy? Lift it and see."
    assert len(texts) == 2


@pytest.mark.parametrize("task", ["put_in", "put_beside", "clear"])
def test_the_environment_says_it(task: str) -> None:
    env = TabletopEnv(task=task, cameras={})
    observation = env.reset(seed=1_000_000_000, options={"split": "free"})
    assert observation.instruction in {free.text for free in free_sentences()[task]}
