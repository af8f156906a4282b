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


def carried(
    corners: list[tuple[float, float]], *, open_at: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """An episode that goes from corner to corner in steps of a tenth of a meter, closed but at both ends."""
    way = [np.array(corners[0])]
    for corner in corners[1:]:
        steps = max(1, round(float(np.hypot(*(corner - way[-1]))) / 0.1))
        way += list(np.linspace(way[-1], corner, steps + 1)[1:])
    xy = np.array([way[0], *way, way[-1]], np.float32)
    zeros = np.zeros((len(xy), 1), np.float32)
    grip = np.ones_like(zeros)
    grip[[0, -2, -1, *open_at]] = 0.0
    return np.concatenate([zeros, xy, zeros + 0.1], axis=1), np.concatenate([zeros, grip], axis=1)


def test_what_is_carried_around_something_has_its_goal_at_the_next_turn() -> None:
    state, actions = carried([(0.0, 0.0), (0.0, 0.2), (0.3, 0.2), (0.3, 0.0)])
    found = find_keypoints(SPEC, state, actions, [len(state)])
    assert found is not None
    np.testing.assert_array_equal(found.part, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    goals = [(0.0, 0.2)] * 3 + [(0.3, 0.2)] * 3 + [(0.3, 0.0)] * 3
    np.testing.assert_allclose(found.places[:9, 1, :2], goals, atol=1e-6)
    np.testing.assert_array_equal(found.mask[:, 0], [1, 1] + [0] * 8)
    np.testing.assert_array_equal(found.mask[:, 1], [1] * 9 + [0])


def test_a_small_bend_is_no_turn_and_an_open_hand_has_none() -> None:
    bent = carried([(0.0, 0.0), (0.15, 0.05), (0.3, 0.0)])
    opened = carried([(0.0, 0.0), (0.0, 0.2), (0.3, 0.2), (0.3, 0.0)], open_at=tuple(range(8)))
    for state, actions in (bent, opened):
        found = find_keypoints(SPEC, state, actions, [len(state)])
        assert found is not None
        assert not found.part.any()


def test_what_is_lost_behind_the_obstacle_goes_on_with_the_last_part() -> None:
    around = [(0.0, 0.0), (0.0, 0.2), (0.3, 0.2), (0.3, 0.0)]
    (first, one), (second, two) = carried(around), carried([(0.3, 0.0), (0.6, 0.0)])
    state, actions = np.concatenate([first, second]), np.concatenate([one, two])
    found = find_keypoints(SPEC, state, actions, [len(state)])
    assert found is not None
    np.testing.assert_array_equal(found.part, [0, 0, 0, 1, 1, 1, 2, 2] + [2] * (len(state) - 8))
    np.testing.assert_allclose(found.places[8:-1, 1, 0], 0.6, atol=1e-6)


def test_where_a_push_turned_the_way_there_is_no_turn() -> None:
    state, actions = carried([(0.0, 0.0), (0.1, 0.0), (0.2, 0.12), (0.3, 0.0), (0.6, 0.0)])
    executed = actions.copy()
    actions[:, 0] = 0.01 * np.arange(len(actions))  # what was meant has a range
    for pushed, parts in ((None, 4), (2, 1)):
        executed[:, 0] = actions[:, 0]
        if pushed is not None:
            executed[pushed : pushed + 2, 0] += 0.05
        found = find_keypoints(SPEC, state, actions, [len(state)], executed=executed)
        assert found is not None
        assert len(np.unique(found.part)) == parts
