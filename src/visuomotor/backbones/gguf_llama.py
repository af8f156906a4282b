"""A Llama in a GGUF file, under the names and in the order of published safetensors.

llama.cpp turns neighbors of a head (0 with 1, 2 with 3) where published weights turn the halves (0 with
n/2), so its converter interleaves the rows of queries and keys. Here they are put back; a model that is
read without that writes nonsense.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.backbones.gguf import GGUF
from visuomotor.backbones.language_model import LanguageModelConfig
from visuomotor.errors import CheckpointError
from visuomotor.nn.decoder import DecoderConfig

__all__ = ["gguf_config", "gguf_weights"]

_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_config(gguf: GGUF) -> LanguageModelConfig:
    """Sizes and conventions of a Llama, from the metadata of its file.

    Raises:
        CheckpointError: It is another architecture, or its rotary angles are slowed.
    """
    kind = gguf.value("general.architecture", str)
    if kind != "llama":
        raise CheckpointError(
            f"{gguf.where}: its architecture is {kind!r}; from GGUF only 'llama' (Llama, SmolLM2) is read. "
            "Use the model's safetensors instead."
        )
    scaling = gguf.value("llama.rope.scaling.type", str, "none")
    if scaling != "none" or "rope_freqs.weight" in gguf.tensors:
        raise CheckpointError(
            f"{gguf.where}: its rotary angles are slowed ({scaling}), which is not read from GGUF. "
            "Use the model's safetensors instead."
        )
    width = gguf.value("llama.embedding_length", int)
    heads = gguf.value("llama.attention.head_count", int)
    decoder = DecoderConfig(
        width=width,
        layers=gguf.value("llama.block_count", int),
        heads=heads,
        kv_heads=gguf.value("llama.attention.head_count_kv", int, heads),
        head_width=gguf.value("llama.rope.dimension_count", int, width // max(heads, 1)),
        mlp_width=gguf.value("llama.feed_forward_length", int),
        rope_base=gguf.value("llama.rope.freq_base", float, 10_000.0),
        norm_eps=float(f"{gguf.value('llama.attention.layer_norm_rms_epsilon', float):.6g}"),  # was float32
    )
    words = gguf.tensors.get("token_embd.weight")
    if words is None:
        raise CheckpointError(f"{gguf.where}: expected a tensor 'token_embd.weight'. Is it a language model?")
    return LanguageModelConfig(
        decoder=decoder, vocabulary=words.shape[0], tied="output.weight" not in gguf.tensors
    )


def gguf_weights(gguf: GGUF, config: LanguageModelConfig) -> dict[str, Tensor]:
    """The tensors of a file by their published names, unpacked; those that are not known keep their names.

    Args:
        gguf: The file.
        config: What `gguf_config` gives, or the first layers of it: those behind them are not read.
    """
    published = {inner: outer for outer, inner in _OUTER.items()}
    for level in range(config.decoder.layers):
        for outer, inner in _LAYER.items():
            published[f"blk.{level}.{inner}.weight"] = f"model.layers.{level}.{outer}.weight"
    turned = {"attn_q": config.decoder.heads, "attn_k": config.decoder.kv_heads}
    weights = {}
    depth = gguf.value("llama.block_count", int)
    behind = tuple(f"blk.{level}." for level in range(config.decoder.layers, depth))
    for name in gguf.tensors:
        if name.startswith(behind):
            continue
        tensor = torch.from_numpy(gguf.read(name))
        heads = next((count for part, count in turned.items() if f".{part}." in name), None)
        weights[published.get(name, name)] = tensor if heads is None else halves(tensor, heads)
    return weights


def halves(weights: Float[Tensor, "row width"], heads: int) -> Float[Tensor, "row width"]:
    """Rows of queries or keys in which partners are neighbors to ones in which they are half a head apart."""
    pairs = weights.unflatten(0, (heads, -1, 2))  # row width -> head pair partner width
    return pairs.transpose(1, 2).flatten(0, 2)  # head partner pair width -> row width
