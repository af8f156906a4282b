"""The family `compact` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calibrated import armed_body, body

from visuomotor.data.collate import collate
from visuomotor.generative import flow
from visuomotor.perception.language import LanguageConfig
from visuomotor.policies.compact import SPREAD, Compact, CompactConfig, precondition
from visuomotor.testing import RandomSentenceEncoder, check_policy
from visuomotor.testing.samples import random_sample, random_stats
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


def test_default_size_is_between_two_and_five_million_parameters() -> None:
    policy = Compact(CompactConfig(), {"one": body("arm", 20, 7)})
    assert 2e6 <= sum(weight.numel() for weight in policy.parameters()) <= 5e6


@pytest.mark.parametrize("name", ["guess", "temperature"])
def test_negative_weights_and_temperatures_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        replace(TINY, **{name: -0.1})


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
