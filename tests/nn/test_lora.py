from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from visuomotor.agent.weights import named_weights
from visuomotor.errors import UnknownNameError
from visuomotor.nn.lora import (
    LoRAConfig,
    LoRALinear,
    adapt,
    adapted_layers,
    describe_adapters,
    merge,
    merged_tensors,
    restore_adapters,
)


class Network(nn.Module):
    """Calls one layer, and multiplies with half of the weight of another, as published code does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return nn.functional.linear(x, self.last.weight[:, 8:], self.last.bias)


CONFIG = LoRAConfig(rank=2, alpha=8.0)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def seen() -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(3))


def disturb(network: nn.Module) -> None:
    """Corrections as after training."""
    generator = torch.Generator().manual_seed(1)
    for layer in adapted_layers(network).values():
        layer.lora_up.data.normal_(std=0.3, generator=generator)


def test_a_fresh_adapter_changes_no_bit_and_no_name(network: Network) -> None:
    before, names = network(seen()), set(named_weights(network))
    adapt(network, CONFIG)
    assert torch.equal(network(seen()), before)
    assert names < set(named_weights(network))
    disturb(network)
    assert not torch.allclose(network(seen()), before, atol=0.1)


def test_the_correction_is_that_of_the_paper(network: Network) -> None:
    adapt(network, CONFIG)
    disturb(network)
    layer = network.first
    assert isinstance(layer, LoRALinear)
    delta = 8.0 / 2 * layer.lora_up @ layer.lora_down
    expected = seen() @ (layer.base + delta).T + layer.bias
    assert torch.allclose(layer(seen()), expected, atol=1e-6)
    assert torch.allclose(layer.weight, layer.base + delta)


def test_merged_equals_unmerged(network: Network) -> None:
    adapt(network, CONFIG)
    disturb(network)
    adapted, described = network(seen()), describe_adapters(network)
    assert described is not None
    tensors = merged_tensors(named_weights(network), described)
    assert set(merge(network)) == {"first", "blocks.0", "blocks.1", "last"}
    assert not adapted_layers(network)
    assert torch.allclose(network(seen()), adapted, atol=1e-5)
    plain = named_weights(network)
    assert set(plain) == set(tensors)
    assert all(torch.equal(plain[name], tensors[name]) for name in plain)


def test_adapters_come_back_from_what_was_written_down(network: Network) -> None:
    other = copy.deepcopy(network)
    adapt(network, LoRAConfig(rank=3, targets=("blocks", "last")))
    disturb(network)
    described = describe_adapters(network)
    assert described == {"rank": 3, "alpha": 16.0, "layers": ["blocks.0", "blocks.1", "last"]}
    restore_adapters(other, described)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(seen()), network(seen()))
    assert describe_adapters(copy.deepcopy(other)) == described


def test_every_adapter_gets_gradient_also_where_the_weight_is_read(network: Network) -> None:
    adapt(network, CONFIG)
    disturb(network)
    network(seen()).square().sum().backward()
    for name, layer in adapted_layers(network).items():
        assert layer.lora_up.grad is not None, name
        assert layer.lora_up.grad.any(), name
        assert layer.lora_down.grad is not None, name
        assert layer.lora_down.grad.any(), name


def test_the_generator_decides_the_first_numbers(network: Network) -> None:
    drawn = []
    for seed in (0, 0, 1):
        one = copy.deepcopy(network)
        adapt(one, CONFIG, generator=torch.Generator().manual_seed(seed))
        drawn.append(named_weights(one)["first.lora_down"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_what_cannot_be_adapted_is_refused(network: Network) -> None:
    with pytest.raises(UnknownNameError, match=r"linear layers to adapt: the pattern 'block'.*'blocks'"):
        adapt(network, LoRAConfig(rank=2, targets=("block",)))
    network.blocks[1].weight = network.blocks[0].weight
    with pytest.raises(ValueError, match=r"weight of 'blocks\.0' is shared \(blocks\.0\.weight, blocks\.1"):
        adapt(network, CONFIG)
    adapt(network, LoRAConfig(rank=2, targets=("first",)))
    with pytest.raises(ValueError, match="has adapters already"):
        adapt(network, CONFIG)
    with pytest.raises(ValueError, match="has no layer 'second'"):
        restore_adapters(Network(), {"rank": 1, "alpha": 1.0, "layers": ["second"]})
    with pytest.raises(ValueError, match="expected rank >= 0 and a positive alpha"):
        LoRAConfig(rank=-1)
