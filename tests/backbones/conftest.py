from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from visuomotor.backbones.minilm import Bert, BertConfig, published_names

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "put",
    "the",
    "red",
    "blue",
    "cube",
    "in",
    "bowl",
    "##s",
    ",",
    ".",
]


def tiny_tokenizer() -> Tokenizer:
    """WordPiece over a few words, with padding and cutting switched on as in the published file."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(8)
    return tokenizer


@pytest.fixture
def tiny_network() -> Bert:
    torch.manual_seed(0)
    network = Bert(BertConfig.tiny(len(WORDS)))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


@pytest.fixture
def write_folder(tmp_path, tiny_network):
    """Writes a tiny model as it would be published; names and config can be changed on the way."""

    def write(rename=lambda name: name, extra=None, **config) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        sizes = tiny_network.config
        published = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "intermediate_size": sizes.hidden,
            "max_position_embeddings": sizes.positions,
            "type_vocab_size": sizes.kinds,
            "layer_norm_eps": sizes.epsilon,
        }
        (folder / "config.json").write_text(json.dumps(published | config))
        tiny_tokenizer().save(str(folder / "tokenizer.json"))
        own = tiny_network.state_dict()
        tensors = {rename(theirs): own[ours].contiguous() for ours, theirs in published_names(sizes).items()}
        tensors = {name: tensor for name, tensor in tensors.items() if name}
        save_file(tensors | (extra or {}), folder / "model.safetensors")
        return folder

    return write
