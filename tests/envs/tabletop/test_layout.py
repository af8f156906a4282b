"""A seed decides scene, goal and sentence; these are the rules that every task keeps."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop import sentences
from visuomotor.envs.tabletop.arrange import KITS, MAX_YAW, arrange
from visuomotor.envs.tabletop.build import BOWL_RADIUS, SIZES, TABLE
from visuomotor.envs.tabletop.free import Free, free_sentences
from visuomotor.envs.tabletop.goals import TASKS, every_goal, meaning, stages
from visuomotor.envs.tabletop.layout import goals, instructions, sample_layout, splits, subtasks
from visuomotor.envs.tabletop.sentences import Meaning
from visuomotor.envs.tabletop.things import (
    BOWL_OUTER_RADIUS,
    COLORS,
    DRAWER,
    FIXTURES,
    FOOTPRINTS,
    GRIPPER_REACH,
    HELD_OUT_PAIRS,
    SHAPES,
    SPLITS,
    WORKSPACE,
    Fixture,
    Goal,
    Layout,
    Thing,
    Workspace,
)

SEEDS = st.integers(0, 2**40)
WHERE = st.sampled_from([(task, split) for task in TASKS for split in splits(task)])
GRAMMATICAL = st.sampled_from(  # see test_free.py for the others
    [(task, split) for task in TASKS for split in splits(task) if split != "free"]
)


def kinds(layout: Layout) -> list[tuple[str, str]]:
    return [(thing.color, thing.shape) for thing in layout.objects]


def scene_of(layout: Layout) -> tuple[tuple[Thing, ...], tuple[Fixture, ...]]:
    return layout.objects, layout.fixtures


def rim(thing: Thing) -> list[tuple[float, float]]:
    """Points around the footprint of an object."""
    long, wide = FOOTPRINTS[thing.shape]
    points = []
    for step in range(0, 360, 3):
        x, y = math.cos(math.radians(step)), math.sin(math.radians(step))
        if thing.shape in ("cube", "bar"):
            scale = min(long / max(abs(x), 1e-9), wide / max(abs(y), 1e-9))
        else:
            scale = long
        x, y = scale * x, scale * y
        cosine, sine = math.cos(thing.yaw), math.sin(thing.yaw)
        points.append((thing.position[0] + cosine * x - sine * y, thing.position[1] + sine * x + cosine * y))
    return points


def outline(fixture: Fixture) -> list[tuple[float, float]]:
    """Points around what a fixture ever covers; a drawer is pulled out."""
    x, y = fixture.position
    if fixture.kind != "drawer":
        radius = {"bowl": 0.078, "zone": 0.06, "button": 0.03, "socket": 0.034, "fence": 0.0}[fixture.kind]
        around = [math.radians(step) for step in range(0, 360, 10)]
        return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in around]
    side, back = DRAWER.half
    front = -DRAWER.handle - DRAWER.travel - DRAWER.handle_radius
    corners = [(a, b) for a in (-side, 0.0, side) for b in (front, 0.5 * (front + back), back)]
    cosine, sine = math.cos(fixture.yaw), math.sin(fixture.yaw)
    return [(x + cosine * a - sine * b, y + sine * a + cosine * b) for a, b in corners]


# ---- scenes -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=SEEDS, where=WHERE)
def test_equal_seeds_give_equal_layouts(seed: int, where: tuple[str, str]) -> None:
    task, split = where
    assert sample_layout(seed, task=task, split=split) == sample_layout(seed, task=task, split=split)


@given(seed=SEEDS, where=WHERE)
def test_the_open_gripper_reaches_every_object_without_touching_another_thing(seed, where) -> None:
    layout = sample_layout(seed, task=where[0], split=where[1])
    for thing in layout.objects:
        for other in layout.objects:
            if other is not thing:
                assert min(math.dist(thing.position, point) for point in rim(other)) > GRIPPER_REACH - 1e-3
        for fixture in layout.fixtures:
            room = KITS[where[0]].room
            assert fixture.gap(thing.position) >= room
            assert min(math.dist(thing.position, point) for point in outline(fixture)) >= room
            if fixture.kind != "zone":  # things may overlap a zone, but their middle lies outside
                assert min(fixture.gap(point) for point in rim(thing)) > 0


@given(seed=SEEDS, where=WHERE)
def test_fixtures_do_not_meet_even_when_drawers_are_pulled_out(seed, where) -> None:
    layout = sample_layout(seed, task=where[0], split=where[1])
    for one, other in combinations(layout.fixtures, 2):
        assert min(other.gap(point) for point in outline(one)) > 0, (one, other)
        assert min(one.gap(point) for point in outline(other)) > 0, (one, other)


@given(seed=SEEDS, where=WHERE)
def test_everything_stands_in_the_workspace_and_no_two_things_look_alike(seed, where) -> None:
    layout, kit = sample_layout(seed, task=where[0], split=where[1]), KITS[where[0]]
    assert len(layout.objects) == len(set(kinds(layout))) == kit.objects
    assert len({fixture.name for fixture in layout.fixtures}) == len(layout.fixtures)
    for thing in layout.objects:
        assert thing.color in COLORS
        assert thing.shape in kit.shapes
        assert abs(thing.yaw) <= MAX_YAW
        assert WORKSPACE.holds(thing.position)
    (low_x, low_y), (high_x, high_y) = TABLE
    for fixture in layout.fixtures:
        assert fixture.kind in FIXTURES
        assert fixture.color in COLORS or fixture.kind == "fence"
        if fixture.kind not in ("drawer", "fence"):
            assert WORKSPACE.x[0] <= fixture.position[0] <= WORKSPACE.x[1]
            assert WORKSPACE.bowl_y[0] <= fixture.position[1] <= WORKSPACE.bowl_y[1]
        assert all(low_x < x < high_x and low_y < y < high_y for x, y in outline(fixture))


@given(seed=SEEDS, where=WHERE, rival=st.booleans())
def test_either_every_object_has_a_rival_or_none_has(seed, where, rival: bool) -> None:
    """Where the kit decides it, asking changes nothing."""
    task, split = where
    layout = sample_layout(seed, task=task, split=split, rival=rival)
    assert layout.rival == (rival if KITS[task].rival is None else KITS[task].rival)
    for kind in kinds(layout):
        shared = [sum(a == b for a, b in zip(kind, other)) for other in kinds(layout) if other != kind]
        assert any(shared) == layout.rival


@settings(max_examples=8)
@given(seed=SEEDS)
def test_tasks_of_one_kit_share_their_scenes(seed: int) -> None:
    """But for a scene in which one of them has nothing to choose from."""
    for task in TASKS:
        first = next(other for other in TASKS if KITS[other] is KITS[task])
        shared = sample_layout(seed, task=first)
        mine = sample_layout(seed, task=task)
        same = scene_of(mine) == scene_of(shared)
        assert same == (len(every_goal(task, *scene_of(shared))) >= 2)


@settings(max_examples=25)
@given(seed=SEEDS, task=st.sampled_from(TASKS))
def test_splits_of_sentences_leave_scene_and_goal_as_they_are(seed: int, task: str) -> None:
    layouts = [sample_layout(seed, task=task, split=split) for split in ("train", "phrasing", "words")]
    assert len({(*scene_of(layout), layout.goal) for layout in layouts}) == 1
    if task in ("lift", "put_in"):
        assert layouts[0].goal.object == sample_layout(seed, task="put_in").goal.object


def test_clear_has_two_things_of_one_color_and_two_single_ones() -> None:
    for seed in range(30):
        layout = sample_layout(seed, task="clear")
        assert sorted(Counter(thing.color for thing in layout.objects).values()) == [1, 1, 2]


# ---- goals and sentences ------------------------------------------------------------------------


@given(seed=SEEDS, where=GRAMMATICAL, pick=st.integers(0, 999))
def test_another_goal_keeps_the_scene_and_the_form_of_the_sentence(seed, where, pick: int) -> None:
    task, split = where
    layout = sample_layout(seed, task=task, split=split)
    every = goals(layout)
    assert layout.goal in every
    other = every[pick % len(every)]
    swapped = sample_layout(seed, task=task, split=split, goal=other.name(layout))
    assert swapped.goal == other
    assert replace(swapped, goal=layout.goal, instruction=layout.instruction) == layout
    assert (swapped.instruction[0].isupper(), swapped.instruction[-1] in ".?!") == (
        layout.instruction[0].isupper(),
        layout.instruction[-1] in ".?!",
    )


@given(seed=SEEDS, where=GRAMMATICAL)
def test_the_instruction_names_the_goal(seed, where) -> None:
    task, split = where
    layout = sample_layout(seed, task=task, split=split)
    several = instructions(layout, 4)
    named = meaning(layout, layout.goal)
    assert {sentences.understand(task, sentence) for sentence in several} == {named}
    assert several[0] == layout.instruction
    assert [goal for goal in goals(layout) if meaning(layout, goal) == named] == [layout.goal]


@given(seed=SEEDS, where=WHERE)
def test_every_scene_has_several_goals_with_plain_names(seed, where) -> None:
    layout = sample_layout(seed, task=where[0], split=where[1])
    names = [goal.name(layout) for goal in goals(layout)]
    assert len(set(names)) == len(names) >= 2
    things = rf"(?:{'|'.join(COLORS)}) (?:{'|'.join((*SHAPES, 'peg', *FIXTURES))})"
    sides = "(?:(?:left of|right of|in front of|behind) )?"
    one = rf"{things}(?:>(?:{sides}{things}|left hand|right hand))?"
    assert all(re.fullmatch(rf"{where[0]}:{one}(?:,{one})*", name) for name in names), names


@pytest.mark.parametrize(
    ("task", "form"),
    [
        ("lift", "lift:{thing}"),
        ("put_in", "put_in:{thing}>{place}"),
        ("stack", "stack:{thing}>{thing2}"),
        ("press", "press:{place}"),
        ("put_two", "put_two:{thing}>{place},{thing2}>{place2}"),
        ("hand_over", "hand_over:{thing}>left hand"),
    ],
)
def test_names_of_goals_have_the_documented_form(task: str, form: str) -> None:
    layout = sample_layout(3, task=task)
    things = [layout.objects[number].name for number in layout.goal.objects]
    places = [layout.fixtures[number].name for number in layout.goal.fixtures]
    words = {f"thing{number or ''}": name for number, name in zip((0, 2), things)}
    words |= {f"place{number or ''}": name for number, name in zip((0, 2), places)}
    assert layout.goal.name(layout) == form.format(**words)


def test_a_side_stands_in_the_name_as_it_is_said() -> None:
    names = [goal.name(layout) for layout in [sample_layout(0, task="put_beside")] for goal in goals(layout)]
    assert {name.split(">")[1].rsplit(" ", 2)[0] for name in names} <= {
        "left of",
        "right of",
        "in front of",
        "behind",
    }


@settings(max_examples=30)
@given(seed=SEEDS, task=st.sampled_from(TASKS))
def test_stages_are_goals_of_one_stage_and_have_a_plain_sentence_each(seed: int, task: str) -> None:
    layout = sample_layout(seed, task=task)
    parts = stages(layout.goal)
    wanted = {"put_in_drawer": ("open_drawer", "put_in"), "put_two": ("put_in",) * 2}
    wanted["clear"] = ("put_in",) * 3
    assert tuple(part.task for part in parts) == wanted.get(task, (task,))
    assert [stages(part) for part in parts] == [(part,) for part in parts]
    told = subtasks(layout)
    assert len(told) == len(parts)
    for part, sentence in zip(parts, told, strict=True):
        assert sentences.understand(part.task, sentence) == meaning(layout, part)
        assert sentence == sentence.lower()


def test_half_of_the_scenes_have_rivals_and_goals_are_even_over_numbers() -> None:
    layouts = [sample_layout(seed, task="put_in") for seed in range(400)]
    # Four and a half standard deviations of a fair coin and of a fair die with eight sides.
    assert abs(sum(layout.rival for layout in layouts) - 200) < 4.5 * math.sqrt(400 / 4)
    counts = Counter((layout.goal.object, layout.goal.fixture) for layout in layouts)
    assert len(counts) == 8
    assert max(abs(count - 50) for count in counts.values()) < 4.5 * math.sqrt(400 * 7 / 64)


@pytest.mark.parametrize("task", TASKS)
def test_every_number_is_asked_for_in_its_turn(task: str) -> None:
    layouts = [sample_layout(seed, task=task) for seed in range(80)]
    goal = layouts[0].goal
    objects = Counter(layout.goal.objects[0] for layout in layouts) if goal.objects else None
    fixtures = Counter(layout.goal.fixtures[0] for layout in layouts) if goal.fixtures else None
    several = KITS[task].fixtures.get(layouts[0].fixtures[goal.fixture].kind, 1) if fixtures else 1
    assert fixtures is None or (len(fixtures) == several and min(fixtures.values()) > 0.3 * 80 / several)
    if task in ("put_two", "clear"):  # pairs are named in the order of their numbers
        assert objects is not None
        assert len(objects) > 1
    elif objects is not None:
        assert len(objects) == KITS[task].objects
        assert min(objects.values()) > 0.3 * 80 / KITS[task].objects


# ---- splits -------------------------------------------------------------------------------------


def test_each_task_has_the_splits_that_mean_something_for_it() -> None:
    words = ("train", "phrasing", "words")
    missing = {
        "open_drawer": {"positions", "pairs"},
        "close_drawer": {"positions", "pairs"},
        "press": {"positions", "pairs"},
        "pass_obstacle": {"positions", "pairs"},
        "insert": {"pairs"},
        "clear": {"pairs"},
    }
    for task in TASKS:
        expected = {"positions", "pairs", *words} - missing.get(task, set())
        if task in free_sentences():
            expected.add("free")
        assert splits(task) == tuple(split for split in SPLITS if split in expected)
    with pytest.raises(ValueError, match=r"task 'press' has no split 'pairs'\. It has train, phrasing"):
        sample_layout(0, task="press", split="pairs")


@settings(max_examples=60)
@given(seed=SEEDS, task=st.sampled_from(TASKS))
def test_training_never_shows_what_is_held_out(seed: int, task: str) -> None:
    for split in ("train", "phrasing", "words"):
        layout = sample_layout(seed, task=task, split=split)
        assert not HELD_OUT_PAIRS & set(kinds(layout))
        assert not any(WORKSPACE.held_out(thing.position) for thing in layout.objects)


@given(seed=SEEDS, task=st.sampled_from(TASKS))
def test_splits_hold_what_they_are_called_after(seed: int, task: str) -> None:
    if "positions" in splits(task):
        positions = sample_layout(seed, task=task, split="positions")
        assert all(WORKSPACE.held_out(thing.position) for thing in positions.objects)
        assert not HELD_OUT_PAIRS & set(kinds(positions))
    if "pairs" in splits(task):
        pairs = sample_layout(seed, task=task, split="pairs")
        assert kinds(pairs)[pairs.goal.object] in HELD_OUT_PAIRS
        held_out = sum(kind in HELD_OUT_PAIRS for kind in kinds(pairs))
        assert held_out >= 2  # else the picture would tell the goal
        assert not any(WORKSPACE.held_out(thing.position) for thing in pairs.objects)


def test_training_shows_every_color_and_shape_and_the_held_out_cells_are_a_quarter() -> None:
    seen = {kind for seed in range(200) for kind in kinds(sample_layout(seed, task="lift"))}
    assert len(seen) == len(COLORS) * len(SHAPES) - len(HELD_OUT_PAIRS)
    points = [
        (0.34 + 0.32 * (i + 0.5) / 40, -0.27 + 0.54 * (j + 0.5) / 60) for i in range(40) for j in range(60)
    ]
    assert sum(WORKSPACE.held_out(point) for point in points) == len(points) // 4


# ---- what is said ------------------------------------------------------------------------------


def test_sentences_with_two_things_alike_bring_a_scene_with_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one there would be no such scene, and looking for it would never end."""
    named = Meaning((("red", "cube"), ("green", "cube")))
    told = {"stack": (Free(named, "Cubes on top of each other, the red one above the green!"),)}
    monkeypatch.setattr("visuomotor.envs.tabletop.free.free_sentences", lambda: told)
    for seed in range(8):
        layout = sample_layout(seed, task="stack", split="free", rival=False)
        assert meaning(layout, layout.goal) == named
        assert layout.rival


