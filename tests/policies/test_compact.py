"""The family `compact` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import armed_body, body

from visuomotor.agent.policy import PolicyAgent
from visuomotor.data.collate import collate
from visuomotor.generative import flow
from visuomotor.perception.language import LanguageConfig
from visuomotor.policies.compact import SPREAD, Compact, CompactConfig, precondition
from visuomotor.testing import RandomSentenceEncoder, check_policy
from visuomotor.testing.samples import random_observation, random_sample, random_stats
from visuomotor.text.sentences import SentenceCache
from visuomotor.types import Batch, Camera

TINY = CompactConfig.tiny()
ONE_VIEW = dict.fromkeys(
    ("sight.trust.weight", "sight.trust.bias"), "only one camera is calibrated, so it has all trust"
)


def test_words_learned_from_scratch_keep_the_contract() -> None:
    check_policy(
        lambda: Compact(CompactConfig.tiny(), {"one": body("arm"), "two": body("leg", 5, 2)}),
        without_gradient=ONE_VIEW,
    )


def test_bodies_with_other_cameras_keep_the_contract() -> None:
    other = replace(body("leg", 5, 2), cameras=(Camera(name="side", height=16, width=24),))
    check_policy(
        lambda: Compact(CompactConfig.tiny(), {"one": armed_body(), "two": other}),
        compiles=False,
        without_gradient={},
    )


def test_a_body_that_tells_its_hand_keeps_the_contract() -> None:
    check_policy(lambda: Compact(CompactConfig.tiny(), {"one": armed_body()}), compiles=False)


def test_encoded_sentences_and_history_keep_the_contract() -> None:
    config = replace(TINY, language=LanguageConfig(width=24), history=(-2, 0))
    sentences = SentenceCache(RandomSentenceEncoder(24))
    check_policy(
        lambda: Compact(config, {"one": body("arm")}),
        sentences=sentences,
        compiles=False,
        without_gradient=ONE_VIEW,
    )


def test_two_parts_keep_the_contract() -> None:
    config = replace(TINY, sight=replace(TINY.sight, slots=4, parts=2))
    check_policy(lambda: Compact(config, {"one": armed_body()}), compiles=False)


def test_learned_prefixes_keep_the_contract() -> None:
    config = replace(TINY, max_delay=3)
    check_policy(lambda: Compact(config, {"one": armed_body()}), compiles=False)


def test_default_size_is_between_two_and_five_million_parameters() -> None:
    policy = Compact(CompactConfig(), {"one": body("arm", 20, 7)})
    assert 2e6 <= sum(weight.numel() for weight in policy.parameters()) <= 5e6


@pytest.mark.parametrize("name", ["guess", "temperature"])
def test_negative_weights_and_temperatures_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        replace(TINY, **{name: -0.1})


@pytest.mark.parametrize("max_delay", [-1, TINY.horizon])
def test_a_delay_of_the_whole_chunk_is_refused(max_delay: int) -> None:
    with pytest.raises(ValueError, match=r"max_delay must be in \[0, horizon\)"):
        replace(TINY, max_delay=max_delay)


def test_preconditioning_leaves_unit_variance_to_the_network() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = SPREAD * torch.randn(200_000, 1, 1, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    for moment in (0.0, 0.3, 0.7, 0.95):
        time = torch.full((1,), moment)
        skip, out, enter = precondition(time)
        points = flow.interpolate(noise, clean, time.expand(len(clean)))
        target = (flow.velocity_target(noise, clean) - skip * points) / out
        assert float((enter * points).std()) == pytest.approx(1, abs=0.01)
        assert float(target.std()) == pytest.approx(1, abs=0.01)


def a_batch(policy: Compact) -> Batch:
    key = next(iter(policy.bodies))
    pipeline = policy.transforms(key, random_stats(policy.bodies[key]))
    samples = [random_sample(policy.bodies[key], policy.window, key, number) for number in range(6)]
    return collate([pipeline.apply(sample) for sample in samples], policy.embodiments)


def test_chunks_stay_near_the_first_guess_when_the_temperature_is_low() -> None:
    torch.manual_seed(0)
    policies = [
        Compact(replace(CompactConfig.tiny(), temperature=temperature), {"one": body("arm")})
        for temperature in (0.0, 1.0)
    ]
    policies[1].load_state_dict(policies[0].state_dict())
    batch = a_batch(policies[0])
    spreads = []
    for policy in policies:
        chunks = [
            policy.act(batch, generator=torch.Generator().manual_seed(seed)).actions.detach()
            for seed in range(8)
        ]
        spreads.append(float(torch.stack(chunks).std(0).mean()))
    assert spreads[0] == pytest.approx(0, abs=1e-7)
    assert spreads[1] > 0.01


def test_the_flow_draws_noise_for_pictures_and_learns_from_blind_samples() -> None:
    policy = Compact(TINY, {"one": armed_body()})
    batch = a_batch(policy)
    batch = replace(batch, blind=replace(batch, images={}, image_mask={}))
    terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    plain = policy.loss(replace(batch, blind=None), generator=torch.Generator().manual_seed(0)).terms
    assert set(terms) == {"guess", "doubt", "flow", "look", "contrast", "point"}
    assert float(terms["guess"].count) == 2 * float(plain["guess"].count)
    assert float(plain["flow"].count) == TINY.draws * float(plain["guess"].count)
    assert float(terms["flow"].count) == float(plain["flow"].count) + float(plain["guess"].count)


def with_delay(policy: Compact, max_delay: int, **fields: float) -> Compact:
    """The same policy, which has learned nothing about prefixes, with a place to learn it."""
    other = Compact(replace(policy.config, max_delay=max_delay, **fields), policy.bodies)
    missing, unknown = other.load_state_dict(policy.state_dict(), strict=False)
    assert (missing, unknown) == (["velocity.from_clean.weight"] if max_delay else [], [])
    return other.eval()


def test_nothing_promised_is_no_difference_to_a_policy_that_learned_prefixes() -> None:
    torch.manual_seed(0)
    plain = Compact(TINY, {"one": body("arm")}).eval()
    other, batch = with_delay(plain, 2), a_batch(plain)
    noise = torch.randn(6, TINY.horizon, 3)
    assert torch.equal(plain.act(batch, noise=noise).actions, other.act(batch, noise=noise).actions)
    prefix, held = batch.actions[:, :3], torch.full((6, 3), 0.5)
    for part, share in ((prefix, None), (prefix, held), (prefix[:, :2], held[:, :2])):  # steered in both
        answers = [
            policy.act(batch, noise=noise, prefix=part, held=share).actions for policy in (plain, other)
        ]
        assert torch.equal(*answers)


def test_only_ticks_behind_the_clean_ones_count() -> None:
    policy = Compact(replace(TINY, max_delay=3), {"one": body("arm")})
    clean = torch.randn(4000, TINY.horizon, 3)
    mask, vector = torch.ones_like(clean, dtype=torch.bool), torch.randn(4000, policy.sight.width)
    term = policy.flow(vector, clean, mask, clean, torch.Generator().manual_seed(0))
    assert float(term.count) / clean.numel() == pytest.approx(1 - 1.5 / 4, abs=0.02)  # of 0 to 3, uniformly
    with torch.no_grad():  # a network that says nothing is wrong by 1 on average, whatever the flow time
        policy.velocity.leave.weight.zero_()
        policy.velocity.leave.bias.zero_()
    term = policy.flow(vector, clean, mask, clean, torch.Generator().manual_seed(0))
    assert float(term.sum.detach() / term.count) == pytest.approx(1, abs=0.03)


def test_a_promise_is_learned_as_what_ran_and_not_as_what_should_have() -> None:
    """What ran at the first tick is random, and what should be done at the second depends on it alone."""
    torch.manual_seed(0)
    policy = Compact(replace(TINY, max_delay=1, steps=8), {"one": body("arm")}).eval()
    torch.nn.init.constant_(policy.guess.doubt.bias, math.log(0.5))
    assert policy.window.executed
    assert not Compact(TINY, {"one": body("arm")}).window.executed
    batch = a_batch(policy).map(lambda tensor: tensor[:1].expand(16, *tensor.shape[1:]).contiguous())
    actions = torch.zeros_like(batch.actions)
    ran = actions.clone()
    ran[:, 0] = torch.tensor([-0.5, 0.5]).repeat(8)[:, None]
    actions[:, 1:] = -ran[:, :1]
    batch = replace(batch, actions=actions, executed=ran, blind=None)
    optimizer = torch.optim.Adam(policy.velocity.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        policy.loss(batch, generator=generator).terms["flow"].sum.backward()
        optimizer.step()
    with torch.no_grad():
        chunk = policy.act(batch, noise=torch.zeros_like(actions), prefix=ran[:, :1]).actions
    torch.testing.assert_close(chunk[:, 1:], actions[:, 1:], atol=0.15, rtol=0)


def test_a_policy_that_learned_prefixes_goes_on_as_it_was_begun() -> None:
    """The same observation is answered with -0.5 or with 0.5, for all ticks of a chunk."""
    torch.manual_seed(0)
    policy = Compact(replace(TINY, max_delay=2, temperature=1.0, steps=8), {"one": body("arm")}).eval()
    torch.nn.init.constant_(policy.guess.doubt.bias, math.log(0.5))
    batch = a_batch(policy).map(lambda tensor: tensor[:1].expand(256, *tensor.shape[1:]).contiguous())
    actions = torch.tensor([-0.5, 0.5]).repeat(128)[:, None, None].expand_as(batch.actions)
    mask = torch.ones_like(actions, dtype=torch.bool)
    with torch.no_grad():
        vector = policy.sight(batch).vector
        guess, doubt = policy.guess(vector)
    optimizer = torch.optim.Adam(policy.velocity.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        left = (actions - guess) / doubt
        term = policy.flow(vector, left, mask, left, generator)
        (term.sum / term.count).backward()
        optimizer.step()
    noise = torch.randn(actions.shape, generator=generator)
    with torch.no_grad():
        chunks = [policy.act(batch, noise=noise).actions]
        chunks += [policy.act(batch, noise=noise, prefix=actions[:, :length]).actions for length in (1, 2)]
    assert torch.equal(chunks[2][:, :2], actions[:, :2])
    kept = [float((chunk[:, 2:].mean((1, 2)) * actions[:, 0, 0] > 0.1).float().mean()) for chunk in chunks]
    assert kept[0] == pytest.approx(0.5, abs=0.15)
    assert min(kept[1:]) >= 0.95


def test_an_agent_keeps_what_it_promised_in_the_units_of_the_robot() -> None:
    torch.manual_seed(0)
    policy = Compact(replace(TINY, max_delay=2), {"one": body("arm")})
    agent = PolicyAgent(policy, policy.transforms("one", random_stats(policy.bodies["one"])), key="one")
    observation = random_observation(agent.spec, np.random.default_rng(0))
    promised = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    chunk = agent.act(observation, prefix=promised, delay=2)
    np.testing.assert_allclose(chunk.actions[:2], promised, rtol=1e-5, atol=1e-6)  # there and back, float32
