from __future__ import annotations

import pytest
import torch

from visuomotor.nn.transformer import Block


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def wake(block: Block) -> None:
    """Move the zero start of the modulation away, so that the block does something."""
    if block.modulation is not None:
        torch.nn.init.normal_(block.modulation.project.weight, std=0.3)


def test_a_fresh_steered_block_is_the_identity() -> None:
    block = Block(8, 2, context_width=6, condition_width=4)
    tokens = torch.randn(2, 5, 8)
    assert torch.equal(block(tokens, context=torch.randn(2, 3, 6), condition=torch.randn(2, 4)), tokens)


def test_a_plain_block_equals_its_definition() -> None:
    block = Block(8, 2, context_width=6)
    tokens, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    expected = tokens + block.attention(block.norms[0](tokens))
    expected = expected + block.cross(block.norms[1](expected), context)
    expected = expected + block.feed(block.norms[2](expected))
    torch.testing.assert_close(block(tokens, context=context), expected)


def test_a_steered_block_equals_its_definition() -> None:
    block = Block(8, 2, condition_width=4)
    wake(block)
    tokens, condition = torch.randn(2, 5, 8), torch.randn(2, 4)
    parts = block.modulation.project(torch.nn.functional.silu(condition))[:, None].split(8, dim=-1)
    shift, scale, gate = parts[:3]
    expected = tokens + gate * block.attention(block.norms[0](tokens) * (1 + scale) + shift)
    shift, scale, gate = parts[3:]
    expected = expected + gate * block.feed(block.norms[1](expected) * (1 + scale) + shift)
    torch.testing.assert_close(block(tokens, condition=condition), expected)


def test_one_condition_for_all_tokens_equals_the_same_for_each() -> None:
    block = Block(8, 2, condition_width=4)
    wake(block)
    tokens, condition = torch.randn(2, 5, 8), torch.randn(2, 4)
    torch.testing.assert_close(
        block(tokens, condition=condition), block(tokens, condition=condition[:, None].expand(2, 5, 4))
    )


def test_masked_tokens_do_not_change_the_others() -> None:
    block = Block(8, 2, context_width=6)
    tokens, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    seen = torch.tensor([[True, False, True]] * 2)
    expected = block(tokens, mask=mask, context=context, context_mask=seen)[:, :3]
    tokens, context = torch.where(mask[..., None], tokens, 50), torch.where(seen[..., None], context, 50)
    assert torch.equal(block(tokens, mask=mask, context=context, context_mask=seen)[:, :3], expected)


def test_no_real_context_at_all_adds_nothing() -> None:
    block = Block(8, 2, context_width=6)
    tokens, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    found = block(tokens, context=context, context_mask=torch.zeros(2, 3, dtype=torch.bool))
    expected = tokens + block.attention(block.norms[0](tokens))
    expected = expected + block.feed(block.norms[2](expected))
    torch.testing.assert_close(found, expected)


def test_a_remembered_context_gives_the_same_answer() -> None:
    block = Block(8, 2, context_width=6)
    tokens, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    assert torch.equal(block(tokens, memory=block.cross.remember(context)), block(tokens, context=context))


def test_every_weight_of_an_awake_block_gets_gradient() -> None:
    block = Block(8, 2, context_width=6, condition_width=4)
    wake(block)
    block(
        torch.randn(2, 5, 8), context=torch.randn(2, 3, 6), condition=torch.randn(2, 4)
    ).square().sum().backward()
    # A key bias shifts all scores of a query alike, which the softmax does not see.
    silent = {name for name, weight in block.named_parameters() if weight.grad.abs().max() < 1e-5}
    assert silent <= {"attention.key.bias", "cross.key.bias"}


@pytest.mark.parametrize(
    ("built", "passed"),
    [({"condition_width": 4}, {}), ({}, {"condition": torch.zeros(2, 4)}), ({"context_width": 6}, {})],
)
def test_an_argument_that_does_not_fit_the_construction_is_refused(built, passed) -> None:
    with pytest.raises(ValueError, match="if and only if"):
        Block(8, 2, **built)(torch.randn(2, 5, 8), **passed)
