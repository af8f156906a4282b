from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visuomotor.transforms.base import Transform
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Camera, Dimension, Sample, Spec


def spec(state: int, action: int) -> Spec:
    return Spec(
        embodiment="arm",
        cameras=(),
        state=tuple(Dimension(name=f"s{i}") for i in range(state)),
        action=tuple(Dimension(name=f"a{i}") for i in range(action)),
        rate=10.0,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.integers(1, 5), action=st.integers(1, 5), more=st.integers(0, 4))
def test_actions_come_back_and_masks_tell_what_is_real(make_sample, observation, state, action, more) -> None:
    rng = np.random.default_rng(0)
    raw = make_sample(
        rng.normal(size=(2, state)).astype(np.float32), rng.normal(size=(3, action)).astype(np.float32)
    )
    transform = PadDimensions(spec(state, action), state + more, action + more)
    padded = transform.apply(raw)
    assert isinstance(transform, Transform)
    assert padded.state.shape == (2, state + more)
    assert padded.actions.shape == (3, action + more)
    assert padded.state_mask.tolist() == [True] * state + [False] * more
    assert padded.action_mask.tolist() == [True] * action + [False] * more
    assert (padded.state[:, ~padded.state_mask] == 0).all()
    assert (padded.actions[:, ~padded.action_mask] == 0).all()
    np.testing.assert_array_equal(padded.state[:, :state], raw.state)
    np.testing.assert_array_equal(transform.invert(padded.actions, observation), raw.actions)


def test_while_acting_the_action_mask_is_there_without_actions(make_sample) -> None:
    padded = PadDimensions(spec(2, 3), 4, 5).apply(make_sample(np.zeros((1, 2), np.float32), None))
    assert padded.actions is None
    assert padded.action_mask.tolist() == [True] * 3 + [False] * 2


def test_a_body_wider_than_the_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="its action has 7 numbers, the padded one only 6"):
        PadDimensions(spec(2, 7), 4, 6)


def test_missing_cameras_are_black_and_masked_and_blind_samples_stay_blind() -> None:
    here = Camera(name="here", height=2, width=3)
    there = Camera(name="there", height=4, width=5)
    sample = Sample(
        images={"here": np.ones((2, 2, 3, 3), np.uint8)},
        image_mask={"here": np.ones(2, bool)},
        state=np.zeros((2, 1), np.float32),
        history_mask=np.ones(2, bool),
        state_mask=np.ones(1, bool),
        instruction="",
        embodiment="arm",
    )
    padded = PadCameras((here, there)).apply(sample)
    assert padded.images["here"] is sample.images["here"]
    assert padded.images["there"].shape == (2, 4, 5, 3)
    assert not padded.images["there"].any()
    assert not padded.image_mask["there"].any()
    assert padded.image_mask["here"].all()
    blind = replace(sample, images={}, image_mask={})
    assert PadCameras((here, there)).apply(blind) is blind
