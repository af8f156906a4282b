"""Turn a checkpoint of openpi in orbax form into a file that this package reads.

    python scripts/convert_openpi.py pi0_base/params folder

writes `folder/model.safetensors` with the names of openpi's PyTorch models, for `load_released` of
`visuomotor.policies.pi0` and `pi05`, and copies the folder `assets` beside `params`, the statistics of each
robot, for `visuomotor.policies.released.openpi`. docs/released.md goes on from there. It needs
`orbax-checkpoint` (and so JAX) in the environment that runs it, which this package does not; run it there,
`visuomotor` need not be installed. Nothing is unpickled.

Which norms the action expert has is read from the tree, never guessed from a path. Weights of adapters
(`lora_a`, `lora_b`) and every other name that has no place are an error: merge adapters before.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

PALIGEMMA = "paligemma_with_expert.paligemma.model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
Arrays = dict[str, np.ndarray]
Take = Callable[[str], np.ndarray]


def flatten(tree: Mapping[str, object], front: str = "") -> Arrays:
    """Nested mappings as one, with "/" between names; without the "params" and "value" that training adds."""
    found: Arrays = {}
    for name, part in tree.items():
        path = f"{front}/{name}" if front else str(name)
        if isinstance(part, Mapping):
            found |= flatten(part, path)
        else:
            found[path.removeprefix("params/").removesuffix("/value")] = np.asarray(part)
    return found


def converted(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The weights of openpi's PyTorch model from the flat tree of its JAX model.

    Raises:
        SystemExit: A name is missing, or has no place.
    """
    left = dict(arrays)

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise SystemExit(f"expected {name!r} in the tree; is it a checkpoint of pi0 or pi0.5?")
        return left.pop(name)

    found = vision(take) | language(take, "", PALIGEMMA + "language_model.", steered=False)
    found[PALIGEMMA + "language_model.embed_tokens.weight"] = take("PaliGemma/llm/embedder/input_embedding")
    steered = "PaliGemma/llm/final_norm_1/Dense_0/kernel" in left
    found |= language(take, "_1", EXPERT, steered=steered)
    names = ["action_in_proj", "action_out_proj"]
    names += (
        ["time_mlp_in", "time_mlp_out"]
        if steered
        else ["state_proj", "action_time_mlp_in", "action_time_mlp_out"]
    )
    for name in names:
        found[f"{name}.weight"], found[f"{name}.bias"] = take(f"{name}/kernel").T, take(f"{name}/bias")
    if left:
        raise SystemExit(
            f"{len(left)} weights have no place: {', '.join(sorted(left)[:5])}. Merge adapters before."
        )
    return found


def vision(take: Take) -> Arrays:
    """SigLIP and the map behind it."""
    front, tree = PALIGEMMA + "vision_tower.vision_model.", "PaliGemma/img/"
    # height width channel feature -> feature channel height width
    found = {
        f"{front}embeddings.patch_embedding.weight": take(tree + "embedding/kernel").transpose(3, 2, 0, 1)
    }
    found[f"{front}embeddings.patch_embedding.bias"] = take(tree + "embedding/bias")
    found[f"{front}embeddings.position_embedding.weight"] = take(tree + "pos_embedding")[0]
    found[f"{front}post_layernorm.weight"] = take(tree + "Transformer/encoder_norm/scale")
    found[f"{front}post_layernorm.bias"] = take(tree + "Transformer/encoder_norm/bias")
    found[PALIGEMMA + "multi_modal_projector.linear.weight"] = take(tree + "head/kernel").T
    found[PALIGEMMA + "multi_modal_projector.linear.bias"] = take(tree + "head/bias")
    block = tree + "Transformer/encoderblock/"
    stacked: Arrays = {}
    for number in (0, 1):
        stacked[f"layer_norm{number + 1}.weight"] = take(f"{block}LayerNorm_{number}/scale")
        stacked[f"layer_norm{number + 1}.bias"] = take(f"{block}LayerNorm_{number}/bias")
        dense = f"{block}MlpBlock_0/Dense_{number}/"
        stacked[f"mlp.fc{number + 1}.weight"] = take(dense + "kernel").transpose(0, 2, 1)
        stacked[f"mlp.fc{number + 1}.bias"] = take(dense + "bias")
    attention = block + "MultiHeadDotProductAttention_0/"
    for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        kernel = take(f"{attention}{theirs}/kernel")  # layer width head feature
        layers, width = kernel.shape[:2]
        stacked[f"self_attn.{ours}.weight"] = kernel.reshape(layers, width, -1).transpose(0, 2, 1)
        stacked[f"self_attn.{ours}.bias"] = take(f"{attention}{theirs}/bias").reshape(layers, -1)
    out = take(attention + "out/kernel")  # layer head feature width
    stacked["self_attn.out_proj.weight"] = out.reshape(len(out), -1, out.shape[-1]).transpose(0, 2, 1)
    stacked["self_attn.out_proj.bias"] = take(attention + "out/bias")
    return found | unstacked(stacked, front + "encoder.layers.")


