"""What counts as done, as failed and as half way, by states of the world that are written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop import goals as goals_of
from visuomotor.envs.tabletop import tasks as rules
from visuomotor.envs.tabletop.build import BOWL_HEIGHT, SIZES
from visuomotor.envs.tabletop.goals import stages
from visuomotor.envs.tabletop.layout import sample_layout, splits
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.tasks import SUITES, TASKS, blame, inside, playable, stage
from visuomotor.envs.tabletop.things import BESIDE_SPOT, DRAWER, FENCE, SIDES, ZONE_RADIUS, Goal
from visuomotor.experts.tabletop import TabletopExpert

DOCS = Path(__file__).parents[3] / "docs" / "tabletop.md"


def begin(task: str, seed: int = 0) -> TabletopEnv:
    env = TabletopEnv(task=task, cameras={})
    env.reset(seed=seed)
    return env


def place(scene: Scene, number: int, x: float, y: float, bottom: float, *, lying: bool = False) -> None:
    """Put an object somewhere by force, upright and turned as it was or lying, at rest."""
    slot = scene._slots[scene._order[number]]
    half = SIZES[scene.layout.objects[number].shape]
    height = bottom + (half[0] if lying else half[2])
    scene.data.qpos[slot.qpos : slot.qpos + 3] = scene.to_base((x, y, height))
    if lying:
        scene.data.qpos[slot.qpos + 3 : slot.qpos + 7] = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
    scene.data.qvel[slot.dof : slot.dof + 6] = 0.0
    mujoco.mj_forward(scene.model, scene.data)


def move(scene: Scene, number: int, speed: float) -> None:
    scene.data.qvel[scene._slots[scene._order[number]].dof] = speed


def slide(scene: Scene, number: int, travel: float) -> None:
    scene.data.qpos[scene._stands[number].qpos] = travel
    mujoco.mj_forward(scene.model, scene.data)


def reached(env: TabletopEnv) -> bool:
    return TASKS[env.wanted.task].reached(env.scene, env.wanted)


# ---- done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", playable(1))
def test_no_goal_is_reached_from_the_start(task: str) -> None:
    env = TabletopEnv(task=task, cameras={})
    for split in splits(task):
        for seed in range(2):
            env.reset(seed=seed, options={"split": split})
            for goal in goals_of.every_goal(task, env.layout.objects, env.layout.fixtures):
                assert not TASKS[task].reached(env.scene, goal), (split, seed, goal)
                assert stage(env.scene, goal) == 0
                assert 0.0 <= TASKS[task].far(env.scene, goal) < 0.7
                assert TASKS[task].breach is None or TASKS[task].breach(env.scene, goal) is None


def test_lifted_means_eight_centimeters_higher() -> None:
    env = begin("lift")
    x, y, _ = env.scene.place(env.wanted.object)
    for height, done in ((0.0, False), (0.079, False), (0.081, True)):
        place(env.scene, env.wanted.object, x, y, height)
        assert reached(env) == done


@pytest.mark.parametrize("task", ["put_in", "pass_obstacle"])
def test_in_a_bowl_means_within_its_walls_low_and_still(task: str) -> None:
    env = begin(task)
    scene, goal = env.scene, env.wanted
    x, y, _ = scene.fixture(goal.fixture)
    for beside, bottom, done in ((0.0, 0.001, True), (0.055, 0.001, True), (0.07, 0.001, False)):
        place(scene, goal.object, x + beside, y, bottom)
        assert reached(env) == done
    place(scene, goal.object, x, y, BOWL_HEIGHT + 0.02)
    assert not reached(env)
    place(scene, goal.object, x, y, 0.001)
    move(scene, goal.object, 0.08)
    assert not reached(env)


def test_a_second_object_may_lie_on_the_first_in_a_bowl() -> None:
    env = begin("clear")
    first, second, _ = env.wanted.objects
    x, y, _ = env.scene.fixture(env.wanted.fixture)
    place(env.scene, second, x + 0.01, y, BOWL_HEIGHT)
    assert not inside(env.scene, second, env.wanted.fixture)
    place(env.scene, first, x, y, 0.001)
    assert inside(env.scene, second, env.wanted.fixture)


@pytest.mark.parametrize("side", SIDES)
def test_beside_a_bowl_means_on_that_side_near_it_and_on_the_table(side: str) -> None:
    env = begin("put_beside")
    scene, number, bowl = env.scene, env.wanted.object, env.wanted.fixture
    goal = Goal(task="put_beside", objects=(number,), fixtures=(bowl,), side=side)
    x, y, _ = scene.fixture(bowl)
    for other, (ahead, aside) in SIDES.items():
        place(scene, number, x + BESIDE_SPOT * ahead, y + BESIDE_SPOT * aside, 0.0)
        assert TASKS["put_beside"].reached(scene, goal) == (other == side)
    ahead, aside = SIDES[side]
    for way, bottom, done in ((0.09, 0.0, True), (0.17, 0.0, True), (0.18, 0.0, False), (0.12, 0.05, False)):
        place(scene, number, x + way * ahead, y + way * aside, bottom)
        assert TASKS["put_beside"].reached(scene, goal) == done
    place(scene, number, x + 0.12 * ahead + 0.12 * aside, y + 0.12 * aside + 0.12 * ahead, 0.0)
    assert not TASKS["put_beside"].reached(scene, goal)  # as much in front as to the side


def test_sides_are_those_of_the_robot() -> None:
    """It looks along x; its left is y."""
    assert SIDES == {"left": (0, 1), "right": (0, -1), "front": (-1, 0), "behind": (1, 0)}


def test_stacked_means_resting_on_the_other_object() -> None:
    env = begin("stack")
    scene, (upper, lower) = env.scene, env.wanted.objects
    x, y, z = scene.place(lower)
    top = z + scene.extent(lower, np.array([0.0, 0.0, 1.0]))
    for beside, bottom, done in (
        (0.0, top, True),
        (0.03, top, True),
        (0.06, top, False),
        (0.0, top + 0.03, False),
    ):
        place(scene, upper, x + beside, y, bottom)
        assert reached(env) == done
    place(scene, upper, x + 0.08, y, 0.0)
    assert not reached(env)


def test_pushed_means_in_the_zone_and_never_lifted() -> None:
    env = begin("push")
    scene, goal = env.scene, env.wanted
    x, y, _ = scene.fixture(goal.fixture)
    breach = TASKS["push"].breach
    assert breach is not None
    for beside, bottom, done, failed in (
        (0.0, 0.0, True, None),
        (ZONE_RADIUS - 0.005, 0.0, True, None),
        (ZONE_RADIUS + 0.005, 0.0, False, None),
        (0.0, 0.02, False, None),
        (0.0, 0.06, False, "lifted"),
    ):
        place(scene, goal.object, x + beside, y, bottom)
        assert reached(env) == done
        assert breach(scene, goal) == failed


@pytest.mark.parametrize(
    ("task", "travels"),
    [
        ("open_drawer", ((0.0, False), (0.08, False), (0.09, True), (0.1, True))),
        ("close_drawer", ((0.0, True), (0.01, True), (0.02, False), (0.1, False))),
        ("press", ((0.0, False), (0.004, False), (0.006, True), (0.008, True))),
    ],
)
def test_drawers_and_buttons_are_judged_by_their_travel(task: str, travels: tuple) -> None:
    env = begin(task)
    for travel, done in travels:
        slide(env.scene, env.wanted.fixture, travel)
        assert reached(env) == done


def test_a_peg_sits_in_its_socket_upright() -> None:
    env = begin("insert")
    scene, goal = env.scene, env.wanted
    x, y, _ = scene.fixture(goal.fixture)
    for beside, bottom, lying, done in (
        (0.0, 0.002, False, True),
        (0.0, 0.03, False, False),
        (0.05, 0.0, False, False),
        (0.0, 0.002, True, False),
    ):
        place(scene, goal.object, x + beside, y, bottom, lying=lying)
        assert reached(env) == done


def test_put_in_drawer_needs_the_drawer_open_and_the_object_in_it() -> None:
    env = begin("put_in_drawer")
    scene, goal = env.scene, env.wanted
    assert (env.stage.task, stage(scene, goal)) == ("open_drawer", 0)
    slide(scene, goal.fixture, 0.09)
    assert not reached(env)
    assert (env.stage.task, stage(scene, goal)) == ("put_in", 1)
    assert TASKS["put_in_drawer"].far(scene, goal) >= 0.5
    x, y, _ = scene.fixture(goal.fixture)
    place(scene, goal.object, x, y, 0.006)
    assert reached(env)
    assert stage(scene, goal) == 1
    assert TASKS["put_in_drawer"].far(scene, goal) == 1.0
    slide(scene, goal.fixture, 0.0)
    assert not reached(env)


@pytest.mark.parametrize("task", ["put_two", "clear"])
def test_all_stages_must_be_done_at_once(task: str) -> None:
    env = begin(task)
    scene, goal = env.scene, env.wanted
    count = len(stages(goal))
    seen = [TASKS[task].far(scene, goal)]
    for number, (thing, fixture) in enumerate(zip(goal.objects, goal.fixtures, strict=True)):
        assert not reached(env)
        assert stage(scene, goal) == number
        x, y, _ = scene.fixture(fixture)
        place(scene, thing, x + (0.03 if number == 1 else -0.02), y, 0.001)
        seen.append(TASKS[task].far(scene, goal))
        assert seen[-1] > seen[-2]
        assert seen[-1] >= (number + 1) / count
    assert reached(env)
    x, y, _ = scene.fixture(goal.fixtures[0])
    place(scene, goal.objects[0], x, y + 0.15, 0.0)
    assert not reached(env)
    assert stage(scene, goal) == 0


def test_what_is_held_is_not_put_down(monkeypatch: pytest.MonkeyPatch) -> None:
    env, expert = begin("put_in"), TabletopExpert()
    scene, number = env.scene, env.wanted.object
    while not scene.holds(number):
        env.step(expert(env))
    monkeypatch.setattr(scene, "fixture", lambda _: scene.place(number))  # the bowl comes to the object
    monkeypatch.setattr(scene, "speed", lambda _: 0.0)
    assert inside(scene, number, env.wanted.fixture)
    assert not reached(env)


# ---- failed -------------------------------------------------------------------------------------


def test_whoever_touches_the_fence_has_failed() -> None:
    env = begin("pass_obstacle")
    breach = TASKS["pass_obstacle"].breach
    assert breach is not None
    (fence,) = (fixture for fixture in env.layout.fixtures if fixture.kind == "fence")
    assert breach(env.scene, env.wanted) is None
    place(env.scene, env.wanted.object, fence.position[0], fence.position[1] + FENCE.posts[0], 0.1)
    assert breach(env.scene, env.wanted) == "hit the fence"
    env.reset(seed=0)
    for ahead in (0.0, 0.0, 0.0, *[0.05] * 8):  # down, then straight ahead
        status = env.step(np.array([ahead, 0.0, -0.05 * (ahead == 0), 0.0, 0.0, 0.0, 0.0]))
    assert (status.done, status.failure) == (True, "hit the fence")


def test_lifting_what_shall_be_pushed_ends_the_episode() -> None:
    env = begin("push")
    x, y, _ = env.scene.place(env.wanted.object)
    place(env.scene, env.wanted.object, x, y, 0.2)
    status = env.step(np.zeros(7))
    assert (status.done, status.failure) == (True, "lifted")


@pytest.mark.parametrize("task", TASKS)
def test_blame_names_what_is_wrong(task: str) -> None:
    layout = sample_layout(1, task=task)
    every = goals_of.every_goal(task, layout.objects, layout.fixtures)
    for other in every:
        if other == layout.goal:
            continue
        said = blame(layout.goal, other)
        first = "wrong object" if other.objects[:1] != layout.goal.objects[:1] else None
        assert said in ("wrong object", "wrong place", "wrong side", "wrong hand")
        assert first is None or said == first
        if other.objects == layout.goal.objects:
            same = "wrong hand" if other.hand != layout.goal.hand else "wrong side"
            assert said == (same if other.fixtures == layout.goal.fixtures else "wrong place")


def test_another_base_of_a_stack_is_the_wrong_place() -> None:
    wanted = Goal(task="stack", objects=(0, 1))
    assert blame(wanted, Goal(task="stack", objects=(0, 2))) == "wrong place"
    assert blame(wanted, Goal(task="stack", objects=(1, 0))) == "wrong object"


# ---- progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", playable(1))
def test_progress_rises_along_an_episode_of_the_expert(task: str) -> None:
    env, expert = begin(task, seed=3), TabletopExpert()
    seen, stages_seen = [TASKS[task].far(env.scene, env.wanted)], [stage(env.scene, env.wanted)]
    while True:
        status = env.step(expert(env))
        seen.append(status.progress)
        stages_seen.append(stage(env.scene, env.wanted))
        if status.done:
            break
    assert status.success
    assert status.failure is None
    assert all(0.0 <= value <= 1.0 for value in seen)
    assert seen[-1] == 1.0
    assert max(seen[:-1]) < 1.0
    quarter = max(1, len(seen) // 4)
    first, last = np.mean(seen[:quarter]), np.mean(seen[-quarter:])
    assert last > first + 0.1
    assert stages_seen == sorted(stages_seen)
    assert stages_seen[-1] == len(stages(env.wanted)) - 1


# ---- tables -------------------------------------------------------------------------------------


def test_the_table_of_tasks_fits_the_others() -> None:
    assert tuple(TASKS) == goals_of.TASKS
    for name, task in TASKS.items():
        layout = sample_layout(0, task=name)
        several = len(stages(layout.goal)) > 1
        assert task.name == name
        assert (task.done is None) == (task.progress is None) == several
        assert task.ticks >= 100
        assert 1 <= task.hold <= 4


def test_the_documentation_has_every_task_as_it_is() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text().splitlines()]
    found = {row[0].strip("`"): row for row in rows if len(row) == 7 and row[0].strip("`") in TASKS}
    assert list(found) == list(TASKS)
    for name, (_, does, _, parts, ticks, fails, own) in found.items():
        assert does == TASKS[name].does
        assert parts.startswith(str(len(stages(sample_layout(0, task=name).goal))))
        assert int(ticks) == TASKS[name].ticks
        common = ("train", "phrasing", "words", "free")
        assert tuple(own.replace("`", "").split(", ")) == (
            tuple(split for split in splits(name) if split not in common) or ("",)
        )
        breach = {"push": "lifted", "pass_obstacle": "hit the fence"}.get(name)
        assert (breach is None) == (TASKS[name].breach is None)
        assert breach is None or f"`{breach}`" in fails
        layout = sample_layout(0, task=name)
        every = goals_of.every_goal(name, layout.objects, layout.fixtures)
        assert all(f"`{blame(a, b)}`" in fails for a in every for b in every if a != b)


def test_suites_hold_known_tasks_and_are_no_task() -> None:
    assert not set(SUITES) & set(TASKS)
    assert SUITES["whole"] == tuple(name for name in TASKS if name != "hand_over") == playable(1)
    assert set(SUITES["two_hands"]) == {"lift", "put_in", "hand_over"} == set(playable(2))
    assert set(SUITES["single"]) < set(SUITES["all"]) < set(SUITES["whole"])
    for name in SUITES["single"]:
        assert len(stages(sample_layout(0, task=name).goal)) == 1


def test_measures_fit_each_other() -> None:
    assert rules.CLOSED < rules.OPEN < DRAWER.travel
    assert rules.PRESSED < 0.008
