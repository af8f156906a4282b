"""Our SigLIP beside the one of transformers, through the files that it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from visuomotor.backbones.siglip import SigLIP, SigLIPConfig, load_siglip
from visuomotor.nn.weights import unfilled

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="pip install -c constraints.txt '.[test]'")

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 30,  # two pixels are left over
    "patch_size": 7,
}


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every one of them shows in the features."""
    torch.manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network.eval()


def tower(**more: object) -> torch.nn.Module:
    return shaken(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, **more)))


@pytest.mark.parametrize("pooled", [True, False])
def test_features_equal_those_of_transformers(tmp_path: Path, pooled: bool) -> None:
    oracle = tower(vision_use_head=pooled)
    oracle.save_pretrained(tmp_path)
    ours = load_siglip(tmp_path)
    pictures = torch.rand(2, 3, 30, 30) * 2 - 1
    with torch.no_grad():
        expected = oracle(pixel_values=pictures, output_hidden_states=True)
        # float32 sums in another order
        torch.testing.assert_close(ours(pictures), expected.last_hidden_state, rtol=1e-5, atol=1e-5)
        for layers, states in enumerate(expected.hidden_states[:-1]):
            torch.testing.assert_close(ours.after(pictures, layers), states, rtol=1e-5, atol=1e-5)


def test_the_tower_of_a_whole_siglip_is_found(tmp_path: Path) -> None:
    text = {
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 8,
        "projection_size": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = transformers.SiglipConfig(text_config=text, vision_config=SIZES)
    oracle = shaken(transformers.SiglipModel(config))
    oracle.save_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 30, 30) * 2 - 1
    with torch.no_grad():
        expected = oracle.vision_model(pixel_values=pictures).last_hidden_state
        torch.testing.assert_close(load_siglip(tmp_path)(pictures), expected, rtol=1e-5, atol=1e-5)


def test_a_tower_in_several_files_is_the_same(tmp_path: Path) -> None:
    oracle = tower()
    oracle.save_pretrained(tmp_path / "one")
    oracle.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    pictures = torch.rand(1, 3, 30, 30)
    with torch.no_grad():
        one, many = load_siglip(tmp_path / "one"), load_siglip(tmp_path / "many")
        assert torch.equal(one(pictures), many(pictures))


def test_the_spelling_of_timm_is_the_same_tower(tmp_path: Path) -> None:
    tower().save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    renamed = {
        "patch_embed.proj.weight": theirs["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": theirs["embeddings.patch_embedding.bias"],
        "pos_embed": theirs["embeddings.position_embedding.weight"][None],
        "norm.weight": theirs["post_layernorm.weight"],
        "norm.bias": theirs["post_layernorm.bias"],
        "attn_pool.latent": torch.zeros(1, 1, 32),
    }
    for layer in range(3):
        for part in ("weight", "bias"):
            source = f"encoder.layers.{layer}."
            for ours, name in (
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("attn.proj", "self_attn.out_proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                renamed[f"blocks.{layer}.{ours}.{part}"] = theirs[f"{source}{name}.{part}"]
            renamed[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat(
                [theirs[f"{source}self_attn.{name}_proj.{part}"] for name in "qkv"]
            )
    save_file(renamed, tmp_path / "timm.safetensors")
    pictures = torch.rand(1, 3, 30, 30)
    with torch.no_grad():
        expected = load_siglip(tmp_path)(pictures)
        config = load_siglip(tmp_path).config
        found = load_siglip(tmp_path / "timm.safetensors", config=config)(pictures)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("config", [SigLIPConfig.base(), SigLIPConfig.so400m()])
def test_published_sizes_have_as_many_weights(config: SigLIPConfig) -> None:
    with torch.device("meta"):
        oracle = transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.image,
                patch_size=config.patch,
                vision_use_head=False,
            )
        )
    with unfilled():
        ours = SigLIP(config)
    assert sum(w.numel() for w in ours.parameters()) == sum(w.numel() for w in oracle.parameters())
