"""Our flow targets against torchcfm, live.

The mapping: their x0 is our `noise`, their x1 our `clean`, their t our flow time (0 is noise, 1 is
data in both), their x_t our `interpolate` and their u_t our `velocity_target`; sigma = 0 makes their
path straight and free of added noise. torchcfm takes one time for each element of a batch.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from visuomotor.generative import flow

SHAPE = (5, 16, 7)


@pytest.fixture
def matcher(monkeypatch: pytest.MonkeyPatch):
    """torchcfm's independent coupling. Its optimal transport, not tested here, imports POT."""
    monkeypatch.setitem(sys.modules, "ot", ModuleType("ot"))
    module = pytest.importorskip("torchcfm.conditional_flow_matching", reason="needs the extra [parity]")
    return module.ConditionalFlowMatcher(sigma=0.0)


def test_points_and_velocities_equal_those_of_torchcfm(matcher) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, clean = torch.randn(2, *SHAPE, generator=generator)
    time = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    _, points, velocity = matcher.sample_location_and_conditional_flow(noise, clean, t=time)
    # the same sums in another order of factors: one rounding of float32
    torch.testing.assert_close(flow.interpolate(noise, clean, time), points, rtol=0, atol=1e-6)
    assert torch.equal(flow.velocity_target(noise, clean), velocity)


def test_a_loss_equals_the_mean_of_torchcfms_targets(matcher) -> None:
    generator = torch.Generator().manual_seed(1)
    noise, clean = torch.randn(2, *SHAPE, generator=generator)
    torch.manual_seed(2)
    time, points, velocity = matcher.sample_location_and_conditional_flow(noise, clean)

    def network(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.tanh(points) * (1 + time[:, None, None])

    total, count = flow.loss(network, clean, generator=None, noise=noise, time=time)
    expected = torch.nn.functional.mse_loss(network(points, time), velocity)
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=0)  # a sum of 560 float32
