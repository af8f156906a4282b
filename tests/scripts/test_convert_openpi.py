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
from openpi_tree import HIDDEN, NARROW, tree

from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.policies import pi0, pi05

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_openpi.py"
SIZES = PaliGemmaConfig.tiny(64)
TEXT = SIZES.language.decoder


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_openpi", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policy(*, steered: bool) -> Any:
    family: Any = pi05 if steered else pi0
    config = (pi05.PI05Config if steered else pi0.PI0Config).published()
    trunk = replace(config.trunk, paligemma=SIZES)
    sizes: dict[str, Any] = {"trunk": trunk, "expert_width": NARROW, "expert_mlp_width": HIDDEN, "horizon": 5}
    kind = family.PI05 if steered else family.PI0
    return family, kind(replace(config, **sizes), {"one": armed_body()})


@pytest.mark.parametrize("steered", [False, True])
def test_every_weight_has_its_place_and_its_meaning(script: ModuleType, steered: bool) -> None:
    given = tree(SIZES, steered=steered)
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
    given = tree(SIZES, steered=False)
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
