"""Shares, epochs, and an order that gives each batch its share of each data set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.data.mixture import PUBLISHED, Interleave, epoch, shares


def test_shares_are_weights_times_samples() -> None:
    assert shares({"a": 100, "b": 300}) == {"a": 0.25, "b": 0.75}
    assert shares({"a": 100, "b": 300}, {"a": 3.0}) == {"a": 0.5, "b": 0.5}


def test_an_epoch_shows_each_set_of_weight_one_once() -> None:
    assert epoch({"a": 100, "b": 300}) == 400
    assert epoch({"a": 100, "b": 300}, {"b": 0.5}) == 250  # 100 of a and 150 of b
    assert epoch({"a": 100, "b": 300}, {"a": 2.0}) == 500  # a is seen twice
    assert epoch({"a": 100, "b": 300}, {"a": 2.0, "b": 0.5}) == 175  # none has 1: a once


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"c": 1.0}, "data-set key"),
        ({"a": 0.0}, "positive"),
        ({"a": float("nan")}, "positive"),
        ({"a": -1.0}, "positive"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shares({"a": 1, "b": 1}, weights)


def test_published_weights_are_those_of_the_paper() -> None:
    assert len(PUBLISHED["oxe_magic_soup"]) == 23
    assert "droid" in PUBLISHED["oxe_magic_soup_plus"]
    last = PUBLISHED["oxe_magic_soup_plus_minus"]
    assert last["fractal20220817_data"] == 1.0
    assert "language_table" not in last
    assert "droid" not in last


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30),
    start=st.integers(0, 300_000),
    count=st.integers(1, 512),
    seed=st.integers(0, 1000),
)
def test_every_window_has_its_share_and_every_rank_comes_once(
    parts: list[float], start: int, count: int, seed: int
) -> None:
    order = Interleave(parts, seed)
    streams, ranks = order.take(start, count)
    fair = np.array(parts) / sum(parts) * count
    found = np.bincount(streams, minlength=len(parts))
    assert np.abs(found - fair).max() < 2 + 2 * np.log2(count + 1)  # discrepancy of van der Corput's sequence
    before, _ = order.take(0, start)
    for stream in range(len(parts)):
        begin = int((before == stream).sum())
        np.testing.assert_array_equal(ranks[streams == stream], begin + np.arange(found[stream]))


def test_the_order_is_a_function_of_the_seed() -> None:
    one, again, other = (Interleave([0.3, 0.7], seed).take(0, 64)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_the_smallest_share_comes_once_a_period() -> None:
    streams, ranks = Interleave([1e-9, 1.0], seed=0).take(0, 3 << 16)
    np.testing.assert_array_equal(ranks[streams == 0], [0, 1, 2])
