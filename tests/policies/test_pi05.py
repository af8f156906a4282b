"""The family `pi05` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import armed_body, random_batch

from visuomotor.data.collate import collate
from visuomotor.nn.weights import nested
from visuomotor.perception.paligemma_trunk import binned
from visuomotor.policies.pi05 import PI05, PI05Config, released_names
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Dimension

BODIES = {"one": armed_body()}


@pytest.fixture
def policy() -> PI05:
    torch.manual_seed(0)
    made = PI05(PI05Config.tiny(), BODIES).eval()
    for parameter in made.expert.parameters():  # fresh norms are steered by nothing
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.slow
def test_the_shared_sight_keeps_the_contract() -> None:
    check_policy(lambda: PI05(replace(PI05Config.tiny(), max_delay=2), BODIES), compiles=False)


def insulated() -> PI05Config:
    """With a codec for the samples that tests make."""
    tiny = PI05Config.tiny()
    trunk = replace(tiny.trunk, words=257)
    policy = PI05(replace(tiny, trunk=trunk, insulated=True, vocabulary=256), BODIES)
    assert policy.unfitted
    spec = BODIES["one"]
    pipeline = policy.transforms("one", random_stats(spec))
    chunks = [pipeline.apply(random_sample(spec, policy.window, "one", n)).actions for n in range(40)]
    return policy.fitted(np.stack(chunks))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_insulated_policy_keeps_the_contract() -> None:
    made = insulated()
    check_policy(lambda: PI05(made, BODIES), compiles=False)


def test_the_flow_of_an_insulated_policy_teaches_the_trunk_nothing() -> None:
    torch.manual_seed(0)
    policy = PI05(insulated(), BODIES)
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = random_batch(policy)
    loss = policy.loss(batch, generator=torch.Generator().manual_seed(0))
    assert {"flow", "token"} <= set(loss.terms)
    loss.terms["flow"].sum.backward(retain_graph=True)
    assert all(weight.grad is None for weight in policy.trunk.parameters())
    assert all(weight.grad is not None for weight in policy.expert.levels[0].parameters())
    loss.terms["token"].sum.backward()
    assert all(weight.grad is not None for weight in policy.trunk.decoder.parameters())


@pytest.mark.slow
def test_a_policy_without_its_flow_keeps_the_contract() -> None:
    made = replace(insulated(), weight=0.0)
    check_policy(lambda: PI05(made, BODIES), compiles=False)


def test_without_its_flow_tokens_are_learned_and_the_first_guess_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    policy = PI05(replace(insulated(), weight=0.0), BODIES)
    monkeypatch.setattr(PI05, "velocity", None)  # never computed
    batch = random_batch(policy)
    loss = policy.loss(batch, generator=torch.Generator().manual_seed(0))
    assert "token" in loss.terms
    assert "flow" not in loss.terms
    loss.total().backward()
    silent = {name for name, weight in policy.named_parameters() if weight.grad is None}
    assert silent == {name for name, weight in policy.named_parameters() if not weight.requires_grad}
    assert {name.partition(".")[0] for name in silent} == {"expert", "condition", "enter", "leave"}
    acted = policy.act(batch)
    assert torch.equal(acted.actions, policy.trunk.observe(batch).guess)
    assert acted.failures is None
    with pytest.raises(ValueError, match=r"nothing would learn actions\. Set insulated"):
        PI05Config(weight=0.0)


def test_what_depends_on_time_alone_may_be_looked_up(policy: PI05) -> None:
    batch = random_batch(policy)
    assert batch.action_mask is not None
    chunk = torch.randn(4, 4, policy.action_width)
    with torch.no_grad():
        past = policy.remember(policy.trunk.observe(batch))
        plain = policy.velocity(past, batch.action_mask)
        table = policy.velocity(past, batch.action_mask, tabulated=True)
        for step in range(policy.config.steps):
            time = torch.full((4,), step / policy.config.steps)
            torch.testing.assert_close(table(chunk, time), plain(chunk, time))
        assert not torch.allclose(plain(chunk, time), plain(chunk, time - 0.5))


def test_each_tick_may_have_a_time_of_its_own(policy: PI05) -> None:
    batch = random_batch(policy)
    assert batch.action_mask is not None
    chunk, time = torch.randn(4, 4, policy.action_width), torch.full((4,), 0.25)
    with torch.no_grad():
        past = policy.remember(policy.trunk.observe(batch))
        velocity = policy.velocity(past, batch.action_mask)
        each = velocity(chunk, time[:, None].expand(4, 4))
        torch.testing.assert_close(each, velocity(chunk, time))
        mixed = time[:, None].repeat(1, 4)
        mixed[:, 0] = 1.0
        assert not torch.allclose(velocity(chunk, mixed), each)


def test_a_fresh_expert_answers_what_it_is_given() -> None:
    torch.manual_seed(0)
    made = PI05(PI05Config.tiny(), BODIES).eval()
    batch = random_batch(made)
    assert batch.action_mask is not None
    chunk = torch.randn(4, 4, made.action_width)
    with torch.no_grad():
        found = made.velocity(made.remember(made.trunk.observe(batch)), batch.action_mask)(
            chunk, torch.zeros(4)
        )
        tokens = made.enter(chunk * batch.action_mask[:, None])
        normed = tokens * torch.rsqrt(tokens.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(found, made.leave(normed))


def test_the_bins_of_a_state_are_those_of_the_released_code() -> None:
    state = np.array([-1.5, -1.0, -0.999, 0.0, 0.9999, 1.0, 3.0], dtype=np.float32)
    assert binned(state).tolist() == [-1, 0, 0, 128, 255, 255, 255]


def test_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        made = PI05(PI05Config.published(), BODIES)
    assert sum(weight.numel() for weight in made.parameters()) == 3_353_433_872
    names = nested(released_names(made.config), "", "")
    assert set(names) == {name for name, _ in made.named_parameters()}
    spelled = names["expert.layers.3.mlp_norm.steer.bias"]
    assert "paligemma_with_expert.gemma_expert.model.layers.3.post_attention_layernorm.dense.bias" in spelled


def test_a_policy_of_several_bodies_reads_no_padded_state() -> None:
    torch.manual_seed(0)
    wide = replace(BODIES["one"], embodiment="wide", state=(*BODIES["one"].state, Dimension(name="more")))
    made = PI05(PI05Config.tiny(), {"one": BODIES["one"], "two": wide}).eval()
    spec = BODIES["one"]
    sample = made.transforms("one", random_stats(spec)).apply(random_sample(spec, made.window, "one", 0))
    seen = made.trunk.observe(collate([sample], made.embodiments))
    assert seen.prefix.real is not None
    assert seen.prefix.real[0].tolist() == [True] * (2 + len(spec.state)) + [False]
