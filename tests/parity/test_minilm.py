"""Our BERT against the one of transformers, from the same file on disk."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from visuomotor.backbones.minilm import load_minilm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="needs the extra [test]")


def test_states_equal_those_of_transformers(tmp_path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=12,
        hidden_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=72,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    oracle = transformers.BertModel(config).eval()
    oracle.save_pretrained(tmp_path)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "put", "the", "red", "blue", "cube", "in", "bowl", "it"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = load_minilm(tmp_path)
    sentences = ["put the red cube in the blue bowl", "it", "the cube"]
    for sentence, states in zip(sentences, encoder.encode(sentences)):
        with torch.no_grad():
            expected = oracle(input_ids=torch.tensor([tokenizer.encode(sentence).ids])).last_hidden_state[0]
        np.testing.assert_allclose(states, expected.numpy(), atol=1e-5)  # float32 sums in another order


@pytest.mark.language
def test_published_states_equal_those_of_transformers() -> None:
    from visuomotor.backbones import minilm

    try:
        folder = minilm._packaged_folder()
    except minilm.CheckpointError:
        pytest.skip("the extra [language] is not installed")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "bert"
    oracle = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    encoder = load_minilm()
    sentences = ["Put the red cube in the blue bowl.", "lift it", "Crimson blocks, please: one on the tray"]
    for sentence, states in zip(sentences, encoder.encode(sentences)):
        with torch.no_grad():
            ids = torch.tensor([encoder.tokenizer.encode(sentence).ids])
            expected = oracle(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(states, expected.numpy(), atol=1e-5)  # float32 sums in another order
