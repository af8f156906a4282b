from __future__ import annotations

import pytest
import torch

from visuomotor.nn.attention import Attention


def slow_attention(attention, queries, context, mask):
    """Loops over samples, heads and queries; the definition, nothing else."""
    q, k, v = attention.query(queries), attention.key(context), attention.value(context)
    batch, query, width = q.shape
    size = width // attention.heads
    answer = torch.zeros(batch, query, width, dtype=q.dtype)
    for b in range(batch):
        for i in range(query):
            seen = mask[b, i].nonzero().flatten()
            if len(seen) == 0:
                continue
            found = torch.zeros(width, dtype=q.dtype)
            for h in range(attention.heads):
                part = slice(h * size, (h + 1) * size)
                scores = k[b, seen, part] @ q[b, i, part] / size**0.5
                found[part] = scores.softmax(0) @ v[b, seen, part]
            answer[b, i] = attention.out(found)
    return answer


@pytest.fixture
def parts():
    torch.manual_seed(0)
    attention = Attention(12, 3, context_width=5).double()
    queries, context = torch.randn(2, 4, 12).double(), torch.randn(2, 6, 5).double()
    return attention, queries, context


def test_attention_equals_the_slow_definition(parts) -> None:
    attention, queries, context = parts
    mask = torch.rand(2, 4, 6) > 0.5
    mask[0, 1] = False
    with torch.no_grad():
        expected = slow_attention(attention, queries, context, mask)
        found = attention(queries, context, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # float64: only the order of sums differs


def test_self_attention_attends_to_the_queries() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(tokens), attention(tokens, tokens))


def test_a_mask_for_all_queries_equals_the_same_row_for_each(parts) -> None:
    attention, queries, context = parts
    mask = torch.tensor([[True, False, True, True, False, False], [False, True, False, False, True, True]])
    torch.testing.assert_close(
        attention(queries, context, mask),
        attention(queries, context, mask[:, None].expand(2, 4, 6)),
        rtol=0,
        atol=0,
    )


def test_masked_keys_do_not_matter(parts) -> None:
    attention, queries, context = parts
    mask = torch.tensor([[True, True, True, False, False, False]] * 2)
    changed = torch.where(mask[..., None], context, 1e3)
    torch.testing.assert_close(
        attention(queries, context, mask), attention(queries, changed, mask), rtol=0, atol=0
    )
    torch.testing.assert_close(attention(queries, context, mask), attention(queries, context[:, :3]))


def test_a_query_that_sees_nothing_gets_zero_and_finite_gradients(parts) -> None:
    attention, queries, context = parts
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1] = False
    queries.requires_grad_(True)
    found = attention(queries, context, mask)
    assert (found[1] == 0).all()
    assert (found[0] != 0).any()
    found.sum().backward()
    assert (queries.grad[1] == 0).all()
    assert all(weight.grad.isfinite().all() for weight in attention.parameters())


def test_order_of_keys_does_not_matter(parts) -> None:
    attention, queries, context = parts
    order = torch.randperm(6)
    torch.testing.assert_close(attention(queries, context), attention(queries, context[:, order]))


def test_a_remembered_context_gives_the_same_answer(parts) -> None:
    attention, queries, context = parts
    mask = torch.rand(2, 6) > 0.3
    memory = attention.remember(context)
    assert torch.equal(attention.attend(queries, memory, mask), attention(queries, context, mask))


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        Attention(8, 3)
