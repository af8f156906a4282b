"""Our DINOv2 beside those of transformers, through the files that they write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from visuomotor.backbones.dinov2 import DINOv2, DINOv2Config, load_dinov2
from visuomotor.nn.weights import unfilled

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="pip install -c constraints.txt '.[test]'")


def oracle_of(config: DINOv2Config) -> torch.nn.Module:
    """The same network in transformers, on the current device."""
    sizes = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "mlp_ratio": 4,
        "image_size": config.image,
        "patch_size": config.patch,
        "use_swiglu_ffn": config.feed == "gated",
    }
    if config.registers:
        settings = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=config.registers)
        return transformers.Dinov2WithRegistersModel(settings)
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


def tiny(registers: int, feed: str) -> DINOv2Config:
    hidden = 128 if feed == "plain" else 88  # two thirds of 128, rounded up to eights
    return DINOv2Config(
        width=32, layers=2, heads=2, hidden=hidden, feed=feed, image=28, patch=7, registers=registers
    )


def shaken_oracle(config: DINOv2Config) -> torch.nn.Module:
    torch.manual_seed(0)
    oracle = oracle_of(config).eval()
    for weight in oracle.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return oracle


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("feed", ["plain", "gated"])
def test_features_equal_those_of_transformers(tmp_path: Path, registers: int, feed: str) -> None:
    config = tiny(registers, feed)
    oracle = shaken_oracle(config)
    oracle.save_pretrained(tmp_path)
    ours = load_dinov2(tmp_path)
    assert ours.config == config
    for size in ((28, 28), (14, 49), (45, 30)):  # as learned, and resampled
        pictures = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = oracle(pixel_values=pictures, output_hidden_states=True)
            # float32 sums in another order
            torch.testing.assert_close(ours(pictures), expected.last_hidden_state, rtol=1e-5, atol=1e-5)
            for layers, states in enumerate(expected.hidden_states):
                torch.testing.assert_close(ours.after(pictures, layers), states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_resampled_once_give_the_same_features(tmp_path: Path, registers: int) -> None:
    shaken_oracle(tiny(registers, "plain")).save_pretrained(tmp_path)
    pictures = torch.randn(1, 3, 21, 21)
    with torch.no_grad():
        often, once = load_dinov2(tmp_path), load_dinov2(tmp_path, image=21)
        assert once.positions.shape == (1 + 9, 32)
        assert torch.equal(often(pictures), once(pictures))


@pytest.mark.parametrize(("feed", "layout"), [("plain", "timm"), ("gated", "timm"), ("gated", "authors")])
@pytest.mark.parametrize("scale", ["gamma", "scale_factor"])
def test_other_spellings_are_the_same_network(tmp_path: Path, feed: str, layout: str, scale: str) -> None:
    config = tiny(4, feed)
    shaken_oracle(config).save_pretrained(tmp_path)
    hub = load_file(tmp_path / "model.safetensors")
    places = hub["embeddings.position_embeddings"]
    start = hub["embeddings.cls_token"]
    timm = layout == "timm"
    renamed = {
        "cls_token": start + places[:, :1] if timm else start,
        "reg_token" if timm else "register_tokens": hub["embeddings.register_tokens"],
        "pos_embed": places[:, 1:] if timm else places,
    }
    if not timm:
        renamed["mask_token"] = hub["embeddings.mask_token"]
    into = {"plain": ("mlp.fc1", "mlp.fc2"), "gated": ("mlp.weights_in", "mlp.weights_out")}[feed]
    out = ("mlp.fc1", "mlp.fc2") if timm else ("mlp.w12", "mlp.w3")
    for part in ("weight", "bias"):
        renamed[f"patch_embed.proj.{part}"] = hub[f"embeddings.patch_embeddings.projection.{part}"]
        renamed[f"norm.{part}"] = hub[f"layernorm.{part}"]
        for layer in range(config.layers):
            theirs, ours = f"encoder.layer.{layer}.", f"blocks.{layer}."
            pairs = [("norm1", "norm1"), ("norm2", "norm2"), ("attn.proj", "attention.output.dense")]
            for new, old in [*pairs, *zip(out, into)]:
                renamed[f"{ours}{new}.{part}"] = hub[f"{theirs}{old}.{part}"]
            renamed[f"{ours}attn.qkv.{part}"] = torch.cat(
                [hub[f"{theirs}attention.attention.{name}.{part}"] for name in ("query", "key", "value")]
            )
    for layer in range(config.layers):
        for place in (1, 2):
            renamed[f"blocks.{layer}.ls{place}.{scale}"] = hub[
                f"encoder.layer.{layer}.layer_scale{place}.lambda1"
            ]
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, tmp_path / "other.safetensors")
    pictures = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        expected = load_dinov2(tmp_path)(pictures)
        found = load_dinov2(tmp_path / "other.safetensors", config=config)(pictures)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("config", [DINOv2Config.large(4), DINOv2Config.giant(0)])
def test_published_sizes_have_as_many_weights(config: DINOv2Config) -> None:
    with torch.device("meta"):
        oracle = oracle_of(config)
    with unfilled():
        ours = DINOv2(config)
    masked = oracle.embeddings.mask_token.numel()  # which only pretraining needs
    assert sum(w.numel() for w in ours.parameters()) + masked == sum(w.numel() for w in oracle.parameters())
