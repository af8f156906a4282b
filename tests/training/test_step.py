from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from killable_run import Material
from torch import Tensor

from visuomotor.policies.base import Loss, Policy, Term
from visuomotor.training.moved import Own
from visuomotor.training.step import accumulate, forward
from visuomotor.types import Batch

Open = Callable[..., Material]


def gradients(policy: Policy) -> dict[str, Tensor]:
    return {
        name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None
    }


class Still:
    """Makes a tiny policy's loss free of noise, so that a batch can be compared with its parts."""

    def __init__(self, policy: Policy) -> None:
        policy.eval()
        seen: list[int] = []

        def loss(batch: Batch, *, generator: torch.Generator | None) -> Loss:
            seen.append(len(batch))
            guess = policy.leave(policy.observe(batch)).reshape(batch.actions.shape)
            error = (guess - batch.actions).square() * batch.horizon_mask[:, :, None]
            terms = {"error": Term(error.sum(), batch.horizon_mask.sum() * 3)}
            if policy.config.smoothness:
                real = batch.state[:, 0, 0] > 0  # some samples only
                terms["small"] = Term((guess.square().mean(dim=(1, 2)) * real).sum(), real.sum(), 0.3)
            return Loss(terms)

        policy.loss = loss  # type: ignore[method-assign]
        self.seen = seen


@pytest.mark.parametrize("smoothness", [False, True])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(material: Open, smoothness: bool) -> None:
    whole = material(batch_size=12, smoothness=smoothness)
    parts = material(batch_size=4, smoothness=smoothness)
    still = Still(whole.policy), Still(parts.policy)
    first = accumulate(whole.policy, [whole.loader.batch(2)], (0, 0), "fp32", moved=Own(whole.policy))
    second = accumulate(
        parts.policy,
        [parts.loader.batch(step) for step in (6, 7, 8)],
        (0, 0),
        "fp32",
        moved=Own(parts.policy),
    )
    for name, gradient in gradients(whole.policy).items():
        assert torch.allclose(gradients(parts.policy)[name], gradient, atol=1e-6), name
    for name, term in first.items():
        assert float(second[name].sum) == pytest.approx(float(term.sum), rel=1e-5)
        assert float(second[name].count) == float(term.count)
    # the mean of the parts' means would be another number: their counts differ
    counts = [float(parts.loader.batch(step).horizon_mask.sum()) for step in (6, 7, 8)]
    assert len(set(counts)) > 1
    # with several terms the counts are found first, by one more pass without gradient over the later parts
    assert still[1].seen == [4] * (5 if smoothness else 3)


def test_a_term_that_no_sample_has_adds_nothing(material: Open) -> None:
    one = material(smoothness=False)
    loss = one.policy.loss

    def with_empty(batch: Batch, *, generator: torch.Generator | None) -> Loss:
        empty = Term(torch.zeros(()), torch.zeros(()), 5.0)
        return Loss({**loss(batch, generator=generator).terms, "empty": empty})

    accumulate(one.policy, [one.loader.batch(0)], (0, 0), "fp32", moved=Own(one.policy))
    expected = gradients(one.policy)
    one.policy.zero_grad()
    one.policy.loss = with_empty  # type: ignore[method-assign]
    accumulate(one.policy, [one.loader.batch(0)], (0, 0), "fp32", moved=Own(one.policy))
    for name, gradient in gradients(one.policy).items():
        assert torch.equal(gradient, expected[name])


@pytest.mark.parametrize("names", [["a", "b"], ["ab", "a"]])
def test_terms_must_not_come_and_go(material: Open, names: list[str]) -> None:
    one = material()
    coming = iter(names)

    def loss(batch: Batch, *, generator: torch.Generator | None) -> Loss:
        return Loss({name: Term(one.policy.leave.weight.sum(), torch.ones(())) for name in next(coming)})

    one.policy.loss = loss  # type: ignore[method-assign]
    batches = [one.loader.batch(0), one.loader.batch(1)]
    with pytest.raises(ValueError, match="expected equal loss terms for every batch"):
        accumulate(one.policy, batches, (0, 0), "fp32", moved=Own(one.policy))


def test_the_numbers_decide_noise_and_dropout(material: Open) -> None:
    one = material(dropout=0.5)
    batch = one.loader.batch(0)
    one.policy.train()
    with torch.random.fork_rng(devices=[]):
        losses = [
            float(forward(one.policy, batch, numbers, "fp32").total().detach())
            for numbers in ((1, 2), (1, 2), (1, 3))
        ]
    assert losses[0] == losses[1] != losses[2]


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(material: Open) -> None:
    one = material(dropout=0.0)
    batch = one.loader.batch(0)
    kinds = []
    one.policy.leave.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    exact, rounded = (forward(one.policy, batch, (0,), precision).total() for precision in ("fp32", "bf16"))
    assert kinds[0] == torch.float32
    assert kinds[-1] == torch.bfloat16
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.05)  # 8 bits of mantissa
    rounded.backward()
    assert all(
        weight.grad.dtype == torch.float32 for weight in one.policy.parameters() if weight.grad is not None
    )
