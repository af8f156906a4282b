"""The converter of pickled Diffusion Policies makes tensors and plain data, and runs nothing else."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_diffusion.py"


class Node:
    """As OmegaConf keeps its values: a state of plain data and further nodes."""

    def __init__(self, content: Any) -> None:
        key = "_content" if isinstance(content, dict | list) else "_val"
        if isinstance(content, dict):
            content = {name: Node(value) for name, value in content.items()}
        if isinstance(content, list):
            content = [Node(value) for value in content]
        self.__dict__.update({key: content, "_parent": None})


class Trap:
    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.told)!r}, 'w').write('run')",)


def convert(*arguments: object) -> None:
    spec = importlib.util.spec_from_file_location("convert_diffusion", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


def save(path: Path, payload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle with classes of a module that nobody has when it is read."""
    foreign = types.ModuleType("foreign")
    foreign.Node = Node  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "foreign", foreign)
        patched.setattr(Node, "__module__", "foreign")
        torch.save(payload, path)


def test_tensors_and_observations_come_through_and_traps_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    shape_meta = {"obs": {"image": {"shape": [3, 96, 96], "type": "rgb"}, "agent_pos": {"shape": [2]}}}
    marker = tmp_path / "marker"
    payload = {
        "cfg": Node({"shape_meta": shape_meta, "horizon": 16}),
        "state_dicts": {
            "model": {"model.same": weight + 1},
            "ema_model": {"model.head.weight": torch.nn.Parameter(weight), "model.same": weight},
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        },
        "pickles": {"epoch": pickle.dumps(Trap(marker)), "trap": Trap(marker)},
    }
    save(tmp_path / "latest.ckpt", payload, monkeypatch)
    convert(tmp_path / "latest.ckpt", tmp_path / "out")
    assert not marker.exists()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["model.head.weight"], weight)
    assert torch.equal(found["model.same"], weight)
    told = json.loads((tmp_path / "out" / "told.json").read_text())
    assert told == {"observations": {"image": [3, 96, 96], "agent_pos": [2]}}
    convert(tmp_path / "latest.ckpt", tmp_path / "trained", "--weights", "model")
    assert torch.equal(load_file(tmp_path / "trained" / "model.safetensors")["model.same"], weight + 1)


def test_other_files_are_refused_with_what_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match="expected a checkpoint with state_dicts"):
        convert(tmp_path / "other.ckpt", tmp_path / "out")
    save(tmp_path / "odd.ckpt", {"state_dicts": {"ema_model": {"what": Node(3)}}}, monkeypatch)
    with pytest.raises(SystemExit, match="'what': expected a tensor, got Inert"):
        convert(tmp_path / "odd.ckpt", tmp_path / "out")
    save(tmp_path / "bare.ckpt", {"state_dicts": {"model": {}}}, monkeypatch)
    with pytest.raises(SystemExit, match=r"no weights 'ema_model', only \['model'\]"):
        convert(tmp_path / "bare.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
