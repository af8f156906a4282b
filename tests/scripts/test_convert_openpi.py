"""The tree of openpi's JAX models, made here with its names and shapes, loads strictly once converted."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from calibrated import armed_body

from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.policies import pi0, pi05

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_openpi.py"
SIZES = PaliGemmaConfig.tiny(64)
VISION, TEXT = SIZES.vision, SIZES.language.decoder
NARROW, HIDDEN = 16, 32  # of the expert


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_openpi", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shapes(*, steered: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape, as the released trees have them; the layer is the first axis."""
    wide, deep, heads = VISION.width, VISION.layers, VISION.heads
    found: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (VISION.patch, VISION.patch, 3, wide),
        "img/embedding/bias": (wide,),
        "img/pos_embedding": (1, VISION.tokens, wide),
        "img/Transformer/encoder_norm/scale": (wide,),
        "img/Transformer/encoder_norm/bias": (wide,),
        "img/head/kernel": (wide, TEXT.width),
        "img/head/bias": (TEXT.width,),
        "llm/embedder/input_embedding": (64, TEXT.width),
    }
    block = "img/Transformer/encoderblock/"
    for number, (inner, outer) in enumerate(((wide, VISION.hidden), (VISION.hidden, wide))):
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
    levels, head = TEXT.layers, TEXT.head_width
    for mark, width, hidden in (("", TEXT.width, TEXT.mlp_width), ("_1", NARROW, HIDDEN)):
        found[f"llm/layers/attn/q_einsum{mark}/w"] = (levels, TEXT.heads, width, head)
        found[f"llm/layers/attn/kv_einsum{mark}/w"] = (levels, 2, TEXT.kv_heads, width, head)
        found[f"llm/layers/attn/attn_vec_einsum{mark}/w"] = (levels, TEXT.heads, head, width)
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


def tree(*, steered: bool) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {n: generator.normal(size=s).astype(np.float32) for n, s in shapes(steered=steered).items()}


def policy(*, steered: bool) -> Any:
    family: Any = pi05 if steered else pi0
    config = (pi05.PI05Config if steered else pi0.PI0Config).published()
    trunk = replace(config.trunk, paligemma=SIZES)
    sizes: dict[str, Any] = {"trunk": trunk, "expert_width": NARROW, "expert_mlp_width": HIDDEN, "horizon": 5}
    kind = family.PI05 if steered else family.PI0
    return family, kind(replace(config, **sizes), {"one": armed_body()})


@pytest.mark.parametrize("steered", [False, True])
def test_every_weight_has_its_place_and_its_meaning(script: ModuleType, steered: bool) -> None:
    given = tree(steered=steered)
    family, made = policy(steered=steered)
    weights = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in script.converted(given).items()}
    family.load_released(made, weights)
    decoder, number = made.trunk.decoder, 1
    tokens = torch.randn(4, TEXT.width)
    numbers = torch.from_numpy(given["PaliGemma/llm/layers/attn/q_einsum/w"][number])
    with torch.no_grad():
        asked = decoder.levels[number].query(tokens).unflatten(-1, (TEXT.heads, -1))
        torch.testing.assert_close(asked, torch.einsum("td,ndh->tnh", tokens, numbers))
        held = torch.from_numpy(given["PaliGemma/llm/layers/attn/kv_einsum/w"][number])
        torch.testing.assert_close(
            decoder.levels[number].value(tokens), torch.einsum("td,dh->th", tokens, held[1, 0])
        )
        found = torch.randn(4, TEXT.heads, TEXT.head_width)
        out = torch.from_numpy(given["PaliGemma/llm/layers/attn/attn_vec_einsum/w"][number])
        torch.testing.assert_close(
            decoder.levels[number].out(found.flatten(1)), torch.einsum("tnh,nhd->td", found, out)
        )
        gates = torch.from_numpy(given["PaliGemma/llm/layers/mlp_1/gating_einsum"][number])
        small = torch.randn(4, NARROW)
        torch.testing.assert_close(made.expert.levels[number].gate(small), small @ gates[0])
        torch.testing.assert_close(made.expert.levels[number].up(small), small @ gates[1])
        leave = torch.from_numpy(given["action_out_proj/kernel"])
        torch.testing.assert_close(
            made.leave(small), -(small @ leave + torch.from_numpy(given["action_out_proj/bias"]))
        )


def test_names_of_a_training_run_are_those_of_a_release(script: ModuleType) -> None:
    assert script.flatten({"params": {"a": {"b": {"value": [1]}}}}).keys() == {"a/b"}


def test_what_has_no_place_or_is_missing_is_named(script: ModuleType) -> None:
    given = tree(steered=False)
    with pytest.raises(SystemExit, match="lora_a"):
        script.converted(given | {"PaliGemma/llm/layers/attn/q_einsum/lora_a": np.zeros(1)})
    del given["state_proj/kernel"]
    with pytest.raises(SystemExit, match="state_proj/kernel"):
        script.converted(given)


def test_without_orbax_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "params"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install orbax-checkpoint" in done.stderr
