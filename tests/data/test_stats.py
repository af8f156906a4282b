from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.data.stats import QUANTILES, PictureSpread, merge, plain, spread, summarize
from visuomotor.errors import DataError


def matrices(least: int, most: int) -> st.SearchStrategy[np.ndarray]:
    """Some ticks of `least` to `most` numbers."""
    shapes = st.tuples(st.integers(1, 40), st.integers(least, most))
    return hnp.arrays(np.float32, shapes, elements=st.floats(-100, 100, width=32))


@given(matrices(1, 4))
def test_summary_agrees_with_numpy(values):
    summary = summarize(values)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(summary.mean, exact.mean(0))
    np.testing.assert_allclose(summary.std, exact.std(0))
    np.testing.assert_array_equal(summary.min, exact.min(0))
    np.testing.assert_array_equal(summary.max, exact.max(0))
    np.testing.assert_allclose(summary.q01, np.quantile(exact, 0.01, axis=0))
    np.testing.assert_allclose(summary.q99, np.quantile(exact, 0.99, axis=0))
    assert summary.count == len(values)


@pytest.mark.parametrize("shape", [(0, 3), (4,)])
def test_there_is_no_summary_of_nothing(shape):
    with pytest.raises(DataError, match="expected at least one tick"):
        summarize(np.zeros(shape, np.float32))


@settings(max_examples=15)
@given(st.lists(matrices(2, 2), min_size=1, max_size=4))
def test_merged_episodes_have_the_moments_of_all_ticks(parts):
    merged, whole = merge([spread(part) for part in parts]), spread(np.concatenate(parts))
    for name in ("min", "max", "mean", "count"):
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged["std"], whole["std"], rtol=1e-6, atol=1e-4)  # cancellation


def test_merged_quantiles_are_averages_by_count():
    a, b = np.zeros((30, 1)), np.ones((10, 1))
    assert merge([spread(a), spread(b)])["q50"] == pytest.approx(0.25)


def test_picture_spread_counts_levels_exactly():
    pictures = np.random.default_rng(0).integers(0, 256, (9, 6, 8, 3), dtype=np.uint8)
    counter = PictureSpread()
    for picture in pictures:
        counter.add(picture)
    figures = counter.finish()
    sampled = pictures[::4].reshape(-1, 3) / 255  # every fourth tick
    for name in ("min", "max", "mean", "std"):
        assert figures[name].shape == (3, 1, 1)
        np.testing.assert_allclose(figures[name][:, 0, 0], getattr(sampled, name)(axis=0), atol=1e-9)
    for name, quantile in QUANTILES.items():
        expected = np.quantile(sampled, quantile, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(figures[name][:, 0, 0], expected, atol=1e-9)
    assert figures["count"].tolist() == [9]


def test_plain_figures_are_lists():
    assert plain(spread(np.ones((3, 2))))["mean"] == [1.0, 1.0]
