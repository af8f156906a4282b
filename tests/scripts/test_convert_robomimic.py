"""The converter of pickled robomimic checkpoints reads tensors and plain values, and nothing else."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from visuomotor.policies.bc import BC, BCConfig, load_released, released_names
from visuomotor.types import Dimension, Spec

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_robomimic.py"
OBSERVATIONS = {"arm": [3], "zone": [2]}


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exit, ("run",)


def convert(*arguments: Path) -> None:
    """What the script does, without the seconds that a new interpreter takes."""
    known = spec_from_file_location("convert_robomimic", SCRIPT)
    assert known
    assert known.loader
    script = module_from_spec(known)
    known.loader.exec_module(script)
    script.main([str(argument) for argument in arguments])


def policy() -> BC:
    spec = Spec(
        embodiment="robot",
        cameras=(),
        state=tuple(Dimension(name=f"s{number}") for number in range(5)),
        action=tuple(Dimension(name=f"a{number}") for number in range(2)),
        rate=20.0,
    )
    config = replace(BCConfig.published("lstm", pictures=False), memory=6, history=(-1, 0))
    return BC(config, {"one": spec})


def test_a_checkpoint_comes_through_and_loads_and_traps_do_not(tmp_path: Path) -> None:
    source = policy()
    names = released_names(source.network, OBSERVATIONS)
    model = OrderedDict((theirs, source.network.state_dict()[ours]) for ours, theirs in names.items())
    same = model["policy.nets.decoder.nets.mean.weight"]
    model["policy.nets.rnn.per_step_net.nets.mean.weight"] = same  # as robomimic has it: twice
    checkpoint: dict[str, Any] = {
        "model": model,
        "config": json.dumps(
            {"observation": {"modalities": {"obs": {"low_dim": ["zone", "arm"], "rgb": []}}}}
        ),
        "algo_name": "bc",
        "env_metadata": {"env_name": "Lift", "type": 1, "env_kwargs": {}},
        "shape_metadata": {
            "ac_dim": 2,
            "all_shapes": OrderedDict(arm=[3], rest=[9], zone=[2]),
            "all_obs_keys": ["arm", "rest", "zone"],
            "use_images": False,
        },
    }
    torch.save(checkpoint, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "told.json").read_text())
    assert list(told["observations"].items()) == list(OBSERVATIONS.items())
    assert (told["action"], told["moments"]) == (2, None)
    target = policy()
    load_released(target.network, load_file(tmp_path / "out" / "model.safetensors"), told["observations"])
    for name, value in source.network.state_dict().items():
        assert torch.equal(target.network.state_dict()[name], value), name

    torch.save({**checkpoint, "env_metadata": Trap()}, tmp_path / "trap.pth")
    torch.save({**checkpoint, "algo_name": "bcq"}, tmp_path / "other.pth")
    torch.save(model, tmp_path / "bare.pth")
    for name, message in (
        ("trap", "tensors and plain values only; not read"),
        ("other", "expected the algorithm \"bc\", got 'bcq'"),
        ("bare", "model_epoch_*.pth"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            convert(tmp_path / f"{name}.pth", tmp_path / name)
        assert not (tmp_path / name).exists()