def test_what_no_scene_can_hold_is_refused() -> None:
    said = Meaning((("red", "cube"), ("red", "bar")))
    with pytest.raises(ValueError, match="found no 4 objects without rivals"):
        arrange(
            np.random.default_rng(0),
            KITS["stack"],
            rival=False,
            split="free",
            said=said,
            workspace=WORKSPACE,
        )


# ---- measures and errors ------------------------------------------------------------------------


def test_shapes_and_bowls_are_built_no_larger_than_layouts_leave_room_for() -> None:
    assert set(FOOTPRINTS) == set(SIZES)
    for shape, (long, wide) in FOOTPRINTS.items():
        assert SIZES[shape][0] <= long
        assert SIZES[shape][1] <= wide
    assert BOWL_RADIUS < BOWL_OUTER_RADIUS
    assert FRANKA.arms[0].finger_travel < GRIPPER_REACH


def test_a_turned_fixture_has_its_own_frame() -> None:
    chest = Fixture(kind="drawer", color="red", position=(0.5, 0.1), yaw=math.pi / 2)
    assert chest.local((0.5, 0.3)) == pytest.approx((0.2, 0.0))
    assert chest.gap((0.5, 0.3)) == pytest.approx(0.2 - DRAWER.half[0])
    assert chest.gap((0.5 + DRAWER.handle + DRAWER.travel, 0.1)) == 0.0  # it opens towards +x


