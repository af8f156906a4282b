from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop import sentences
from visuomotor.envs.tabletop.layout import (
    BOWL_OUTER_RADIUS,
    COLORS,
    FOOTPRINTS,
    GRIPPER_REACH,
    HELD_OUT_PAIRS,
    MAX_YAW,
    SHAPES,
    SPLITS,
    TASKS,
    WORKSPACE,
    Layout,
    Thing,
    Workspace,
    goals,
    instructions,
    sample_layout,
)
from visuomotor.envs.tabletop.scene import BOWL_RADIUS, SIZES

SEEDS = st.integers(0, 2**40)
GRAMMATICAL = tuple(split for split in SPLITS if split != "free")  # see test_free.py
ANY = {"seed": SEEDS, "task": st.sampled_from(TASKS), "split": st.sampled_from(SPLITS)}


def kinds(layout: Layout) -> list[tuple[str, str]]:
    return [(thing.color, thing.shape) for thing in layout.objects]


def rim(thing: Thing) -> list[tuple[float, float]]:
    """Points around the footprint of an object."""
    long, wide = FOOTPRINTS[thing.shape]
    points = []
    for step in range(360):
        x, y = math.cos(math.radians(step)), math.sin(math.radians(step))
        if thing.shape in ("cube", "bar"):
            scale = min(long / max(abs(x), 1e-9), wide / max(abs(y), 1e-9))
        else:
            scale = long
        x, y = scale * x, scale * y
        cosine, sine = math.cos(thing.yaw), math.sin(thing.yaw)
        points.append((thing.position[0] + cosine * x - sine * y, thing.position[1] + sine * x + cosine * y))
    return points


@settings(max_examples=20)
@given(**ANY)
def test_equal_seeds_give_equal_layouts(seed: int, task: str, split: str) -> None:
    assert sample_layout(seed, task=task, split=split) == sample_layout(seed, task=task, split=split)


@given(**ANY)
def test_the_open_gripper_reaches_every_object_without_touching_another_thing(seed, task, split) -> None:
    layout = sample_layout(seed, task=task, split=split)
    for thing in layout.objects:
        for other in layout.objects:
            if other is not thing:
                assert min(math.dist(thing.position, point) for point in rim(other)) > GRIPPER_REACH - 1e-3
        for bowl in layout.bowls:
            assert math.dist(thing.position, bowl.position) >= GRIPPER_REACH + BOWL_OUTER_RADIUS
            assert min(math.dist(point, bowl.position) for point in rim(thing)) > BOWL_OUTER_RADIUS
    first, second = layout.bowls
    assert math.dist(first.position, second.position) > 2 * BOWL_OUTER_RADIUS


@given(**ANY)
def test_everything_stands_in_the_workspace_and_no_two_things_look_alike(seed, task, split) -> None:
    layout = sample_layout(seed, task=task, split=split)
    assert len(layout.objects) == len(set(kinds(layout))) == 4
    assert len({bowl.color for bowl in layout.bowls}) == 2
    for thing in layout.objects:
        assert thing.color in COLORS
        assert thing.shape in SHAPES
        assert abs(thing.yaw) <= MAX_YAW
        assert WORKSPACE.y[0] <= thing.position[1] <= WORKSPACE.y[1]
    for bowl in layout.bowls:
        assert WORKSPACE.bowl_y[0] <= bowl.position[1] <= WORKSPACE.bowl_y[1]
    for item in (*layout.objects, *layout.bowls):
        assert WORKSPACE.x[0] <= item.position[0] <= WORKSPACE.x[1]


@given(**ANY, rival=st.booleans())
def test_either_every_object_has_a_rival_or_none_has(seed, task, split, rival: bool) -> None:
    layout = sample_layout(seed, task=task, split=split, rival=rival)
    assert layout.rival == rival
    for kind in kinds(layout):
        shared = [sum(a == b for a, b in zip(kind, other)) for other in kinds(layout) if other != kind]
        assert any(shared) == rival


@given(seed=SEEDS, task=st.sampled_from(TASKS), split=st.sampled_from(GRAMMATICAL), pick=st.integers(0, 99))
def test_another_goal_keeps_the_scene_and_the_form_of_the_sentence(seed, task, split, pick: int) -> None:
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


