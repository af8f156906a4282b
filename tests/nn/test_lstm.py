"""The LSTM computes what torch's does, and padding in front is as if it had never been."""

from __future__ import annotations

import torch
from torch import nn

from visuomotor.nn.lstm import LSTM


def pair(layers: int) -> tuple[LSTM, nn.LSTM]:
    torch.manual_seed(0)
    theirs = nn.LSTM(3, 5, num_layers=layers, batch_first=True)
    ours = LSTM(3, 5, layers)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def test_it_is_torchs_lstm() -> None:
    ours, theirs = pair(2)
    ticks = torch.randn(4, 6, 3)
    found, expected = ours(ticks, torch.ones(4, 6, dtype=torch.bool)), theirs(ticks)[0]
    torch.testing.assert_close(found, expected)
    grads = [
        torch.autograd.grad(answer.square().sum(), tuple(network.parameters()))
        for answer, network in ((found, ours), (expected, theirs))
    ]
    for mine, reference in zip(*grads, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)  # sums in another order


def test_padding_in_front_is_as_if_it_had_never_been() -> None:
    ours, theirs = pair(2)
    ticks = torch.randn(4, 6, 3)
    for real in range(1, 7):
        mask = torch.arange(6).expand(4, 6) >= 6 - real
        absurd = torch.where(mask[..., None], ticks, torch.full_like(ticks, 1e6))
        found = ours(absurd, mask)
        torch.testing.assert_close(found[:, -real:], theirs(ticks[:, -real:])[0])
        assert not found[:, :-real].any()


def test_new_weights_are_spread_like_torchs() -> None:
    _, theirs = pair(1)
    fresh = LSTM(3, 5, 1)
    assert {name: tuple(w.shape) for name, w in fresh.named_parameters()} == {
        name: tuple(w.shape) for name, w in theirs.named_parameters()
    }
    assert max(float(weight.detach().abs().max()) for weight in fresh.parameters()) <= 5**-0.5
