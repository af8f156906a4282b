import pytest
import torch

from visuomotor.generative import cvae


def test_divergence_is_that_of_two_normal_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 8, generator=generator)
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(cvae.divergence(mean, log_variance), expected)
    assert float(cvae.divergence(torch.zeros(1, 8), torch.zeros(1, 8))) == 0


def test_draws_have_the_spread_of_the_posterior() -> None:
    mean, log_variance = torch.full((20_000, 2), 3.0), torch.tensor([0.0, -2.0]).expand(20_000, 2)
    found = cvae.draw(mean, log_variance, generator=torch.Generator().manual_seed(0))
    spread = torch.tensor([1.0, 0.3679])
    # Five standard errors of a mean and of a standard deviation of 20,000 draws.
    assert ((found.mean(0) - 3).abs() < 5 * spread / 20_000**0.5).all()
    torch.testing.assert_close(found.std(0), spread, rtol=5 / 40_000**0.5, atol=0)


def test_given_noise_is_used_and_gradients_pass() -> None:
    mean = torch.zeros(1, 2, requires_grad=True)
    log_variance = torch.full((1, 2), 2.0, requires_grad=True)
    found = cvae.draw(mean, log_variance, generator=None, noise=torch.tensor([[1.0, -1.0]]))
    assert found[0].tolist() == pytest.approx([2.7183, -2.7183], abs=1e-4)
    found.sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert mean.grad.tolist() == [[1, 1]]
    assert log_variance.grad[0].tolist() == pytest.approx([1.3591, -1.3591], abs=1e-4)
