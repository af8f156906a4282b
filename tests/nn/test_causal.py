"""A causal layer looks back at what is real, and at nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visuomotor.nn.causal import CausalLayer, looking_back


def layer() -> CausalLayer:
    torch.manual_seed(0)
    return CausalLayer(8, 2).eval()


def slow(module: CausalLayer, tokens: Tensor, token: int, seen: list[int]) -> Tensor:
    """One token of one sample after the layer, head by head."""
    asked, held, carried = module.qkv(module.norm1(tokens)).chunk(3, dim=-1)
    parts = []
    for head in range(module.heads):
        own = slice(4 * head, 4 * head + 4)
        weights = (held[seen, own] @ asked[token, own] / 2).softmax(-1)
        parts.append(weights @ carried[seen, own])
    found = tokens[token] + module.out(torch.cat(parts))
    inner = module.feed[0](module.norm2(found))
    return found + module.feed[2](F.gelu(inner))


def test_each_token_sees_the_real_ones_up_to_itself() -> None:
    module, tokens = layer(), torch.randn(1, 5, 8)
    mask = torch.tensor([[False, False, True, True, True]])
    found = module(tokens, looking_back(mask))
    for token, seen in {2: [2], 3: [2, 3], 4: [2, 3, 4]}.items():
        torch.testing.assert_close(
            found[0, token], slow(module, tokens[0], token, seen), rtol=1e-5, atol=1e-6
        )


def test_what_is_not_real_and_what_comes_later_does_not_matter() -> None:
    module, tokens = layer(), torch.randn(2, 5, 8)
    mask = torch.arange(5).expand(2, 5) >= 2
    found = module(tokens, looking_back(mask))
    changed = tokens.clone()
    changed[:, :2], changed[:, 4] = 50.0, -50.0
    assert torch.equal(module(changed, looking_back(mask))[:, 2:4], found[:, 2:4])


def test_nothing_is_dropped_while_acting() -> None:
    module = CausalLayer(8, 2, dropout=0.5)
    tokens, sees = torch.randn(2, 3, 8), looking_back(torch.ones(2, 3, dtype=torch.bool))
    assert not torch.equal(module(tokens, sees), module(tokens, sees))
    module.eval()
    assert torch.equal(module(tokens, sees), module(tokens, sees))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple"):
        CausalLayer(10, 4)
