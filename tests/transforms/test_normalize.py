from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.errors import DataError
from visuomotor.transforms.base import Transform
from visuomotor.transforms.normalize import Normalize
from visuomotor.types import Stats, Summary

MODES = ("mean_std", "quantile", "min_max")
OPENPI = ("openpi_mean_std", "openpi_quantile")


def summarize(values: np.ndarray) -> Summary:
    values = np.asarray(values, np.float64)
    return Summary(
        mean=values.mean(0),
        std=values.std(0),
        min=values.min(0),
        max=values.max(0),
        q01=np.quantile(values, 0.01, axis=0),
        q99=np.quantile(values, 0.99, axis=0),
        count=len(values),
    )


VALUES = hnp.arrays(
    np.float32, st.tuples(st.integers(2, 12), st.just(3)), elements=st.floats(-100, 100, width=32)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES, mode=st.sampled_from(MODES + OPENPI))
def test_actions_come_back(make_sample, observation, values: np.ndarray, mode) -> None:
    transform = Normalize(state=summarize(values), action=summarize(values), mode=mode)
    model = transform.apply(make_sample(values[:1], values))
    back = transform.invert(model.actions, observation)
    assert back.dtype == np.float32
    # Model space is float32: its rounding, 2^-24 of a number, comes back times the scale.
    scale = np.maximum(np.abs(values).max(), 1) * 2.0**-22
    np.testing.assert_allclose(back, values, rtol=0, atol=scale)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES, mode=st.sampled_from(MODES + OPENPI))
def test_arguments_are_not_changed_and_results_are_finite(make_sample, values: np.ndarray, mode) -> None:
    sample = make_sample(values[:1], values)
    before = values.copy()
    model = Normalize(state=summarize(values), action=summarize(values), mode=mode).apply(sample)
    np.testing.assert_array_equal(values, before)
    assert np.isfinite(model.state).all()
    assert np.isfinite(model.actions).all()
    assert model.state.dtype == model.actions.dtype == np.float32


def test_each_mode_puts_its_landmarks_where_it_says(make_sample) -> None:
    values = np.random.default_rng(0).normal(3, 2, (500, 2)).astype(np.float32)
    summary = summarize(values)
    landmarks = {
        "mean_std": [(summary.mean, 0), (summary.mean + summary.std, 1)],
        "quantile": [(summary.q01, -1), (summary.q99, 1)],
        "min_max": [(summary.min, -1), (summary.max, 1)],
    }
    for mode, places in landmarks.items():
        transform = Normalize(state=summary, action=summary, mode=mode)
        for raw, expected in places:
            found = transform.apply(make_sample(raw[None].astype(np.float32), None)).state
            np.testing.assert_allclose(found, np.full((1, 2), expected), atol=1e-5)  # float32 input


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES, mode=st.sampled_from(OPENPI))
def test_released_weights_get_what_they_learned_with(make_sample, values: np.ndarray, mode) -> None:
    summary = summarize(values)
    found = Normalize(state=summary, action=summary, mode=mode).apply(make_sample(values[:1], values)).actions
    raw = values.astype(np.float64)
    if mode == "openpi_mean_std":
        expected = (raw - summary.mean) / (summary.std + 1e-6)
    else:
        expected = (raw - summary.q01) / (summary.q99 - summary.q01 + 1e-6) * 2.0 - 1.0
    # float32 at the end, and float64 numbers near 100 divided by at least half of 1e-6 on the way
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_released_code_blows_up_what_is_nearly_constant_and_ours_does_not(make_sample) -> None:
    values = np.full((1000, 2), 0.4, np.float32)
    values[0, 1] = 0.9  # moves, but not within the quantiles
    moved = make_sample(values[:1] + np.float32(0.01), values)

    def state(mode) -> np.ndarray:
        transform = Normalize(state=summarize(values), action=summarize(values), mode=mode)
        return transform.apply(moved).state[0]

    np.testing.assert_allclose(state("openpi_quantile")[0], 0.02 / 1e-6 - 1, rtol=1e-4)
    np.testing.assert_allclose(state("quantile")[0], 0.01, atol=1e-6)
    np.testing.assert_allclose(state("openpi_mean_std")[0], 0.01 / 1e-6, rtol=1e-4)
    np.testing.assert_allclose(state("mean_std")[0], 0.01, atol=1e-6)
    assert state("openpi_quantile")[1] > 1e5
    assert abs(state("quantile")[1]) < 1.1  # within smallest and largest


def test_statistics_that_do_not_tell_what_a_mode_needs_are_refused() -> None:
    summary = summarize(np.random.default_rng(0).normal(size=(9, 2)))
    unknown = np.full(2, np.nan)
    released = replace(summary, min=unknown, max=unknown)
    Normalize(state=released, action=released, mode="openpi_quantile")
    with pytest.raises(DataError, match="'min_max': the statistics of 'state' that it needs hold NaN"):
        Normalize(state=released, action=released, mode="min_max")


