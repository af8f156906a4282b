"""Hindsight keypoints say where the hand will be when the gripper changes."""

from __future__ import annotations

import numpy as np

from visuomotor.data.keypoints import find_keypoints
from visuomotor.types import Dimension, Spec

SPEC = Spec(
    embodiment="arm",
    cameras=(),
    state=(Dimension(name="joint"), *(Dimension(name=a, unit="m", kind="ee") for a in "xyz")),
    action=(Dimension(name="move"), Dimension(name="gripper", kind="gripper")),
    rate=10,
)


def episode(grips: str) -> tuple[np.ndarray, np.ndarray]:
    """State (x is the tick) and actions of an episode: "o" open, "c" closed."""
    ticks = np.arange(len(grips), dtype=np.float32)
    state = np.stack([0 * ticks - 1, ticks, 10 + ticks, 0 * ticks], axis=1)
    grip = np.array([float(letter == "c") for letter in grips], np.float32)
    return state, np.stack([ticks, grip], axis=1)


def test_the_thing_is_where_the_gripper_will_close_and_the_goal_where_it_opens() -> None:
    state, actions = episode("oocco")
    found = find_keypoints(SPEC, state, actions, [5])
    assert found is not None
    places, mask, _ = found
    np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [1, 1], [0, 1], [0, 1]])
    np.testing.assert_array_equal(places[:, 0, 0], [2, 2, 2, 3, 4])  # closes at 2, opens at 4
    np.testing.assert_array_equal(places[:, 1], [[4, 14, 0]] * 5)


def test_neighboring_episodes_are_not_looked_into() -> None:
    one, two = episode("ooo"), episode("cco")
    found = find_keypoints(SPEC, np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]]), [3, 3])
    assert found is not None
    np.testing.assert_array_equal(found[1], [[0, 0]] * 3 + [[0, 1]] * 3)


def test_a_body_that_does_not_tell_where_its_hand_is_has_none() -> None:
    state, actions = episode("oc")
    blind = Spec(embodiment="arm", cameras=(), state=SPEC.state[:2], action=SPEC.action, rate=10)
    assert find_keypoints(blind, state[:, :2], actions, [2]) is None


def test_an_opening_after_a_failed_grasp_is_not_the_goal() -> None:
    state, actions = episode("ocoocco")
    found = find_keypoints(SPEC, state, actions, [7])
    assert found is not None
    np.testing.assert_array_equal(found[0][:, 1, 0], [6] * 7)
    np.testing.assert_array_equal(found[0][:, 0, 0], [1, 1, 4, 4, 4, 5, 6])  # in the hand at the end
    np.testing.assert_array_equal(found[1][:, 0], [1, 1, 1, 1, 1, 0, 0])


def test_after_the_last_opening_nothing_is_told() -> None:
    state, actions = episode("ocooo")
    found = find_keypoints(SPEC, state, actions, [5])
    assert found is not None
    np.testing.assert_array_equal(found[1], [[1, 1], [1, 1], [0, 1], [0, 0], [0, 0]])


def test_a_demonstration_that_lifts_has_its_goal_where_it_ends_though_a_grasp_failed() -> None:
    state, actions = episode("ocoocc")
    found = find_keypoints(SPEC, state, actions, [6])
    assert found is not None
    assert found.mask[:, 1].all()
    np.testing.assert_array_equal(found.places[:, 1, 0], [5] * 6)


def test_parts_end_where_a_new_subtask_begins_with_an_open_gripper() -> None:
    """Two things one after the other; the first slips once, so that its subtasks come back."""
    state, actions = episode("occocco" + "occo")
    subtasks = np.array([0, 0, 1, 0, 0, 1, 1, 2, 2, 3, 3])
    found = find_keypoints(SPEC, state, actions, [11], subtasks)
    assert found is not None
    np.testing.assert_array_equal(found.part, [0] * 7 + [1] * 4)
    np.testing.assert_array_equal(found.places[:, 1, 0], [6] * 7 + [10] * 4)
    np.testing.assert_array_equal(found.places[[0, 3, 7], 0, 0], [1, 4, 8])
    assert found.mask[:, 1].all()


def test_a_part_may_end_by_opening_with_the_first_tick_of_the_next() -> None:
    state, actions = episode("ocoooco")
    found = find_keypoints(SPEC, state, actions, [7], np.array([0, 0, 1, 1, 1, 1, 2]))
    assert found is not None
    np.testing.assert_array_equal(found.part, [0, 0, 1, 1, 1, 1, 2])
    np.testing.assert_array_equal(found.places[:2, 1, 0], [2, 2])
    np.testing.assert_array_equal(found.places[2:6, 1, 0], [6] * 4)
