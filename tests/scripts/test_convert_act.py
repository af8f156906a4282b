"""The converter of pickled ACT checkpoints reads tensors and arrays, and nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from visuomotor.policies.act import released_stats

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_act.py"


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def convert(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_weights_and_moments_come_through_and_traps_do_not(tmp_path: Path) -> None:
    checkpoint, stats, trap = tmp_path / "policy_best.ckpt", tmp_path / "stats.pkl", tmp_path / "trap.pkl"
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"model.action_head.weight": weight, "model.same": weight}, checkpoint)
    moments = {"qpos_mean": np.zeros(3), "qpos_std": np.ones(3, np.float32)}
    moments |= {
        "action_mean": np.arange(2.0),
        "action_std": np.full(2, 0.01),
        "example_qpos": np.zeros((4, 3)),
    }
    stats.write_bytes(pickle.dumps(moments))
    done = convert(checkpoint, stats, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["model.action_head.weight"], weight)
    read = released_stats(found, "original")
    assert read["action"].mean.tolist() == [0.0, 1.0]
    assert read["action"].std.tolist() == [0.01, 0.01]
    assert read["state"].std.tolist() == [1.0, 1.0, 1.0]
    trap.write_bytes(pickle.dumps({**moments, "qpos_mean": Trap()}))
    refused = convert(checkpoint, trap, tmp_path / "other")
    assert refused.returncode != 0
    assert "expected arrays of numbers, got builtins.print; not read." in refused.stderr
    assert not (tmp_path / "other").exists()
