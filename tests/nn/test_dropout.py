import pytest
import torch

from visuomotor.nn.dropout import drop


def test_the_share_is_dropped_and_the_rest_scaled_up() -> None:
    torch.manual_seed(0)
    values = torch.ones(3, 7, 50_001)
    found = drop(values, 0.1)
    # A million values: the share has a standard deviation of 0.0003.
    assert (found == 0).float().mean().item() == pytest.approx(0.1, abs=0.0015)
    kept = found[found != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.9), rtol=1e-4, atol=0)  # rounded share


def test_neighbors_are_dropped_independently() -> None:
    torch.manual_seed(1)
    gone = (drop(torch.ones(400_000), 0.5) == 0).view(-1, 4)  # the four of one draw
    both = (gone[:, :, None] & gone[:, None]).float().mean(0)
    expected = torch.full((4, 4), 0.25) + 0.25 * torch.eye(4)
    assert (both - expected).abs().max() < 0.01  # 100,000 draws: standard deviation 0.0016


def test_gradients_pass_where_values_did() -> None:
    values = torch.ones(1000, requires_grad=True)
    found = drop(values, 0.3)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


def test_a_seed_decides_and_nothing_is_dropped_while_acting() -> None:
    values = torch.randn(5, 5)
    assert drop(values, 0.5, training=False) is values
    assert drop(values, 0.0) is values
    first, second = (torch.manual_seed(3) and drop(values, 0.5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(drop(values.bfloat16(), 0.99999), torch.zeros(5, 5, dtype=torch.bfloat16))
