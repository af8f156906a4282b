from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.codecs.base import Codec, DecodeFailure
from visuomotor.codecs.bins import UniformBins

NUMBERS = st.floats(-1, 1, width=32)


@given(st.data(), st.integers(1, 1000), st.integers(1, 4), st.integers(1, 4))
def test_a_round_trip_stays_within_the_stated_bound(data, bins: int, horizon: int, action: int) -> None:
    codec = UniformBins(bins, horizon=horizon, action=action)
    actions = data.draw(hnp.arrays(np.float32, (horizon, action), elements=NUMBERS))
    tokens = codec.encode(actions)
    assert tokens.shape == (horizon * action,)
    assert ((tokens >= 0) & (tokens < codec.vocabulary)).all()
    back = codec.decode(tokens)
    assert back.shape == actions.shape
    assert np.abs(back.astype(np.float64) - actions).max() <= codec.error_bound


@given(hnp.arrays(np.int64, (6,), elements=st.integers(0, 255)))
def test_tokens_come_back_exactly(tokens: np.ndarray) -> None:
    codec = UniformBins(horizon=3, action=2)
    np.testing.assert_array_equal(codec.encode(codec.decode(tokens)), tokens)


def test_it_speaks_the_protocol() -> None:
    assert isinstance(UniformBins(horizon=1, action=1), Codec)


def test_the_ends_belong_to_the_outermost_cells_and_so_does_what_lies_beyond() -> None:
    codec = UniformBins(4, horizon=1, action=4)
    assert codec.encode(np.array([[-1.0, 1.0, -7.0, 7.0]])).tolist() == [0, 3, 0, 3]
    np.testing.assert_allclose(codec.decode(np.array([0, 1, 2, 3])), [[-0.75, -0.25, 0.25, 0.75]])


@pytest.mark.parametrize(
    ("tokens", "reason"), [([0, 1, 4], "got 4"), ([0, -1, 2], "got -1"), ([0, 1], "got 2"), ([], "got 0")]
)
def test_tokens_that_stand_for_nothing_are_a_typed_failure(tokens, reason) -> None:
    failure = UniformBins(4, horizon=1, action=3).decode(np.array(tokens, dtype=np.int64))
    assert isinstance(failure, DecodeFailure)
    assert reason in failure.reason
    assert failure.tokens == tuple(tokens)


def test_bad_arguments_are_refused() -> None:
    codec = UniformBins(4, horizon=1, action=3)
    with pytest.raises(ValueError, match=r"expected actions \(1, 3\)"):
        codec.encode(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="integer"):
        codec.decode(np.zeros(3))
    with pytest.raises(ValueError, match="positive"):
        UniformBins(0, horizon=1, action=3)
