"""Our language models against those of transformers, from the same files on disk.

Tolerances: float32, sums in another order; scores are of size 1 to 10, so 1e-5 of the largest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from visuomotor.backbones.generation import generate
from visuomotor.backbones.language import load_language_model
from visuomotor.backbones.language_model import LanguageModel
from visuomotor.nn.mixture import Segment, run

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="needs the extra [test]")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500.0,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CASES = {
    "llama": ("Llama", {"num_key_value_heads": 4}),
    "llama, tied, linear": (
        "Llama",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        },
    ),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "gemma": ("Gemma", {"num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 6, "attn_logit_softcapping": 2.0}),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 5,
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 6,
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
}


def write(name: str, folder: Path):
    """A random model of transformers, saved as published, and the same in memory."""
    family, changes = CASES[name]
    kind = "Gemma3Text" if family == "Gemma3" else family
    sizes = SIZES | changes
    if family == "Qwen2":
        sizes = {key: value for key, value in sizes.items() if key != "head_dim"} | {"hidden_size": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="eager")
    torch.manual_seed(0)
    oracle = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, weight in oracle.named_parameters():  # norms and biases are constant at first
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            assert weight.std() > 0, key
    oracle.save_pretrained(folder)
    return oracle


@pytest.fixture(params=CASES)
def pair(request, tmp_path) -> tuple[LanguageModel, torch.nn.Module]:
    oracle = write(request.param, tmp_path)
    return load_language_model(tmp_path), oracle


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_scores_equal_those_of_transformers(pair) -> None:
    ours, oracle = pair
    given = ids(2, 17)  # longer than the windows
    expected = oracle(input_ids=given).logits
    assert expected.std() > 0.1
    assert_near(ours(given), expected)


@torch.no_grad()
def test_padding_on_either_side_leaves_real_tokens_as_they_are(pair) -> None:
    ours, oracle = pair
    given = ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 9:], mask[1, :4] = False, False
    scores = ours(given, mask)
    assert torch.isfinite(scores).all()
    for row, real in enumerate(mask):
        alone = oracle(input_ids=given[row][real][None]).logits[0]
        assert_near(scores[row][real], alone)
    changed = torch.where(mask, given, 7)
    torch.testing.assert_close(ours(changed, mask)[mask], scores[mask], rtol=0, atol=0)


@torch.no_grad()
def test_written_tokens_equal_those_of_transformers_and_of_no_cache(pair) -> None:
    ours, oracle = pair
    given = ids(3, 6)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 5 + [False]])
    written = generate(ours, ours.embed(given), mask, limit=9, stop=[2])
    for row, real in enumerate(mask):
        start = given[row][real][None]
        expected = oracle.generate(start, max_new_tokens=9, do_sample=False, pad_token_id=0)[0]
        assert written.rows()[row] == expected[start.shape[1] :].tolist()
        for _ in range(len(written.rows()[row])):
            start = torch.cat([start, ours(start)[:, -1:].argmax(-1)], dim=1)
        assert written.rows()[row] == start[0, real.sum() :].tolist()


def test_older_keys_of_a_config_are_understood(tmp_path) -> None:
    """As published before version 5 of transformers: rope_theta, rope_scaling, no layer_types."""
    for name, older in {
        "llama3": {"rope_theta": 500.0, "rope_scaling": {**LLAMA3, "rope_theta": None}},
        "gemma3": {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"type": "linear", "factor": 8.0},
        },
        "gemma2": {"rope_theta": 1e4},
        "qwen2": {"rope_theta": 1e4},
    }.items():
        folder = tmp_path / name
        write(name, folder)
        config = load_language_model(folder).config
        stated = json.loads((folder / "config.json").read_text())
        for key in ("rope_parameters", "layer_types"):
            stated.pop(key, None)
        if "rope_scaling" in older:
            older["rope_scaling"].pop("rope_theta", None)
        (folder / "config.json").write_text(json.dumps(stated | older))
        assert load_language_model(folder).config == config


def seeing(kind: str):
    """A small model of transformers that also sees."""
    text = {**SIZES, "vocab_size": 60, "num_key_value_heads": 1}
    eyes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "PaliGemma":
        config = transformers.PaliGemmaConfig(
            text_config={**text, "model_type": "gemma"},
            vision_config={**eyes, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
            projection_dim=24,
            image_token_id=59,
        )
        return transformers.PaliGemmaForConditionalGeneration(config)
    if kind == "Gemma3":
        config = transformers.Gemma3Config(
            text_config={**text, "model_type": "gemma3_text", "sliding_window": 5},
            vision_config={**eyes, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
            image_token_index=59,
        )
        return transformers.Gemma3ForConditionalGeneration(config)
    config = transformers.SmolVLMConfig(
        text_config={**text, "model_type": "llama", "head_dim": 6},
        vision_config={**eyes, "image_size": 28, "patch_size": 14},
        image_token_id=59,
        scale_factor=2,
    )
    return transformers.SmolVLMForConditionalGeneration(config)


@pytest.mark.parametrize("kind", ["PaliGemma", "Gemma3", "SmolVLM"])
@torch.no_grad()
def test_the_language_model_inside_one_that_also_sees_is_read(tmp_path, kind) -> None:
    torch.manual_seed(0)
    oracle = seeing(kind).eval()
    oracle.save_pretrained(tmp_path)
    inner = oracle.model.text_model if kind == "SmolVLM" else oracle.model.language_model
    ours = load_language_model(tmp_path)
    given = ids(2, 9)
    expected = inner(input_ids=given).last_hidden_state
    causal = kind != "PaliGemma"  # its tokens see each other both ways
    (found,), _ = run([ours.decoder], [Segment(tokens=ours.embed(given), causal=causal)])
    assert_near(found, expected)
    assert_near(ours.score(found), oracle.lm_head(expected))
