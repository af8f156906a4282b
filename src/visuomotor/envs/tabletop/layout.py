"""A seed decides a scene, a goal in it and a sentence for the goal.

The three come from streams of random numbers of their own: another goal or another split of
sentences leaves the scene bit-equal, and another goal keeps the form of the sentence. The picture
alone never tells the goal: it is drawn evenly from what a finished scene offers. In half of the
scenes every object has a rival (same color and another shape, or same shape and another color), in
the other half none has one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from visuomotor.envs.tabletop import free, sentences
from visuomotor.envs.tabletop.arrange import KITS, arrange
from visuomotor.envs.tabletop.goals import TASKS, every_goal, meaning, stages
from visuomotor.envs.tabletop.things import (
    HELD_OUT_PAIRS,
    SHAPES,
    SPLITS,
    WORKSPACE,
    Goal,
    Layout,
    Thing,
    Workspace,
)
from visuomotor.errors import unknown_name

__all__ = ["goals", "instructions", "sample_layout", "splits", "subtasks"]

_SCENE, _GOAL, _SENTENCE = 0, 1, 2  # streams of random numbers
_FEWEST = 2  # goals of a scene; with one, nobody would have to listen
_ATTEMPTS = 400


def splits(task: str) -> tuple[str, ...]:
    """The splits that a task has.

    Tasks that name no object have neither new pairs of color and shape nor new positions, a scene whose
    objects stand in a small region has no held-out positions, and two rivals are never two new pairs.
    """
    kit = KITS[task]
    takes = task not in ("open_drawer", "close_drawer", "press")
    missing = {
        "positions": kit.region is not None or not takes,
        "pairs": kit.shapes != SHAPES or not takes or kit.objects < 3 or task == "clear",
        "free": task not in free.free_sentences(),
    }
    return tuple(split for split in SPLITS if not missing.get(split, False))


def sample_layout(
    seed: int,
    *,
    task: str,
    split: str = "train",
    rival: bool | None = None,
    goal: str | None = None,
    workspace: Workspace = WORKSPACE,
) -> Layout:
    """The layout that `seed` decides.

    Args:
        seed: Not negative. Data collection counts up from 0, evaluation from 1_000_000_000.
        task: One of `TASKS`.
        split: One of `splits(task)`. "positions" puts all objects where training puts none, "pairs"
            asks for a held-out pair of color and shape, "phrasing" and "words" use sentences that
            training never uses, in the scenes of "train". "free" draws a sentence that somebody
            wrote by hand, and a scene that holds what it names.
        rival: Whether the objects have rivals; None leaves it to the seed, one half each. They have
            where the kit of the task or a hand-written sentence needs it.
        goal: Name of another goal of this scene, see `goals`; the scene stays the same.
        workspace: Where things may stand.

    Raises:
        ValueError: Unknown task, split or goal, with the closest one; a negative seed.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split not in splits(task):
        raise ValueError(f"task {task!r} has no split {split!r}. It has {', '.join(splits(task))}.")
    if seed < 0:
        raise ValueError(f"seed of a scene: expected 0 or more, got {seed}.")
    kit, stream = KITS[task], np.random.default_rng([seed, _SCENE])
    by_seed = bool(stream.random() < 0.5)
    rival = kit.rival if kit.rival is not None else by_seed if rival is None else rival
    said = free.draw(task, np.random.default_rng([seed, _SENTENCE])).meaning if split == "free" else None
    rival = rival or (said is not None and _alike(said))
    layout = Layout(
        objects=(), fixtures=(), goal=Goal(task=task), instruction="", split=split, rival=rival, seed=seed
    )
    for _ in range(_ATTEMPTS):
        objects, fixtures = arrange(stream, kit, rival=rival, split=split, said=said, workspace=workspace)
        layout = replace(layout, objects=objects, fixtures=fixtures)
        every = every_goal(task, objects, fixtures, workspace)
        asked = [one for one in every if _may_be_asked(layout, one, said)]
        if len(every) >= _FEWEST and asked:
            break
    else:
        raise ValueError(f"workspace {workspace}: found no scene for task {task!r} in split {split!r}.")
    layout = replace(layout, goal=_draw(asked, np.random.default_rng([seed, _GOAL])))
    if goal is not None:
        named = {other.name(layout): other for other in every}
        if goal not in named:
            raise unknown_name("goal", goal, named)
        layout = replace(layout, goal=named[goal])
    return replace(layout, instruction=instructions(layout, 1)[0])


def goals(layout: Layout, workspace: Workspace = WORKSPACE) -> tuple[Goal, ...]:
    """Every goal of the layout's task in its scene."""
    return every_goal(layout.goal.task, layout.objects, layout.fixtures, workspace)


def instructions(layout: Layout, count: int) -> tuple[str, ...]:
    """`count` different sentences for the layout's goal, from its split; the first is its instruction.

    Raises:
        ValueError: There are not so many.
    """
    goal, named = layout.goal, meaning(layout, layout.goal)
    generator = np.random.default_rng([layout.seed, _SENTENCE])
    if layout.split == "free":
        known = free.saying(goal.task, named, free.draw(goal.task, generator).text)
        if count > len(known):
            raise ValueError(
                f"split 'free': {len(known)} sentences for {goal.name(layout)!r}, {count} asked for."
            )
        return known[:count]
    return sentences.instructions(goal.task, named, split=layout.split, count=count, generator=generator)


def subtasks(layout: Layout) -> tuple[str, ...]:
    """One plain sentence for each stage of the layout's goal."""
    return tuple(sentences.plain(stage.task, meaning(layout, stage)) for stage in stages(layout.goal))


def _draw(asked: list[Goal], generator: np.random.Generator) -> Goal:
    """A goal, evenly over the objects, then over the fixtures and sides that are left."""
    first, second = generator.random(2)
    objects = list(dict.fromkeys(goal.objects for goal in asked))
    chosen = objects[int(first * len(objects))]
    rest = [goal for goal in asked if goal.objects == chosen]
    return rest[int(second * len(rest))]


def _may_be_asked(layout: Layout, goal: Goal, said: sentences.Meaning | None) -> bool:
    """Whether this goal may be the one of the episode."""
    if said is not None:
        return meaning(layout, goal) == said
    return layout.split != "pairs" or _kind(layout.objects[goal.object]) in HELD_OUT_PAIRS


def _alike(said: sentences.Meaning) -> bool:
    """Whether two objects that are said share color or shape, so that they are rivals."""
    pairs = combinations(said.things, 2)
    return any(one[0] == other[0] or one[1] == other[1] != "things" for one, other in pairs)


def _kind(thing: Thing) -> tuple[str, str]:
    return thing.color, thing.shape
