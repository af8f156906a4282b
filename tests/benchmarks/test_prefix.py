"""All three ways to a chunk are the same chunk."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefix() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prefix_benchmark", ROOT / "benchmarks" / "prefix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prefix_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["pi0", "pi05"])
def test_what_is_kept_changes_nothing(prefix: ModuleType, name: str) -> None:
    policy, real = prefix.policies(image=28)[name]
    batch = prefix.observation(policy, real, image=28)
    noise = torch.randn(1, policy.config.horizon, policy.action_width)
    with torch.inference_mode():
        kept, padded, anew = (way() for way in prefix.ways(policy, batch, noise).values())
    torch.testing.assert_close(padded, kept, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(anew, kept, rtol=1e-5, atol=1e-5)
