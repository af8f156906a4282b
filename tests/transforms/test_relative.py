"""Actions measured from the state come back, and a state that lacks their numbers is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.errors import DataError
from visuomotor.transforms.base import Transform
from visuomotor.transforms.relative import RelativeActions, relative_joints, with_relative_joints
from visuomotor.types import Dimension, Spec

NUMBERS = st.floats(-10, 10, width=32)
SPEC = Spec(
    embodiment="arm",
    cameras=(),
    state=(
        Dimension(name="shoulder", unit="rad", kind="joint"),
        Dimension(name="grip", kind="gripper"),
        Dimension(name="elbow", unit="rad", kind="joint"),
    ),
    action=(
        Dimension(name="elbow", unit="rad", kind="joint", low=-2, high=2),
        Dimension(name="shoulder", unit="rad", kind="joint"),
        Dimension(name="grip", kind="gripper", low=0, high=1),
    ),
    rate=10.0,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), unique_by=lambda pair: pair[0]),
    state=hnp.arrays(np.float32, (2, 5), elements=NUMBERS),
    actions=hnp.arrays(np.float32, (6, 4), elements=NUMBERS),
)
def test_actions_come_back(make_sample, observation, pairs, state, actions) -> None:
    transform = RelativeActions(action=tuple(a for a, _ in pairs), state=tuple(s for _, s in pairs))
    sample = make_sample(state, actions)
    before = state.copy(), actions.copy()
    model = transform.apply(sample)
    back = transform.invert(model.actions, replace(observation, state=state))
    assert isinstance(transform, Transform)
    assert model.actions.dtype == back.dtype == np.float32
    np.testing.assert_allclose(back, actions, rtol=0, atol=2e-6)  # float32 numbers up to 20, rounded twice
    np.testing.assert_array_equal(sample.state, before[0])
    np.testing.assert_array_equal(sample.actions, before[1])
    assert model.state is sample.state
    for number in range(4):  # the whole chunk is measured from the state of the current tick
        origin = dict(zip(transform.action, transform.state)).get(number)
        expected = actions[:, number] - (0 if origin is None else state[-1, origin])
        np.testing.assert_array_equal(model.actions[:, number], expected)


def test_joints_are_measured_from_the_state_of_their_name_and_a_gripper_stays(make_sample) -> None:
    transform = relative_joints(SPEC)
    state = np.array([[9.0, 9.0, 9.0], [1.0, 0.5, 2.0]], np.float32)  # the tick before does not matter
    found = transform.apply(make_sample(state, np.array([[2.5, 1.5, 0.75]] * 2, np.float32)))
    np.testing.assert_array_equal(found.actions, [[0.5, 0.5, 0.75]] * 2)
    seen = with_relative_joints(SPEC)
    assert [d.kind for d in seen.action] == ["joint_relative", "joint_relative", "gripper"]
    assert [d.high for d in seen.action] == [np.inf, np.inf, 1]
    assert seen.state == SPEC.state


def test_what_ran_is_measured_from_the_same_state(make_sample) -> None:
    actions = np.ones((2, 3), np.float32)
    sample = replace(make_sample(np.full((1, 3), 2.0, np.float32), actions), executed=actions + 1)
    np.testing.assert_array_equal(relative_joints(SPEC).apply(sample).executed, [[0, 0, 2]] * 2)


def test_while_acting_there_is_nothing_to_measure(make_sample) -> None:
    sample = make_sample(np.zeros((1, 3), np.float32), None)
    assert relative_joints(SPEC).apply(sample) is sample


def test_a_state_without_the_numbers_is_refused(make_sample, observation) -> None:
    transform, actions = relative_joints(SPEC), np.zeros((2, 3), np.float32)
    with pytest.raises(DataError, match=r"the state has 2 numbers, number 2 is needed\. Give the state"):
        transform.apply(make_sample(np.zeros((1, 2), np.float32), actions))
    with pytest.raises(DataError, match="the state has 2 numbers"):
        transform.invert(actions, observation)
    with pytest.raises(DataError, match="the action has 1 numbers"):
        transform.invert(actions[:, :1], replace(observation, state=np.zeros((1, 3), np.float32)))
    unknown = np.array([[0.0, 0.0, np.nan]], np.float32)
    with pytest.raises(DataError, match="Wait until the robot tells where it is"):
        transform.invert(actions, replace(observation, state=unknown))
    masked = replace(
        make_sample(np.zeros((1, 3), np.float32), actions), state_mask=np.array([True, True, False])
    )
    with pytest.raises(DataError, match="out of training"):
        transform.apply(masked)


def test_a_body_without_joints_or_without_their_state_is_refused() -> None:
    with pytest.raises(ValueError, match="no number of its action is of kind 'joint', only gripper"):
        relative_joints(replace(SPEC, action=SPEC.action[2:]))
    with pytest.raises(ValueError, match=r"joint 'elbow' \(rad\) has no number .* are shoulder \(rad\)"):
        relative_joints(replace(SPEC, state=SPEC.state[:2]))
    degrees = replace(SPEC.state[2], unit="deg")
    with pytest.raises(ValueError, match="in equal units"):
        relative_joints(replace(SPEC, state=(*SPEC.state[:2], degrees)))
    with pytest.raises(ValueError, match="one number of the state for each"):
        RelativeActions(action=(0, 0), state=(1, 2))
