"""Float32 masters behind weights in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killable_run import CONFIG, Material
from torch import nn

from visuomotor.agent import load_policy
from visuomotor.agent.weights import named_weights, read_tensors
from visuomotor.training import step
from visuomotor.training.log import read_log
from visuomotor.training.moved import Masters
from visuomotor.training.optim import Average, Optimizer

Open = Callable[..., Material]
BF16 = replace(CONFIG, precision="bf16", weight_type="bfloat16")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "fast_bf16", lambda device: True)


def network() -> nn.Linear:
    torch.manual_seed(0)
    net = nn.Linear(64, 64)
    nn.init.normal_(net.weight, std=0.02)
    return net


def test_small_steps_are_not_lost() -> None:
    """Steps of 2.5e-5 on weights of 0.02, all in one direction, as fine-tuning takes them."""
    plain, net = network(), network()
    plain.weight.data = plain.weight.data.bfloat16()
    start = plain.weight.detach().float()
    masters = Masters(net)
    assert torch.equal(net.weight.float(), start)
    settings = {"weight_decay": 0.0, "betas": (0.9, 0.99)}
    naive = Optimizer(plain, **settings)
    optimizer = Optimizer(net, weights=masters.weights, **settings)
    first = masters.weights["weight"].clone()
    for number in range(40):
        masters.clear()
        plain.weight.grad = torch.ones_like(plain.weight)
        net.weight.grad = torch.ones_like(net.weight)
        masters.collect()
        naive.step(2.5e-5, share=1.0)
        optimizer.step(2.5e-5, share=1.0)
        masters.publish()
        if number == 0:
            moved = first - masters.weights["weight"]
            assert torch.allclose(moved, torch.full_like(moved, 2.5e-5), rtol=1e-2)
            stuck = (plain.weight.float() == start).float().mean()
            assert stuck > 0.5  # more than half of the weights do not notice a step
    assert net.weight.dtype == torch.bfloat16
    far = (start - net.weight.detach().float()).mean()
    assert float(far) == pytest.approx(40 * 2.5e-5, rel=0.05)
    assert float((start - plain.weight.detach().float()).mean()) < 0.7 * float(far)


def test_gradients_of_parts_are_added_up_in_float32() -> None:
    net = network()
    masters = Masters(net)
    for size in (1.0, 2**-9, 2**-9):
        net.weight.grad = torch.full_like(net.weight, size)
        masters.collect()
        assert net.weight.grad is None
    gradient = masters.weights["weight"].grad
    assert gradient is not None
    assert torch.equal(gradient, torch.full_like(gradient, 1 + 2**-8))
    assert torch.full((), 1.0).bfloat16() + 2**-9 == 1.0  # which bfloat16 would have lost


def test_a_checkpoint_holds_the_masters_and_the_network_is_as_before() -> None:
    net = network()
    full = {name: weight.clone() for name, weight in named_weights(net).items()}
    masters = Masters(net)
    average = Average(net, 0.9, masters.weights)
    optimizer = Optimizer(net, weight_decay=0.0, betas=(0.9, 0.99), weights=masters.weights)
    rounded = net.weight.detach().clone()
    with masters.whole(average, optimizer) as (policy, smooth, _):
        assert all(torch.equal(weight, full[name]) for name, weight in named_weights(policy).items())
        assert all(torch.equal(smooth[name], full[name]) for name in full)
    assert net.weight.dtype == torch.bfloat16
    assert net.bias.dtype == torch.float32
    assert torch.equal(net.weight, rounded)


@pytest.mark.usefixtures("emulated")
def test_a_run_in_bfloat16_learns_and_resumes_with_equal_bits(material: Open, tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        if progress.step == 9:  # type: ignore[attr-defined]
            raise RuntimeError("stopped by the test")

    one = material()
    batches = [one.loader.batch(0)]
    one.train(tmp_path / "whole", BF16, validation=batches)
    assert one.policy.flow.weight.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="stopped by the test"):
        material().train(tmp_path / "parts", BF16, progress=stop, validation=batches)
    assert material().train(tmp_path / "parts", BF16, validation=batches).resumed_from == 7
    for file in ("model.safetensors", "ema.safetensors", "train_state/optimizer.safetensors", "golden.npz"):
        whole, parts = (tmp_path / name / "checkpoint" / file for name in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), file
    lines = read_log(tmp_path / "whole")
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert load_policy(tmp_path / "whole", thorough=True).policy.flow.weight.dtype == torch.float32
    saved = read_tensors(tmp_path / "whole" / "checkpoint" / "model.safetensors")["flow.weight"]
    assert torch.equal(saved.bfloat16(), one.policy.flow.weight.detach())
    assert not torch.equal(saved.bfloat16().float(), saved)


@pytest.mark.usefixtures("emulated")
def test_frozen_weights_are_rounded_once_and_have_no_master(material: Open, tmp_path: Path) -> None:
    one = material()
    before = one.policy.flow.weight.detach().clone()
    one.train(tmp_path / "run", replace(BF16, steps=3, freeze=("flow",)))
    saved = read_tensors(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert torch.equal(saved["flow.weight"], before.bfloat16().float())
    assert saved["flow.bias"].dtype == torch.float32


def test_muon_wants_whole_kernels() -> None:
    net = nn.Conv2d(2, 4, 3)
    shares = {"weight": net.weight.detach()[:2], "bias": net.bias.detach()}
    with pytest.raises(ValueError, match=r"expected whole kernels, got a share of 'weight'"):
        Optimizer(net, weight_decay=0.0, betas=(0.9, 0.99), kernel_rate=0.1, weights=shares)


def test_bfloat16_weights_ask_for_bf16_arithmetic(material: Open, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'weight_type="bfloat16" needs precision="bf16"'):
        material().train(tmp_path / "run", replace(BF16, precision="fp32"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="unknown weight_type 'bf16'"):
        replace(CONFIG, weight_type="bf16")
