from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from visuomotor.training.optim import (
    AdamW,
    Average,
    Muon,
    Optimizer,
    average_decay,
    clip_gradients,
    learning_rate,
    orthogonalized,
    picture_kernels,
    spared_from_decay,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layer = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 5, bias=False)
        self.gain = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)


def test_norms_biases_gains_and_embeddings_do_not_decay() -> None:
    assert spared_from_decay(Net()) == {
        "table.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "layer.weight",
        "layer.bias",
        "gain",
    }


def test_an_embedding_that_is_also_a_matrix_does_not_decay() -> None:
    net = Net()
    net.linear.weight = net.table.weight
    assert "table.weight" in spared_from_decay(net)


def random_gradients(net: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for weight in net.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn_like(weight)


def test_steps_are_those_of_the_paper() -> None:
    """Loshchilov & Hutter (2019), algorithm 2, with the decay multiplied by the rate as everywhere."""
    torch.manual_seed(0)
    net = Net()
    spared = spared_from_decay(net)
    optimizer = AdamW(net, weight_decay=0.1, betas=(0.9, 0.99))
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    slow = {name: [net.get_parameter(name).detach().double(), 0.0, 0.0] for name in names}
    for step in range(1, 5):
        random_gradients(net, step)
        for name, (weight, mean, square) in slow.items():
            gradient = net.get_parameter(name).grad.double()
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            move = (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
            slow[name] = [weight - 0.01 * (move + (0 if name in spared else 0.1) * weight), mean, square]
        optimizer.step(0.01)
    for name, (weight, _, _) in slow.items():
        assert torch.allclose(net.get_parameter(name).double(), weight, atol=1e-6), name


def test_the_optimizer_goes_on_from_its_state_with_equal_bits() -> None:
    torch.manual_seed(0)
    first, second = Net(), Net()
    one = AdamW(first, weight_decay=0.1, betas=(0.9, 0.99))
    random_gradients(first, 0)
    first.gain.grad = None  # a weight that was not used has taken no step
    one.step(0.1)
    second.load_state_dict(first.state_dict())
    two = AdamW(second, weight_decay=0.1, betas=(0.9, 0.99))
    two.restore({name: tensor.clone() for name, tensor in one.state.items()})
    assert two.state["steps/gain"] == 0
    for net, optimizer in ((first, one), (second, two)):
        random_gradients(net, 1)
        optimizer.step(0.1)
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
def test_an_orthogonalized_matrix_keeps_its_directions_and_evens_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.2, 3, shape[1]))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ orthogonalized(matrix) @ right.T  # what became of its singular values
    assert float((inside - torch.diag(inside.diagonal())).abs().max()) < 1e-3
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3


def test_a_step_without_gradient_is_none() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_kernels_move_as_in_torch(shape: tuple[int, int]) -> None:
    """Torch computes the orthogonal step in bfloat16."""
    torch.manual_seed(0)
    ours = nn.Conv2d(shape[1], shape[0], 1, bias=False)
    theirs = nn.Parameter(ours.weight.detach().flatten(1).clone())
    start = theirs.detach().clone()
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    muon = Muon(ours, ["weight"], weight_decay=0.1)
    for seed in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        ours.weight.grad, theirs.grad = gradient.view_as(ours.weight), gradient.clone()
        muon.step(0.02)
        other.step()
    moved, expected = ours.weight.detach().flatten(1) - start, theirs.detach() - start
    assert float((moved - expected).norm() / expected.norm()) < 0.02


def test_picture_kernels_move_on_their_own_and_everything_goes_on_with_equal_bits() -> None:
    assert picture_kernels(Net()) == {"conv.weight"}
    torch.manual_seed(0)
    first, second = Net(), Net()
    settings = {"weight_decay": 0.1, "betas": (0.9, 0.99), "kernel_rate": 0.02}
    one = Optimizer(first, **settings)
    assert {"momentum/conv.weight", "mean/linear.weight"} < set(one.state)
    assert "mean/conv.weight" not in one.state
    random_gradients(first, 0)
    one.step(0.1, share=1.0)
    second.load_state_dict(first.state_dict())
    two = Optimizer(second, **settings)
    two.restore({name: tensor.clone() for name, tensor in one.state.items()})
    before = second.conv.weight.clone()
    for net, optimizer in ((first, one), (second, two)):
        random_gradients(net, 1)
        optimizer.step(0.1, share=0.5)
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(before, second.conv.weight)
    two.clear_gradients()
    assert all(weight.grad is None for weight in second.parameters() if weight.requires_grad)


