from __future__ import annotations

import numpy as np
import pytest
from executor_chunks import chunk
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.executors import Order, TemporalEnsemble


@given(
    st.floats(0, 1),
    st.sampled_from(["oldest_first", "uniform", "newest_first"]),
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=6, unique_by=lambda x: x[0]
    ),
    st.integers(0, 12),
)
def test_temporal_ensemble_is_the_weighted_mean_of_the_paper(
    coefficient: float, order: Order, chunks: list[tuple[int, int]], tick: int
) -> None:
    executor = TemporalEnsemble(coefficient, order=order)
    for start, length in sorted(chunks):
        executor.accept(chunk(start, [10 * start + i for i in range(length)]), start)
    votes = [10 * start + tick - start for start, length in sorted(chunks) if start <= tick < start + length]
    action = executor.action(tick)
    if not votes:
        assert action is None
    elif tick >= max(start for start, _ in chunks):  # of earlier ticks the chunks may be dropped
        places = range(len(votes))  # the votes stand in the order of their age, oldest first
        number = {
            "oldest_first": lambda i: i,
            "uniform": lambda i: 0,
            "newest_first": lambda i: places[-1] - i,
        }
        weights = [np.exp(-coefficient * number[order](i)) for i in places]
        expected = sum(w * v for w, v in zip(weights, votes)) / sum(weights)
        assert action[0] == pytest.approx(expected, rel=1e-5)  # the result is float32


def test_temporal_ensemble_favors_the_oldest_even_if_chunks_arrive_out_of_order() -> None:
    executor = TemporalEnsemble(1.0)
    executor.accept(chunk(1, [10, 10]), 1)
    executor.accept(chunk(0, [0, 0, 0]), 1)
    assert executor.action(1)[0] == pytest.approx(10 * np.exp(-1) / (1 + np.exp(-1)))


def test_temporal_ensemble_asks_every_tick_or_less_often() -> None:
    executor = TemporalEnsemble(every=2)
    executor.accept(chunk(0, [1, 1, 1, 1]), 0)
    assert [executor.wants(tick) for tick in range(5)] == [False, False, True, True, True]


def test_a_prediction_of_zero_is_counted_like_any_other() -> None:
    executor = TemporalEnsemble(0.0)
    executor.accept(chunk(0, [0, 0]), 0)
    executor.accept(chunk(1, [4, 4]), 1)
    assert executor.action(1)[0] == 2


def test_a_hundred_votes_weigh_the_oldest_as_published() -> None:
    executor = TemporalEnsemble()
    for start in range(100):
        executor.accept(chunk(start, [1.0 if start == 0 else 0.0] * 100), start)
    oldest = executor.action(99)[0]
    executor = TemporalEnsemble()
    for start in range(100):
        executor.accept(chunk(start, [1.0 if start == 99 else 0.0] * 100), start)
    assert oldest / executor.action(99)[0] == pytest.approx(np.exp(0.99), rel=1e-4)  # 2.69


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "at least 1"),
        ({"coefficient": -0.1}, 'order="newest_first"'),
        ({"order": "newest"}, "Did you mean 'newest_first'"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalEnsemble(**wrong)  # type: ignore[arg-type]
