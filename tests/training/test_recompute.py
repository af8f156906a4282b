from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killable_run import CONFIG, Material
from torch import Tensor, nn

from visuomotor.errors import UnknownNameError
from visuomotor.training.recompute import recomputing

Open = Callable[..., Material]


class Block(nn.Module):
    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.calls = calls

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        self.calls.append(1)
        return x + scale * self.drop(torch.tanh(self.inner(x)))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.blocks = nn.ModuleList(Block(self.calls) for _ in range(3))
        self.own = nn.Linear(4, 4)
        self.own.recomputes = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=0.5)
        return x


def gradients(stack: Stack) -> tuple[Tensor, list[Tensor]]:
    stack.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        loss = stack(torch.ones(2, 4)).square().sum()
        loss.backward()
    return loss.detach(), [w.grad for w in stack.blocks.parameters() if w.grad is not None]


@pytest.mark.parametrize("pattern", ["blocks", "blocks.?", "blocks.*"])
def test_losses_and_gradients_are_equal_bit_by_bit_also_with_dropout(pattern: str) -> None:
    torch.manual_seed(0)
    stack = Stack()
    loss, plain = gradients(stack)
    assert len(stack.calls) == 3
    stack.calls.clear()
    with recomputing(stack, [pattern]) as watch:
        again, recomputed = gradients(stack)
        watch.check()
    assert len(stack.calls) == 6  # each block once more in the backward pass
    assert torch.equal(loss, again)
    assert len(plain) == len(recomputed) == 6
    assert all(torch.equal(one, two) for one, two in zip(plain, recomputed, strict=True))


def test_nothing_is_computed_twice_without_gradient_or_after_the_block() -> None:
    stack = Stack()
    with recomputing(stack, ["blocks"]), torch.no_grad():
        stack(torch.ones(2, 4))
    assert len(stack.calls) == 3
    gradients(stack)
    assert len(stack.calls) == 6
    assert "forward" not in vars(stack.blocks[0])


def test_a_module_that_knows_how_is_told() -> None:
    stack = Stack()
    with recomputing(stack, ["own"]) as watch:
        assert stack.own.recomputes
        watch.check()
    assert not stack.own.recomputes


def test_what_has_no_effect_is_refused(material: Open, tmp_path: Path) -> None:
    stack = Stack()
    with recomputing(stack, ["blocks.0.inner", "blocks.1"]) as watch:
        with pytest.raises(ValueError, match=r"blocks.0.inner, blocks.1 were not called"):
            watch.check()
        gradients(stack)
        watch.check()
    with pytest.raises(UnknownNameError, match=r"modules to recompute: the pattern 'fow'.*'flow'"):
        material().train(tmp_path / "run", replace(CONFIG, recompute=("fow",)))


def test_a_run_that_recomputes_ends_with_the_bits_of_one_that_does_not(
    material: Open, tmp_path: Path
) -> None:
    short = replace(CONFIG, steps=4)
    material().train(tmp_path / "plain", short)
    material().train(tmp_path / "again", replace(short, recompute=("see", "flow")))
    for file in ("ema.safetensors", "train_state/optimizer.safetensors", "golden.npz"):
        plain, again = (tmp_path / name / "checkpoint" / file for name in ("plain", "again"))
        assert plain.read_bytes() == again.read_bytes(), file
    assert material().train(tmp_path / "again", short).resumed_from == 4
