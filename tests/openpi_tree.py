"""Trees of openpi's JAX models with random weights: small, with released names and shapes."""

from __future__ import annotations

import numpy as np

from visuomotor.backbones.paligemma import PaliGemmaConfig

NARROW, HIDDEN = 16, 32  # of the expert


def shapes(sizes: PaliGemmaConfig, *, steered: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape, as the released trees have them; the layer is the first axis."""
    vision, text = sizes.vision, sizes.language.decoder
    wide, deep, heads = vision.width, vision.layers, vision.heads
    found: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (vision.patch, vision.patch, 3, wide),
        "img/embedding/bias": (wide,),
        "img/pos_embedding": (1, vision.tokens, wide),
        "img/Transformer/encoder_norm/scale": (wide,),
        "img/Transformer/encoder_norm/bias": (wide,),
        "img/head/kernel": (wide, text.width),
        "img/head/bias": (text.width,),
        "llm/embedder/input_embedding": (sizes.language.vocabulary, text.width),
    }
    block = "img/Transformer/encoderblock/"
    for number, (inner, outer) in enumerate(((wide, vision.hidden), (vision.hidden, wide))):
        found[f"{block}LayerNorm_{number}/scale"] = found[f"{block}LayerNorm_{number}/bias"] = (deep, wide)
        found[f"{block}MlpBlock_0/Dense_{number}/kernel"] = (deep, inner, outer)
        found[f"{block}MlpBlock_0/Dense_{number}/bias"] = (deep, outer)
    attention = block + "MultiHeadDotProductAttention_0/"
    for name in ("query", "key", "value"):
        found[f"{attention}{name}/kernel"] = (deep, wide, heads, wide // heads)
        found[f"{attention}{name}/bias"] = (deep, heads, wide // heads)
    found[f"{attention}out/kernel"], found[f"{attention}out/bias"] = (
        (deep, heads, wide // heads, wide),
        (deep, wide),
    )
    levels, head = text.layers, text.head_width
    for mark, width, hidden in (("", text.width, text.mlp_width), ("_1", NARROW, HIDDEN)):
        found[f"llm/layers/attn/q_einsum{mark}/w"] = (levels, text.heads, width, head)
        found[f"llm/layers/attn/kv_einsum{mark}/w"] = (levels, 2, text.kv_heads, width, head)
        found[f"llm/layers/attn/attn_vec_einsum{mark}/w"] = (levels, text.heads, head, width)
        found[f"llm/layers/mlp{mark}/gating_einsum"] = (levels, 2, width, hidden)
        found[f"llm/layers/mlp{mark}/linear"] = (levels, hidden, width)
        for norm, first in (
            ("layers/pre_attention_norm", (levels,)),
            ("layers/pre_ffw_norm", (levels,)),
            ("final_norm", ()),
        ):
            if steered and mark:
                found[f"llm/{norm}{mark}/Dense_0/kernel"] = (*first, width, 3 * width)
                found[f"llm/{norm}{mark}/Dense_0/bias"] = (*first, 3 * width)
            else:
                found[f"llm/{norm}{mark}/scale"] = (*first, width)
    found = {f"PaliGemma/{name}": shape for name, shape in found.items()}
    projections = {"action_in_proj": (32, NARROW), "action_out_proj": (NARROW, 32)}
    if steered:
        projections |= {"time_mlp_in": (NARROW, NARROW), "time_mlp_out": (NARROW, NARROW)}
    else:
        projections |= {"state_proj": (32, NARROW), "action_time_mlp_in": (2 * NARROW, NARROW)}
        projections |= {"action_time_mlp_out": (NARROW, NARROW)}
    for name, (inner, outer) in projections.items():
        found[f"{name}/kernel"], found[f"{name}/bias"] = (inner, outer), (outer,)
    return found


def tree(sizes: PaliGemmaConfig, *, steered: bool) -> dict[str, np.ndarray]:
    """One for pi0.5 if `steered`, else for pi0: weights by path."""
    generator, found = np.random.default_rng(0), shapes(sizes, steered=steered)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in found.items()}