def language(take: Take, mark: str, front: str, *, steered: bool) -> Arrays:
    """A Gemma decoder; `mark` is what its names end with, `steered` whether a condition scales its norms."""
    tree = "PaliGemma/llm/layers/"
    query = take(f"{tree}attn/q_einsum{mark}/w")  # layer head width feature
    both = take(f"{tree}attn/kv_einsum{mark}/w")  # layer 2 kv_head width feature
    out = take(f"{tree}attn/attn_vec_einsum{mark}/w")  # layer head feature width
    gates = take(f"{tree}mlp{mark}/gating_einsum")  # layer 2 width hidden
    layers, _, width, _ = query.shape
    stacked = {
        "self_attn.q_proj.weight": query.transpose(0, 1, 3, 2).reshape(layers, -1, width),
        "self_attn.k_proj.weight": both[:, 0].transpose(0, 1, 3, 2).reshape(layers, -1, width),
        "self_attn.v_proj.weight": both[:, 1].transpose(0, 1, 3, 2).reshape(layers, -1, width),
        "self_attn.o_proj.weight": out.reshape(layers, -1, width).transpose(0, 2, 1),
        "mlp.gate_proj.weight": gates[:, 0].transpose(0, 2, 1),
        "mlp.up_proj.weight": gates[:, 1].transpose(0, 2, 1),
        "mlp.down_proj.weight": take(f"{tree}mlp{mark}/linear").transpose(0, 2, 1),
    }
    found: Arrays = {}
    for ours, theirs in (
        ("input_layernorm", "pre_attention_norm"),
        ("post_attention_layernorm", "pre_ffw_norm"),
    ):
        if steered:
            stacked[f"{ours}.dense.weight"] = take(f"{tree}{theirs}{mark}/Dense_0/kernel").transpose(0, 2, 1)
            stacked[f"{ours}.dense.bias"] = take(f"{tree}{theirs}{mark}/Dense_0/bias")
        else:
            stacked[f"{ours}.weight"] = take(f"{tree}{theirs}{mark}/scale")
    last = f"PaliGemma/llm/final_norm{mark}/"
    if steered:
        found[f"{front}norm.dense.weight"] = take(last + "Dense_0/kernel").T
        found[f"{front}norm.dense.bias"] = take(last + "Dense_0/bias")
    else:
        found[f"{front}norm.weight"] = take(last + "scale")
    return found | unstacked(stacked, front + "layers.")


def unstacked(stacked: Mapping[str, np.ndarray], front: str) -> Arrays:
    """One entry a layer of arrays whose first axis is the layer."""
    return {f"{front}{n}.{name}": row for name, rows in stacked.items() for n, row in enumerate(rows)}


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("params", type=Path, help="the folder `params` of a checkpoint")
    parser.add_argument("out", type=Path, help="folder to write to; made if it is not there")
    args = parser.parse_args()
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        sys.exit(
            "orbax is not installed here. Run this in an environment with it: pip install orbax-checkpoint"
        )
    from safetensors.numpy import save_file

    if not args.params.is_dir():
        sys.exit(f"{args.params}: no such folder. Expected the folder `params` of a checkpoint.")
    tree = ocp.PyTreeCheckpointer().restore(args.params.resolve())
    found = converted({name: array.astype(np.float32) for name, array in flatten(tree).items()})
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in found.items()}, args.out / "model.safetensors"
    )
    print(f"{len(found)} weights written to {args.out / 'model.safetensors'}")
    assets = args.params.resolve().parent / "assets"
    if assets.is_dir():
        shutil.copytree(assets, args.out / "assets", dirs_exist_ok=True)
        print(f"statistics copied to {args.out / 'assets'}")
    else:
        print(
            f"{assets}: no such folder, and a policy does not act without its statistics. Download it, too."
        )


if __name__ == "__main__":
    main()
