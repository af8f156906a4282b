"""The U-Net over time sees the whole chunk; tests/policies/test_diffusion.py counts its published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visuomotor.nn.unet1d import ConditionalUNet1D, StepWaves, TickConv, TickConvTranspose


def test_every_tick_depends_on_every_other_on_step_and_on_condition() -> None:
    torch.manual_seed(0)
    network = ConditionalUNet1D(2, 3, dims=(16, 32), step_width=8)
    chunk = torch.randn(1, 8, 2, requires_grad=True)
    step, condition = torch.tensor([3]), torch.randn(1, 3)
    found = network(chunk, step, condition)
    assert found.shape == chunk.shape
    (slope,) = torch.autograd.grad(found[0, 0].sum(), chunk)
    assert slope[0].abs().sum(-1).gt(0).all()
    assert not torch.allclose(found, network(chunk, step + 1, condition))
    assert not torch.allclose(found, network(chunk, step, condition + 1))


def test_step_waves_are_sines_then_cosines() -> None:
    waves = StepWaves(4)(torch.tensor([0, 2]))
    angles = torch.tensor([[0.0, 0.0], [2.0, 2e-4]])
    torch.testing.assert_close(waves, torch.cat([angles.sin(), angles.cos()], dim=-1))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (TickConv(3, 6, 5, padding=2), nn.Conv1d(3, 6, 5, padding=2)),
        (TickConv(3, 6, 3, 2, 1), nn.Conv1d(3, 6, 3, 2, 1)),
        (TickConv(3, 6, 1), nn.Conv1d(3, 6, 1)),
        (TickConvTranspose(3, 6, 4, 2, 1), nn.ConvTranspose1d(3, 6, 4, 2, 1)),
    ],
    ids=["wide", "to half", "shortcut", "to twice"],
)
def test_products_are_torchs_convolutions(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())
    for ticks in (2, 8):
        chunk = torch.randn(4, 3, ticks, generator=torch.Generator().manual_seed(ticks))
        # The same sums of at most 15 products, in another order.
        torch.testing.assert_close(ours(chunk), theirs(chunk), atol=1e-6, rtol=1e-5)
    found, expected = (
        torch.autograd.grad(layer(chunk).square().sum(), list(layer.parameters())) for layer in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_many_weights_for_few_ticks_are_the_same_convolution_while_acting(bias: bool) -> None:
    torch.manual_seed(0)
    ours = TickConv(512, 500, 5, padding=2, bias=bias)  # 1.3 million weights; 500 is no multiple of 16
    theirs = nn.Conv1d(512, 500, 5, padding=2, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    chunk = torch.randn(2, 512, 4)
    learned = ours(chunk)
    with torch.no_grad():
        # The same sums of 2560 products, in another order.
        torch.testing.assert_close(ours(chunk), theirs(chunk), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(chunk), learned, atol=1e-5, rtol=1e-5)
