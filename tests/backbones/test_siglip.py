from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visuomotor.backbones.siglip import (
    SigLIP,
    SigLIPConfig,
    load_siglip,
    load_siglip_weights,
    siglip_names,
)
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import unfilled

TINY = SigLIPConfig.tiny()


@pytest.fixture
def tower() -> SigLIP:
    torch.manual_seed(0)
    return SigLIP(TINY)


def published(network: SigLIP, prefix: str = "vision_model.") -> dict[str, Tensor]:
    """The weights as transformers writes them."""
    own = network.state_dict()
    return {prefix + str(spellings[0]): own[ours] for ours, spellings in siglip_names(network.config).items()}


def test_the_tower_of_pi0_has_as_many_weights_as_published() -> None:
    with unfilled():
        tower, head = SigLIP(SigLIPConfig.so400m()), nn.Linear(1152, 2048)
    count = sum(weight.numel() for network in (tower, head) for weight in network.parameters())
    assert count == 414_803_696  # openpi's SigLIP with its head to the width of Gemma
    assert tower.config.tokens == 256


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (SigLIPConfig.so400m(384), 729),
        (SigLIPConfig.so400m(448), 1024),
        (SigLIPConfig.base(), 196),
        (SigLIPConfig.large(), 256),
    ],
)
def test_published_sizes_have_so_many_tokens(config: SigLIPConfig, tokens: int) -> None:
    with unfilled():
        assert SigLIP(config).positions.shape == (tokens, config.width)
    assert config.tokens == tokens


def test_tokens_stand_row_by_row(tower: SigLIP) -> None:
    nn.init.zeros_(tower.positions)
    pictures = torch.zeros(1, 3, 32, 32)
    pictures[0, :, 8:16, 24:32] = 1  # second row, last column, of four
    with torch.no_grad():
        tokens = tower.embed(pictures)
    differs = (tokens - tokens[:, :1]).abs().sum(-1)[0]
    assert differs.nonzero().flatten().tolist() == [4 + 3]


def test_the_whole_is_its_layers_and_a_norm(tower: SigLIP) -> None:
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(tower(pictures), tower.norm(tower.after(pictures, 2)))
    assert torch.equal(tower.after(pictures, 2), tower.layers[1](tower.after(pictures, 1)))
    for layers in (-1, 3):
        with pytest.raises(ValueError, match="expected 0 to 2 layers"):
            tower.after(pictures, layers)


def test_the_exact_gelu_is_another_function(tower: SigLIP) -> None:
    exact = SigLIP(SigLIPConfig(**{**vars(TINY), "activation": "gelu"}))
    exact.load_state_dict(tower.state_dict())
    pictures = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        difference = float((exact(pictures) - tower(pictures)).abs().max())
    assert 1e-6 < difference < 1e-2


def test_pictures_of_another_size_are_refused(tower: SigLIP) -> None:
    with pytest.raises(ValueError, match="expected pictures of 32 x 32, got \\(32, 40\\)"):
        tower(torch.rand(1, 3, 32, 40))


def test_patches_may_keep_a_finer_type_than_the_layers(tower: SigLIP) -> None:
    pictures = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        plain = tower.embed(pictures)
        tower.bfloat16()
        tower.patches.float()
        tower.positions.data = tower.positions.data.float()
        mixed = tower.embed(pictures)
        assert tower(pictures).dtype == mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), plain, rtol=2e-2, atol=2e-2)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a width that 3 heads divide"):
        SigLIPConfig(width=32, heads=3)
    with pytest.raises(ValueError, match="a patch within the picture"):
        SigLIPConfig(image=8, patch=14)
    with pytest.raises(ValueError, match="Did you mean 'gelu_tanh'"):
        SigLIPConfig(activation="gelu_tan")  # type: ignore[arg-type]


def test_every_weight_gets_a_gradient(tower: SigLIP) -> None:
    tower(torch.rand(2, 3, 32, 32)).square().sum().backward()
    without = [name for name, weight in tower.named_parameters() if not weight.grad.any()]
    assert without == [f"layers.{layer}.attention.key.bias" for layer in range(2)] or without == []


@pytest.mark.parametrize(
    "prefix", ["", "vision_model.", "vision_tower.vision_model.", "model.vision_tower.vision_model."]
)
def test_prefixes_on_disk_are_understood(tower: SigLIP, prefix: str) -> None:
    weights = published(tower, prefix) | {
        f"{prefix}head.probe": torch.zeros(1),
        "text_model.final_layer_norm.weight": torch.zeros(1),
        "logit_scale": torch.zeros(1),
    }
    other = SigLIP(TINY)
    load_siglip_weights(other, weights)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in tower.state_dict().items())


BIAS = "vision_model.encoder.layers.1.mlp.fc1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(BIAS), rf"1 weights are missing \('{BIAS}'"),
        (lambda w: w.update({"vision_model.extra": torch.zeros(1)}), r"1 are unknown \('vision_model.extra'"),
        (
            lambda w: w.update({BIAS.replace("fc1", "fc_1"): w.pop(BIAS)}),
            rf"'{BIAS}' \(closest: 'vision_model.encoder.layers.1.mlp.fc_1.bias'\)",
        ),
        (
            lambda w: w.update({BIAS: torch.zeros(3)}),
            rf"'{BIAS}': expected shape \(64,\), got \(3,\)",
        ),
        (
            lambda w: w.update({name.replace("layers.1", "layers.2"): w[name] for name in list(w)}),
            r"0 weights are missing; 16 are unknown",
        ),
    ],
)
def test_planted_faults_are_found_and_named(
    tower: SigLIP, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    weights = published(tower)
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        load_siglip_weights(SigLIP(TINY), weights, "here")


def test_a_file_without_a_config_needs_one(tower: SigLIP, tmp_path: Path) -> None:
    path = tmp_path / "tower.safetensors"
    save_file(published(tower), path)
    with pytest.raises(CheckpointError, match=r"config.json: the file is missing.*pass a config"):
        load_siglip(path)
    found = load_siglip(path, config=TINY, dtype=torch.bfloat16)
    assert found.positions.dtype == torch.bfloat16
    assert torch.equal(found.positions, tower.positions.bfloat16())


def test_configs_leave_out_what_is_usual() -> None:
    assert SigLIPConfig.from_published({"model_type": "siglip_vision_model"}) == SigLIPConfig.base()
    gemma = {
        "model_type": "paligemma",
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "projection_dim": 2048,
        },
    }
    assert SigLIPConfig.from_published(gemma) == SigLIPConfig.so400m()


def test_configs_of_other_networks_are_refused() -> None:
    for data in ({"model_type": "clip_vision_model"}, {"hidden_act": "gelu"}, {"num_channels": 4}):
        with pytest.raises(CheckpointError, match="Choose a SigLIP vision tower"):
            SigLIPConfig.from_published(data)
