"""A body with two hands: what it can be asked, who takes its turn, and when something is handed over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from visuomotor.data.keypoints import find_keypoints
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.layout import goals
from visuomotor.envs.tabletop.tasks import AWAY, GIVEN_HEIGHT, TASKS, blame, playable
from visuomotor.envs.tabletop.turns import Turn, destination, whose_turn
from visuomotor.envs.tabletop.vision_language import annotate
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.testing.envs import check_env
from visuomotor.transforms.hand import find_hand

BODY, RATE = "aloha2arm", 10.0
SMALL = {"front": 24, "left_wrist": 16, "right_wrist": 16}


def begin(task: str, seed: int, **options: str) -> TabletopEnv:
    env = TabletopEnv(BODY, task=task, cameras={}, rate=RATE)
    env.reset(seed=seed, options=options)
    return env


def across(task: str, start: int = 0) -> Iterator[TabletopEnv]:
    """Episodes whose object one hand must bring to the other."""
    for seed in range(start, start + 100):
        env = begin(task, seed)
        if not whose_turn(env.scene, env.wanted).finishes:
            yield env


def move(env: TabletopEnv, x: float, y: float) -> None:
    """Put the wanted object somewhere on the table."""
    scene, number = env.scene, env.wanted.object
    body = int(np.argmin(np.linalg.norm(scene.data.xpos - scene.to_base(scene.place(number)), axis=1)))
    start = scene.model.jnt_qposadr[scene.model.body_jntadr[body]]
    scene.data.qpos[start : start + 2] = scene.to_base(np.array([x, y, 0.0]))[:2]
    mujoco.mj_forward(scene.model, scene.data)


# ---- what can be asked --------------------------------------------------------------------------


def test_a_task_that_a_body_cannot_do_is_refused_with_those_that_it_can() -> None:
    with pytest.raises(ValueError, match=r"'franka' cannot do 'hand_over'\. It can do lift, put_in, put_be"):
        TabletopEnv(task="hand_over")
    with pytest.raises(
        ValueError, match=r"'aloha2arm' cannot do 'push'\. It can do lift, put_in, hand_over;.*two_h"
    ):
        TabletopEnv(BODY, task="push")
    env = begin("put_in", 0)
    with pytest.raises(ValueError, match="'aloha2arm' cannot do 'all'"):
        env.reset(seed=0, options={"task": "all"})
    with pytest.raises(ValueError, match="Did you mean 'left_wrist'"):
        TabletopEnv(BODY, cameras={"left_wrst": 8})


def test_the_catalog_tells_which_body_does_what() -> None:
    told = TabletopEnv.catalog()
    for name, task in told["tasks"].items():
        for body, facts in told["bodies"].items():
            assert (body in task["bodies"]) == (name in playable(facts["hands"]))
    assert told["tasks"]["hand_over"]["bodies"] == [BODY]
    assert told["bodies"][BODY] == {"hands": 2, "joints": 12, "rate": 50.0, "scale": 1.0}


def test_equal_seeds_give_the_scenes_and_goals_of_other_bodies() -> None:
    franka, env = TabletopEnv(cameras={}), begin("put_in", 0)
    for seed in range(4):
        env.reset(seed=seed)
        franka.reset(seed=seed)
        assert env.layout == franka.layout
        for number in range(4):
            np.testing.assert_allclose(env.scene.place(number), franka.scene.place(number), atol=1e-12)


@pytest.mark.parametrize("control", ["ee_delta", "joint"])
def test_contract(control: str) -> None:
    check_env(
        lambda: TabletopEnv(BODY, task="hand_over", control=control, cameras=SMALL, rate=RATE), ticks=12
    )


@pytest.mark.parametrize("rate", [10.0, 25.0, 50.0])
def test_an_action_moves_the_hand_that_it_is_for(rate: float) -> None:
    env = TabletopEnv(BODY, cameras={}, rate=rate)
    env.reset(seed=0)
    before = [env.scene.hand(hand)[0] for hand in (0, 1)]
    action = np.zeros(14)
    action[7 + 2], action[6] = 0.02 * 10 / rate, 1.0  # the right hand goes up, the left one closes
    for _ in range(round(rate)):
        env.step(action)
    after = [env.scene.hand(hand)[0] for hand in (0, 1)]
    np.testing.assert_allclose(after[0], before[0], atol=3e-3)
    assert after[1][2] - before[1][2] > 0.1
    assert env.scene.grip(0) > 0.95
    assert env.scene.grip(1) < 0.05
    state = dict(zip([d.name for d in env.spec.state], env.state().tolist(), strict=True))
    assert state["left_gripper"] > 0.95 > 0.05 > state["right_gripper"]
    hand, _ = env.scene.hand_pose(1)
    np.testing.assert_allclose([state[f"right_measured_{axis}"] for axis in "xyz"], hand, atol=1e-6)


@pytest.mark.parametrize("view", ["left_wrist", "right_wrist"])
def test_cameras_on_the_hands_are_calibrated(view: str) -> None:
    """By way of the measured pose of their hand they show objects where they are."""
    env = TabletopEnv(BODY, cameras={view: (120, 160)}, rate=RATE)
    camera, side, met = env.spec.camera(view), view.split("_")[0], 0
    assert camera.mount == f"{side}_hand"
    matrix = np.reshape(camera.projection, (3, 4))
    hand = ("left", "right").index(side)
    for seed in range(6):
        env.reset(seed=seed)
        action = np.zeros(14)
        action[7 * hand + 1] = -0.03 if hand == 0 else 0.03
        for _ in range(6):  # over the things
            env.step(action)
        observation = env.observe()
        names = [dimension.name for dimension in env.spec.state]
        start = names.index(f"{side}_measured_x")
        pose = observation.state[0, start : start + 6].astype(float)
        for number in range(4):
            place = env.scene.to_base(env.scene.place(number)) - pose[:3]
            quat, turned = np.empty(4), np.empty(3)
            angle = float(np.linalg.norm(pose[3:]))
            mujoco.mju_axisAngle2Quat(quat, pose[3:] / max(angle, 1e-9), -angle)
            mujoco.mju_rotVecQuat(turned, place, quat)
            u, v, w = matrix @ [*turned, 1.0]
            column, row = (u / w + 1) / 2 * 160 - 0.5, (v / w + 1) / 2 * 120 - 0.5
            if w > 0 and 0 <= column <= 159 and 0 <= row <= 45:  # below are the fingers
                color = observation.images[view][0, round(row), round(column)].astype(float)
                assert color.max() - color.min() > 40
                met += 1
    assert met >= 3


def test_there_is_no_one_hand_for_policies_to_look_from() -> None:
    env = begin("put_in", 0)
    assert find_hand(env.spec) is None
    state, action = np.zeros((3, len(env.spec.state)), np.float32), np.zeros((3, 14), np.float32)
    assert find_keypoints(env.spec, state, action, [3]) is None


@pytest.mark.parametrize("world", ["randomized", "shifted"])
def test_worlds_and_snapshots_in_the_middle_of_the_work(world: str) -> None:
    env, other, expert = begin("hand_over", 5, world=world), begin("put_in", 1), TabletopExpert()
    for _ in range(9):
        env.step(expert(env))
    kept = env.snapshot()
    ticks = [(env.step(expert(env)), env.state()) for _ in range(6)]
    other.restore(kept)
    for status, state in ticks:
        assert other.step(expert(other)) == status
        np.testing.assert_array_equal(other.state(), state)


def test_questions_are_asked_about_what_either_hand_holds() -> None:
    env, expert = TabletopEnv(BODY, task="hand_over", cameras=SMALL, rate=RATE), TabletopExpert()
    env.reset(seed=2)
    generator, held = np.random.default_rng(0), Counter[str]()
    done = False
    while not done:
        row = annotate(env, generator, kinds=("state",))
        assert set(json.loads(row["boxes"])) == set(SMALL)
        held[row["answer"]] += 1
        done = env.step(expert(env)).done
    assert held[env.layout.objects[env.wanted.object].name] > 0  # "what is the robot holding?"


# ---- whose turn ---------------------------------------------------------------------------------


def test_the_hand_that_reaches_thing_and_bowl_does_it_alone() -> None:
    env = begin("put_in", 0)
    bowl = destination(env.scene, env.wanted)
    assert bowl is not None
    side = 0 if bowl[1] > 0 else 1
    move(env, 0.5, 0.2 if side == 0 else -0.2)
    assert whose_turn(env.scene, env.wanted) == Turn(side, True)
    if abs(bowl[1]) > 0.06:
        move(env, 0.5, -0.2 if side == 0 else 0.2)
        assert whose_turn(env.scene, env.wanted) == Turn(1 - side, False)
    move(env, 0.5, 0.0)
    assert whose_turn(env.scene, env.wanted).finishes


def test_subtasks_name_the_hand_and_the_middle() -> None:
    expert = TabletopExpert()
    env = next(across("put_in"))
    giver = env.body.arms[whose_turn(env.scene, env.wanted).hand].name
    taker = {"left": "right", "right": "left"}[giver]
    thing = env.layout.objects[env.wanted.object].name
    bowl = env.layout.fixtures[env.wanted.fixture].name
    told = [env.subtask]
    while not env.step(expert(env)).done:
        told.append(env.subtask)
    assert list(dict.fromkeys(told)) == [
        f"pick up the {thing} with the {giver} hand",
        f"put the {thing} down in the middle",
        f"pick up the {thing} with the {taker} hand",
        f"put the {thing} in the {bowl}",
    ]


# ---- hand over ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given() -> TabletopEnv:
    """At the end of an episode in which something was handed over."""
    env, expert = next(across("hand_over")), TabletopExpert()
    while not (status := env.step(expert(env))).done:
        pass
    assert status.success
    return env


def test_given_is_held_high_by_the_named_hand_alone(given: TabletopEnv) -> None:
    scene, goal = given.scene, given.wanted
    hand = [arm.name for arm in given.body.arms].index(str(goal.hand))
    assert scene.holders(goal.object) == [hand]
    assert scene.place(goal.object)[2] > GIVEN_HEIGHT
    assert np.linalg.norm(scene.hand(1 - hand)[0] - scene.place(goal.object)) > AWAY


def test_a_closed_or_near_other_hand_has_not_given_it(given: TabletopEnv) -> None:
    scene, goal, task = given.scene, given.wanted, TASKS["hand_over"]
    before, other = scene.snapshot(), 1 - scene.holders(given.wanted.object)[0]
    limb = given.body.arms[other]
    assert task.reached(scene, goal)
    for name in limb.fingers:
        scene.data.joint(name).qpos[0] = 0.0
    assert not task.reached(scene, goal)
    scene.restore(before)
    assert task.reached(scene, goal)
    site = scene.model.site(limb.hand).id
    scene.data.site_xpos[site] = scene.to_base(scene.place(goal.object))
    scene.data.site_xpos[site, 2] += AWAY - 0.01
    assert not task.reached(scene, goal)
    scene.restore(before)


def test_the_other_hand_or_another_object_is_to_blame(given: TabletopEnv) -> None:
    expert = TabletopExpert()
    goal = given.goal
    thing, hand = goal.split(":")[1].split(">")
    other_hand = "right hand" if hand == "left hand" else "left hand"
    env = TabletopEnv(BODY, task="hand_over", cameras={}, rate=RATE)
    seed = given.layout.seed
    for wrong, reason in ((f"hand_over:{thing}>{other_hand}", "wrong hand"), (None, "wrong object")):
        env.reset(seed=seed)
        name = wrong or next(other for other in env.goals() if thing not in other)
        doer = TabletopEnv(BODY, task="hand_over", cameras={}, rate=RATE)
        doer.reset(seed=seed, options={"goal": name})
        status = env.step(action := expert(doer))
        while not status.done:
            doer.step(action)
            status = env.step(action := expert(doer))
        assert (status.success, status.failure) == (False, reason)
        assert status.facts["achieved"] == name
    env.reset(seed=seed)
    named = {other.name(env.layout): other for other in goals(env.layout)}
    assert blame(named[goal], named[f"hand_over:{thing}>{other_hand}"]) == "wrong hand"


def test_progress_rises_from_hand_to_hand() -> None:
    env, expert = next(across("hand_over", 40)), TabletopExpert()
    seen, done = [TASKS["hand_over"].far(env.scene, env.wanted)], False
    while not done:
        status = env.step(expert(env))
        seen.append(status.progress)
        done = status.done
    assert seen[-1] == 1.0
    assert all(0.0 <= value < 1.0 for value in seen[:-1])
    quarter = len(seen) // 4
    assert np.mean(seen[:quarter]) + 0.2 < np.mean(seen[-quarter:])
