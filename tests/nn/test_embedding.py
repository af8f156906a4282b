from __future__ import annotations

import math

import pytest
import torch

from visuomotor.nn.embedding import embed_time


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0])
def test_it_equals_the_formula_of_pi0(time: float) -> None:
    width = 16
    expected = []
    for wave in (math.sin, math.cos):
        for i in range(width // 2):
            period = 4e-3 * (4.0 / 4e-3) ** (i / (width // 2 - 1))
            expected.append(wave(2 * math.pi * time / period))
    # the fastest wave turns 250 times: float32 keeps its angle to 1e-4
    torch.testing.assert_close(
        embed_time(torch.tensor([time]), width)[0], torch.tensor(expected), rtol=0, atol=3e-4
    )


def test_any_leading_axes_are_kept() -> None:
    time = torch.rand(2, 3)
    assert torch.equal(embed_time(time, 8)[1, 2], embed_time(time[1, 2], 8))


def test_different_times_are_told_apart() -> None:
    waves = embed_time(torch.linspace(0, 1, 101), 64)
    distance = torch.cdist(waves, waves) + 100 * torch.eye(101)
    assert distance.min() > 0.1


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        embed_time(torch.zeros(1), 7)
