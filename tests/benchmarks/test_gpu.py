"""The benchmark of published sizes runs in small ones, and its roofline is that of a hand calculation."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from visuomotor.nn.weights import unfilled

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_every_part_runs_in_small_sizes(gpu: ModuleType) -> None:
    words = [
        "--device",
        "cpu",
        "--tiny",
        "--modes",
        "eager",
        "--cameras",
        "2",
        "--repeats",
        "1",
        "--batch",
        "2",
    ]
    found = gpu.main(words)
    for name in ("pi0", "pi05"):
        assert found[name]["2 cameras"]["eager"]["ms"] > 0
        assert found[name]["training"]["tokens_per_second"] > 0


def test_the_roofline_of_three_cameras_is_that_of_a_hand_calculation(gpu: ModuleType) -> None:
    """So400m has 411.07 million weights a token, Gemma 1,981.8 million, the expert 311.4 million."""
    with unfilled():
        policy = gpu.PI0(
            gpu.PI0Config.published(),
            {"data": gpu.body(3, 224)},
        )
    every = gpu.work(policy, 3)
    assert every["pictures"][0] == pytest.approx(0.661e12, rel=0.02)
    last_layer = 2 * 109.05e6 * 788  # whose answer is not computed
    assert every["prefix"][0] == pytest.approx(3.215e12 - last_layer, rel=0.01)
    assert every["flow"][1] == pytest.approx(6.44e9, rel=0.02)
