from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from visuomotor.backbones.dinov2 import (
    DINOv2,
    DINOv2Config,
    dinov2_names,
    load_dinov2_weights,
    resample_positions,
)
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import Made, unfilled

TINY = DINOv2Config.tiny()


@pytest.fixture
def network() -> DINOv2:
    torch.manual_seed(0)
    return DINOv2(TINY)


def published(network: DINOv2) -> dict[str, Tensor]:
    """The weights as transformers writes them."""
    weights = {"embeddings.mask_token": torch.zeros(1, network.config.width)}
    for ours, spellings in dinov2_names(network.config).items():
        value, first = network.state_dict()[ours], spellings[0]
        if not isinstance(first, Made):
            weights[first] = value
        elif first.of:
            weights[first.of[0]] = value.reshape(1, -1, network.config.width)
    return weights


@pytest.mark.parametrize(
    ("config", "count"),
    [  # those of the hub's files, less the mask token that pretraining alone needs
        (DINOv2Config.small(0), 22_056_576),
        (DINOv2Config.base(0), 86_580_480),
        (DINOv2Config.large(0), 304_368_640),
        (DINOv2Config.giant(0), 1_136_480_768),
    ],
)
def test_published_sizes_have_so_many_weights(config: DINOv2Config, count: int) -> None:
    with unfilled():
        network = DINOv2(config)
    assert sum(weight.numel() for weight in network.parameters()) == count - config.width


def test_tokens_are_class_registers_and_patches_row_by_row(network: DINOv2) -> None:
    pictures = torch.zeros(1, 3, 16, 24)
    lit = pictures.clone()
    lit[0, :, 8:16, 8:16] = 1  # second row, second column, of two by three
    with torch.no_grad():
        differs = (network.embed(lit) - network.embed(pictures)).abs().sum(-1)[0]
    assert differs.shape == (1 + 4 + 6,)
    assert differs.nonzero().flatten().tolist() == [TINY.leading + 4]
    with torch.no_grad():
        tokens = network.embed(pictures)[0]
    assert torch.equal(tokens[0], network.start + network.positions[0])
    assert torch.equal(tokens[1:5], network.registers)


def test_resampled_positions_are_smooth_and_keep_the_first() -> None:
    ramp = torch.arange(5.0)[None].expand(5, 5).reshape(25, 1)  # grows with the column
    table = torch.cat([torch.full((1, 1), 9.0), ramp])
    assert resample_positions(table, 5, 5, antialias=True) is table
    found = resample_positions(table, 5, 10, antialias=False)
    assert found[0] == 9
    grid = found[1:].reshape(5, 10)
    assert torch.allclose(grid, grid[:1].expand(5, -1))
    assert bool((grid[0].diff()[1:-1] > 0.3).all())


def test_gated_layers_pass_what_the_gate_lets_through() -> None:
    network = DINOv2(DINOv2Config.tiny(feed="gated"))
    layer = network.layers[0]
    with torch.no_grad():
        layer.widen.weight[:64].zero_()
        layer.widen.bias[:64].fill_(-100)  # the gate's half, shut
        layer.narrow.bias.zero_()
        layer.attention_scale.zero_()
        tokens = torch.randn(1, 3, 32)
        assert torch.equal(layer(tokens), tokens)


def test_every_weight_gets_a_gradient() -> None:
    for feed in ("plain", "gated"):
        network = DINOv2(DINOv2Config.tiny(feed=feed))
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        without = {name for name, weight in network.named_parameters() if not weight.grad.any()}
        assert without <= {f"layers.{layer}.attention.key.bias" for layer in range(2)}


def test_bad_sizes_are_refused(network: DINOv2) -> None:
    with pytest.raises(ValueError, match="at least 8 pixels, got \\(7, 32\\)"):
        network(torch.zeros(1, 3, 7, 32))
    with pytest.raises(ValueError, match="expected 0 to 2 layers, got 3"):
        network.after(torch.zeros(1, 3, 32, 32), 3)
    with pytest.raises(ValueError, match="a width that 5 heads divide"):
        DINOv2Config(heads=5)
    with pytest.raises(ValueError, match="Did you mean 'gated'"):
        DINOv2Config(feed="gate")  # type: ignore[arg-type]


SCALE = "encoder.layer.1.layer_scale1.lambda1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(SCALE), rf"1 weights are missing \('{SCALE}'"),
        (lambda w: w.pop("embeddings.register_tokens"), r"missing \('embeddings.register_tokens'"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 are unknown \('extra'"),
        (
            lambda w: w.update({SCALE.replace("lambda1", "lambda"): w.pop(SCALE)}),
            rf"'{SCALE}' \(closest: 'encoder.layer.1.layer_scale1.lambda'\)",
        ),
        (
            lambda w: w.update({"embeddings.position_embeddings": torch.zeros(1, 10, 32)}),
            r"'embeddings.position_embeddings': expected shape \(17, 32\), got \(10, 32\)",
        ),
    ],
)
def test_planted_faults_are_found_and_named(
    network: DINOv2, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    weights = published(network)
    load_dinov2_weights(DINOv2(TINY), weights)
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        load_dinov2_weights(DINOv2(TINY), weights, "here")


def test_registers_of_a_file_are_not_dropped_silently(network: DINOv2) -> None:
    with pytest.raises(CheckpointError, match=r"1 are unknown \('embeddings.register_tokens'"):
        load_dinov2_weights(DINOv2(DINOv2Config.tiny(registers=0)), published(network))


def test_configs_of_other_networks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="got 'vit'"):
        DINOv2Config.from_published({"model_type": "vit"})
    with pytest.raises(CheckpointError, match="expected hidden_act 'gelu', got 'relu'"):
        DINOv2Config.from_published({"model_type": "dinov2", "hidden_act": "relu"})
    with pytest.raises(CheckpointError, match="expected the key 'use_swiglu_ffn'"):
        DINOv2Config.from_published({"model_type": "dinov2"})
