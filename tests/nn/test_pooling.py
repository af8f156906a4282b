from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.nn.pooling import SpatialSoftArgmax


def slow_soft_argmax(maps: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    batch, channels, height, width = maps.shape
    answer = np.zeros((batch, channels, 2))
    for b in range(batch):
        for c in range(channels):
            heat = np.exp((maps[b, c] - maps[b, c].max()) / temperature[c])
            heat /= heat.sum()
            for row in range(height):
                for column in range(width):
                    place = np.array([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1])
                    answer[b, c] += heat[row, column] * place
    return answer


def test_it_equals_the_slow_definition() -> None:
    torch.manual_seed(0)
    pool = SpatialSoftArgmax(3)
    torch.nn.init.normal_(pool.log_temperature)
    maps = torch.randn(2, 3, 4, 6) * 3
    expected = slow_soft_argmax(maps.double().numpy(), pool.log_temperature.detach().double().exp().numpy())
    np.testing.assert_allclose(pool(maps).detach().numpy(), expected, atol=1e-6)  # float32 sums of 24 numbers


@settings(deadline=None, max_examples=30)
@given(row=st.integers(0, 4), column=st.integers(0, 6))
def test_a_lonely_bright_cell_is_found_exactly(row: int, column: int) -> None:
    maps = torch.zeros(1, 1, 5, 7)
    maps[0, 0, row, column] = 200.0
    x, y = SpatialSoftArgmax(1)(maps)[0, 0].tolist()
    assert x == pytest.approx(2 * column / 6 - 1, abs=1e-6)
    assert y == pytest.approx(2 * row / 4 - 1, abs=1e-6)


def test_a_flat_map_points_to_the_center_and_all_answers_stay_inside() -> None:
    pool = SpatialSoftArgmax(2)
    torch.testing.assert_close(pool(torch.ones(1, 2, 5, 5)), torch.zeros(1, 2, 2), rtol=0, atol=1e-6)
    assert (pool(torch.randn(4, 2, 5, 5) * 1e4).abs() <= 1 + 1e-6).all()


def test_coordinates_are_float32_under_autocast() -> None:
    maps = torch.randn(1, 1, 12, 12)
    pool = SpatialSoftArgmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pool(maps)
    assert found.dtype == torch.float32
    assert torch.equal(found, pool(maps))


def test_a_single_row_or_column_has_coordinate_zero() -> None:
    found = SpatialSoftArgmax(1)(torch.tensor([[[[0.0, 200.0]]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0]]]))


def test_temperature_is_learned() -> None:
    pool = SpatialSoftArgmax(1)
    pool(torch.randn(1, 1, 4, 4))[0, 0, 0].backward()
    assert pool.log_temperature.grad.abs() > 0


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        SpatialSoftArgmax(1, temperature=0.0)