def test_colors_are_far_apart() -> None:
    # The nearest two, orange and yellow, are 0.4 apart in RGB.
    assert min(math.dist(a, b) for a, b in combinations(COLORS.values(), 2)) > 0.35


def test_wrong_names_are_answered_with_the_closest_right_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'put_in'"):
        sample_layout(0, task="put in")
    with pytest.raises(ValueError, match="Did you mean 'phrasing'"):
        sample_layout(0, task="lift", split="phrasings")
    layout = sample_layout(0, task="lift")
    right = layout.goal.name(layout)
    with pytest.raises(ValueError, match=f"Did you mean '{right}'"):
        sample_layout(0, task="lift", goal=right + "s")
    with pytest.raises(ValueError, match="0 or more"):
        sample_layout(-1, task="lift")


def test_a_goal_without_objects_has_no_first_one() -> None:
    with pytest.raises(IndexError):
        Goal(task="press", fixtures=(0,)).object  # noqa: B018


@pytest.mark.parametrize("task", ["lift", "push", "insert"])
def test_a_workspace_without_room_is_refused(task: str) -> None:
    tiny = Workspace(x=(0.4, 0.5), y=(0.0, 0.1), bowl_y=(0.0, 0.1))
    with pytest.raises(ValueError, match=r"no room|no scene"):
        sample_layout(0, task=task, workspace=tiny)