def test_without_a_rate_of_their_own_kernels_are_moved_as_all_weights() -> None:
    torch.manual_seed(0)
    first, second = Net(), Net()
    second.load_state_dict(first.state_dict())
    plain = AdamW(first, weight_decay=0.1, betas=(0.9, 0.99))
    whole = Optimizer(second, weight_decay=0.1, betas=(0.9, 0.99))
    for net in (first, second):
        random_gradients(net, 0)
    plain.step(0.1)
    whole.step(0.1, share=1.0)
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="ReLU: no trainable weight"):
        AdamW(nn.ReLU(), weight_decay=0.0, betas=(0.9, 0.99))


@given(st.integers(1, 50), st.integers(0, 30))
def test_the_rate_rises_then_falls_to_zero(steps: int, warmup: int) -> None:
    rates = [learning_rate(step, peak=2.0, warmup=warmup, steps=steps) for step in range(steps + 1)]
    top = min(warmup, steps)
    assert all(0 <= rate <= 2 for rate in rates)
    assert rates[0] > 0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if warmup < steps:
        assert rates[warmup] == 2
        assert abs(rates[steps]) < 1e-12


def test_the_rate_ends_at_the_asked_fraction() -> None:
    assert learning_rate(100, peak=2.0, warmup=10, steps=100, final=0.1) == pytest.approx(0.2)
    assert learning_rate(55, peak=2.0, warmup=10, steps=100) == pytest.approx(1.0)  # half way: half the peak


def test_gradients_are_scaled_to_the_limit_and_not_beyond() -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    assert float(clip_gradients(weights, 1.0)) == pytest.approx(28**0.5)
    assert float(torch.cat([w.grad for w in weights]).norm()) == pytest.approx(1, abs=1e-5)
    before = weights[0].grad.clone()
    clip_gradients(weights, 5.0)
    assert torch.equal(weights[0].grad, before)


def test_the_average_is_the_recursive_one_and_leaves_frozen_weights_alone() -> None:
    torch.manual_seed(0)
    net = Net()
    average = Average(net, decay=0.5)
    expected = net.linear.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            net.linear.weight += torch.randn_like(net.linear.weight)
        average.update(step)
        decay = average_decay(step, 0.5)
        expected = decay * expected + (1 - decay) * net.linear.weight.detach()
    assert torch.allclose(average.weights["linear.weight"], expected, atol=1e-6)
    assert average.weights["frozen.weight"].data_ptr() == net.frozen.weight.data_ptr()
    assert average.weights["norm.running_mean"].data_ptr() == net.norm.running_mean.data_ptr()


def test_the_average_starts_fast_and_goes_on_from_its_state() -> None:
    assert [average_decay(step, 0.999) for step in (0, 1, 10)] == [0.1, 2 / 11, 11 / 20]
    assert average_decay(100_000, 0.999) == 0.999
    # What the released code of Diffusion Policy computes: nothing is kept at the first two steps.
    power = [average_decay(step, 0.9999, "power") for step in (0, 1, 2, 10_000)]
    assert power == pytest.approx([0, 0, 1 - 2**-0.75, 0.999])
    assert average_decay(1_000_000, 0.9999, "power") == 0.9999
    net = Net()
    first = Average(net, decay=0.9)
    with torch.no_grad():
        net.linear.weight += 1
    first.update(7)
    second = Average(net, decay=0.9)
    second.restore({name: tensor.clone() for name, tensor in first.weights.items()})
    for average in (first, second):
        average.update(8)
    assert torch.equal(first.weights["linear.weight"], second.weights["linear.weight"])
    with pytest.raises(ValueError, match="decay in"):
        Average(net, decay=1.0)
    with pytest.raises(ValueError, match="law of the moving average"):
        Average(net, decay=0.9, law="powr")  # type: ignore[arg-type]


def test_without_decay_the_average_follows_the_weights() -> None:
    net = Net()
    average = Average(net, decay=0.0)
    with torch.no_grad():
        net.linear.weight += 1
    average.update(50)
    assert torch.equal(average.weights["linear.weight"], net.linear.weight)
