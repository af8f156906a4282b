"""Both sides of the benchmark of policies see the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD, standardize_pictures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_lerobot_gets_the_pictures_as_we_normalize_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("policies_benchmark", BENCHMARKS / "policies.py")
    assert spec is not None
    assert spec.loader is not None
    policies = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "policies_benchmark", policies)
    spec.loader.exec_module(policies)
    body = policies.spec_of(2, (8, 12), 3, 2)
    batch = policies.batch_of(body, 2, 1, 4, torch.Generator().manual_seed(0))
    found = policies.as_lerobot(batch, IMAGENET_MEAN, IMAGENET_STD, action=batch.actions)
    assert found["observation.state"].shape == (2, 3)
    assert found["action"].shape == (2, 4, 2)
    expected = standardize_pictures(batch.images["camera1"][:, 0])
    # A product and a sum here, a difference and a quotient there, in float32.
    torch.testing.assert_close(found["observation.images.camera1"], expected, atol=1e-5, rtol=1e-5)
    two_ticks = policies.batch_of(body, 1, 2, 4, torch.Generator().manual_seed(0))
    assert policies.as_lerobot(two_ticks, IMAGENET_MEAN, IMAGENET_STD)[
        "observation.images.camera0"
    ].shape == (
        *(1, 2, 3),
        *(8, 12),
    )
