import pytest
import torch
import torch.nn.functional as F

from visuomotor.nn.winograd import convolve, pays

SIZES = ((1, 30, 40), (2, 32, 18), (9, 15, 20), (1, 65, 64))  # frames, rows, columns: with and without a rest


def given(frames: int, height: int, across: int, channels: int = 128, out: int = 160) -> tuple:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(frames, channels, height, across, generator=generator).relu()
    weight = torch.randn(out, channels, 3, 3, generator=generator) * (2 / 9 / channels) ** 0.5
    return maps.to(memory_format=torch.channels_last), weight, torch.randn(out, generator=generator)


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution(size: tuple[int, int, int], side: int) -> None:
    maps, weight, bias = given(*size)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    found = convolve(maps, weight, bias, side)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # float32 with points up to 1.5: 1e-6 of numbers around 1 on average, the worst of 400,000 ten times that.
    assert (found - expected).abs().max() < 3e-5
    assert (found - expected).square().mean().sqrt() < 3e-6
    torch.testing.assert_close(
        convolve(maps.contiguous(), weight, side=side), found - bias[:, None, None], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_convolution(size: tuple[int, int, int], side: int) -> None:
    leaves = [value.requires_grad_() for value in given(*size)]
    exact = [value.detach().double().requires_grad_() for value in leaves]
    found, expected = convolve(*leaves, side), F.conv2d(*exact, padding=1)
    back = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, back),
        torch.autograd.grad(expected, exact, back.double()),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()  # float32, relative to the largest


def test_only_what_asks_gets_a_gradient() -> None:
    maps, weight, bias = given(1, 32, 32)
    convolve(maps, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None
    assert maps.grad is None


def test_it_pays_where_there_are_enough_tiles_and_channels() -> None:
    maps, weight, _ = given(1, 30, 40)
    assert pays(maps, weight)
    assert pays(maps[..., :16, :20], weight)  # 20 tiles of 4 x 4, 80 of 2 x 2
    assert not pays(maps[..., :8, :10], weight)  # 20 of 2 x 2
    assert not pays(maps[:, :64], weight[:, :64])
    assert not pays(maps.double(), weight.double())
    assert not pays(torch.zeros(64, 128, 1, 1), weight)  # most of a tile is beyond the border
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(maps, weight)
