"""PaliGemma against transformers' implementation: a random tiny model, written by it and read by ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visuomotor.backbones.paligemma import (
    PaliGemma,
    PaliGemmaConfig,
    config_from_published,
    load_paligemma,
)

transformers = pytest.importorskip("transformers", reason="the oracle; it is in the test extra")

VOCABULARY, IMAGE = 64, 63
SIZES: dict[str, Any] = {
    "text_config": {
        "model_type": "gemma",
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": VOCABULARY,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "vision_use_head": False,
    },
    "projection_dim": 24,
    "image_token_id": IMAGE,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PaliGemma]:
    """The oracle and ours with its weights."""
    folder = tmp_path_factory.mktemp("paligemma")
    torch.manual_seed(0)
    oracle = transformers.PaliGemmaForConditionalGeneration(transformers.PaliGemmaConfig(**SIZES)).eval()
    for weight in oracle.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    oracle.save_pretrained(folder)
    return oracle, load_paligemma(Path(folder))


def test_scores_of_an_answer_equal_the_oracle(pair: tuple[Any, PaliGemma]) -> None:
    oracle, ours = pair
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 1, 3, 32, 32, generator=generator) * 2 - 1
    prompt = torch.randint(0, 60, (2, 5), generator=generator)
    answer = torch.randint(0, 60, (2, 3), generator=generator)
    ids = torch.cat([torch.full((2, 4), IMAGE), prompt, answer], dim=1)
    kinds = torch.cat([torch.zeros(2, 9), torch.ones(2, 3)], dim=1).long()
    with torch.no_grad():
        expected = oracle(input_ids=ids, pixel_values=pictures[:, 0], token_type_ids=kinds).logits[:, -3:]
        found = ours(pictures, prompt, answer)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, sums in another order


def test_the_published_config_has_rows_for_alignment() -> None:
    """As the hub has it, with the keys that differ from what transformers assumes."""
    published = {
        "model_type": "paligemma",
        "text_config": {
            "model_type": "gemma",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_attention_heads": 8,
            "num_hidden_layers": 18,
            "num_key_value_heads": 1,
            "vocab_size": 257216,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "image_size": 224,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
    assert config_from_published(published) == PaliGemmaConfig.padded()


def test_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = PaliGemma(PaliGemmaConfig())
    parts = {name: sum(w.numel() for w in part.parameters()) for name, part in network.named_children()}
    assert parts["vision"] + parts["project"] == 414_803_696
    assert parts["language"] == 1_981_884_416 + 526_647_296