@settings(max_examples=15)
@given(seed=SEEDS)
def test_task_and_split_of_sentences_leave_the_scene_as_it_is(seed: int) -> None:
    layouts = [
        sample_layout(seed, task=task, split=split)
        for task in TASKS
        for split in ("train", "phrasing", "words")
    ]
    assert len({(layout.objects, layout.bowls, layout.goal.object) for layout in layouts}) == 1


@given(seed=SEEDS, task=st.sampled_from(TASKS), split=st.sampled_from(GRAMMATICAL))
def test_the_instruction_names_the_goal(seed, task, split) -> None:
    layout = sample_layout(seed, task=task, split=split)
    thing = layout.objects[layout.goal.object]
    bowl = None if layout.goal.bowl is None else layout.bowls[layout.goal.bowl].color
    several = instructions(layout, 4)
    assert {sentences.understand(sentence) for sentence in several} == {(thing.color, thing.shape, bowl)}
    assert several[0] == layout.instruction


@settings(max_examples=25)
@given(seed=SEEDS, task=st.sampled_from(TASKS))
def test_training_never_shows_what_is_held_out(seed: int, task: str) -> None:
    for split in ("train", "phrasing", "words"):
        layout = sample_layout(seed, task=task, split=split)
        assert not HELD_OUT_PAIRS & set(kinds(layout))
        assert not any(WORKSPACE.held_out(thing.position) for thing in layout.objects)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_splits_hold_what_they_are_called_after(seed: int) -> None:
    positions = sample_layout(seed, task="put_in", split="positions")
    assert all(WORKSPACE.held_out(thing.position) for thing in positions.objects)
    pairs = sample_layout(seed, task="put_in", split="pairs")
    assert kinds(pairs)[pairs.goal.object] in HELD_OUT_PAIRS
    assert sum(kind in HELD_OUT_PAIRS for kind in kinds(pairs)) >= 2  # else the picture would tell the goal


def test_training_shows_every_color_and_shape_and_the_held_out_cells_are_a_quarter() -> None:
    seen = {kind for seed in range(200) for kind in kinds(sample_layout(seed, task="lift"))}
    assert len(seen) == len(COLORS) * len(SHAPES) - len(HELD_OUT_PAIRS)
    points = [
        (0.34 + 0.32 * (i + 0.5) / 40, -0.27 + 0.54 * (j + 0.5) / 60) for i in range(40) for j in range(60)
    ]
    assert sum(WORKSPACE.held_out(point) for point in points) == len(points) // 4


def test_half_of_the_scenes_have_rivals_and_goals_are_even_over_numbers() -> None:
    layouts = [sample_layout(seed, task="put_in") for seed in range(400)]
    # Four and a half standard deviations of a fair coin and of a fair die with eight sides.
    assert abs(sum(layout.rival for layout in layouts) - 200) < 4.5 * math.sqrt(400 / 4)
    counts = Counter((layout.goal.object, layout.goal.bowl) for layout in layouts)
    assert len(counts) == 8
    assert max(abs(count - 50) for count in counts.values()) < 4.5 * math.sqrt(400 * 7 / 64)


def test_shapes_and_bowls_are_built_no_larger_than_layouts_leave_room_for() -> None:
    for shape, (long, wide) in FOOTPRINTS.items():
        assert SIZES[shape][0] <= long
        assert SIZES[shape][1] <= wide
    assert BOWL_RADIUS < BOWL_OUTER_RADIUS
    assert FRANKA.finger_travel < GRIPPER_REACH


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


def test_a_workspace_without_room_is_refused() -> None:
    tiny = Workspace(x=(0.4, 0.5), y=(0.0, 0.1), bowl_y=(0.0, 0.1))
    with pytest.raises(ValueError, match="no room"):
        sample_layout(0, task="lift", workspace=tiny)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_goal_names_are_plain_words(seed: int) -> None:
    layout = sample_layout(seed, task="put_in")
    names = [goal.name(layout) for goal in goals(layout)]
    assert len(set(names)) == 8
    thing, bowl = layout.objects[0], layout.bowls[0]
    assert names[0] == f"put_in:{thing.color} {thing.shape}>{bowl.color} bowl"
