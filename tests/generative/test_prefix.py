from __future__ import annotations

import math

import numpy as np
import pytest

from visuomotor.generative.prefix import prefix_weights


def test_prefix_weights_equal_the_published_numbers() -> None:
    horizon, delay, execute = 8, 2, 3
    expected = []
    for i in range(horizon):
        c = (horizon - execute - i) / (horizon - execute - delay + 1)
        expected.append(
            1.0 if i < delay else c * (math.exp(c) - 1) / (math.e - 1) if i < horizon - execute else 0.0
        )
    found = prefix_weights(horizon, delay=delay, end=horizon - execute)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (np.diff(found) <= 0).all()


def test_a_prefix_as_long_as_the_delay_is_held_wholly() -> None:
    assert prefix_weights(5, delay=3, end=3).tolist() == [1, 1, 1, 0, 0]


def test_prefix_weights_refuse_an_impossible_order() -> None:
    with pytest.raises(ValueError, match="0 <= delay <= end <= horizon"):
        prefix_weights(4, delay=3, end=2)