def test_while_acting_there_are_no_actions(make_sample) -> None:
    summary = summarize(np.random.default_rng(0).normal(size=(9, 2)))
    assert (
        Normalize(state=summary, action=summary)
        .apply(make_sample(np.zeros((1, 2), np.float32), None))
        .actions
        is None
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_dimension_is_not_blown_up(make_sample, observation, mode) -> None:
    values = np.full((50, 2), 0.4, np.float32)
    transform = Normalize(state=summarize(values), action=summarize(values), mode=mode)
    moved = transform.apply(make_sample(values[:1] + 0.01, values))
    np.testing.assert_allclose(moved.state, 0.01, atol=1e-6)
    np.testing.assert_allclose(moved.actions, 0, atol=1e-3)
    # whatever the model says, the action stays the constant
    np.testing.assert_allclose(
        transform.invert(np.full((1, 2), 3.0, np.float32), observation), 0.4, atol=4e-4
    )


def test_a_gripper_that_hardly_ever_moves_keeps_its_range(make_sample) -> None:
    values = np.zeros((1000, 1), np.float32)
    values[:3] = 1.0
    summary = summarize(values)
    assert summary.q99 == summary.q01
    found = (
        Normalize(state=summary, action=summary, mode="quantile")
        .apply(make_sample(values[:1], values[:4]))
        .actions
    )
    np.testing.assert_allclose(found[:, 0], [1, 1, 1, -1])


def test_skipped_dimensions_stay_in_raw_units(make_sample, observation) -> None:
    values = np.random.default_rng(0).normal(5, 2, (50, 3)).astype(np.float32)
    transform = Normalize(
        state=summarize(values), action=summarize(values), skip_state=(0,), skip_action=(2,)
    )
    model = transform.apply(make_sample(values[:1], values))
    np.testing.assert_array_equal(model.state[:, 0], values[:1, 0])
    np.testing.assert_array_equal(model.actions[:, 2], values[:, 2])
    assert abs(model.actions[:, 0].mean()) < 1e-5
    np.testing.assert_array_equal(transform.invert(model.actions, observation)[:, 2], values[:, 2])


def test_from_stats_needs_both_features() -> None:
    summary = summarize(np.random.default_rng(0).normal(size=(9, 2)))
    transform = Normalize.from_stats(Stats(source="here", features={"state": summary, "action": summary}))
    assert isinstance(transform, Transform)
    with pytest.raises(DataError, match="no feature 'action'"):
        Normalize.from_stats(Stats(source="here", features={"state": summary}))


def test_another_width_than_the_statistics_is_refused(make_sample, observation) -> None:
    summary = summarize(np.random.default_rng(0).normal(size=(9, 2)))
    transform = Normalize(state=summary, action=summary)
    with pytest.raises(DataError, match="statistics of 2 values, got 3"):
        transform.apply(make_sample(np.zeros((1, 3), np.float32), None))
    with pytest.raises(DataError, match="'action'"):
        transform.invert(np.zeros((4, 5), np.float32), observation)


def test_bad_arguments_are_refused() -> None:
    summary = summarize(np.random.default_rng(0).normal(size=(9, 2)))
    with pytest.raises(ValueError, match=r"skip_action names \[2\]"):
        Normalize(state=summary, action=summary, skip_action=(2,))
    with pytest.raises(ValueError, match="floor"):
        Normalize(state=summary, action=summary, floor=0.0)
    broken = summarize(np.array([[np.nan, 1.0]] * 3))
    with pytest.raises(DataError, match="NaN"):
        Normalize(state=summary, action=broken)
    with pytest.raises(ValueError, match="'mean_std'"):
        Normalize(state=summary, action=summary, mode="mean")


def test_limits_of_the_body_replace_minimum_and_maximum() -> None:
    from visuomotor.transforms.normalize import within_limits
    from visuomotor.types import Dimension, Summary

    ones = np.ones(2)
    summary = Summary(mean=0 * ones, std=ones, min=-ones, max=ones, q01=-ones, q99=ones, count=3)
    limited = within_limits(summary, [Dimension(name="x", low=-0.5, high=0.3), Dimension(name="free")])
    np.testing.assert_array_equal(limited.min, [-0.5, -1.0])
    np.testing.assert_array_equal(limited.max, [0.3, 1.0])


def test_states_and_actions_may_have_different_modes() -> None:
    from visuomotor.types import Observation, Summary

    ones = np.ones(1)
    summary = Summary(mean=0 * ones, std=ones, min=-4 * ones, max=4 * ones, q01=-ones, q99=ones, count=3)
    transform = Normalize(state=summary, action=summary, action_mode="min_max")
    observation = Observation(images={}, state=np.zeros((1, 1), np.float32), instruction="", embodiment="arm")
    np.testing.assert_allclose(transform.invert(np.ones((1, 1)), observation), [[4.0]])
