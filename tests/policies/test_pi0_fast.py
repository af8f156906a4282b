"""The family `pi0_fast` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from calibrated import armed_body, random_batch

from visuomotor.codecs.fast import FAST
from visuomotor.data.collate import collate
from visuomotor.errors import DataError
from visuomotor.nn.mixture import Segment, run
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.transforms.action_tokens import behind

BODIES = {"one": armed_body()}


@cache
def config() -> PI0FASTConfig:
    """With a codec for the samples that tests make."""
    unfitted = PI0FAST(PI0FASTConfig.tiny(), BODIES)
    spec = BODIES["one"]
    pipeline = unfitted.transforms("one", random_stats(spec))
    chunks = [pipeline.apply(random_sample(spec, unfitted.window, "one", n)).actions for n in range(40)]
    return unfitted.fitted(np.stack(chunks))  # type: ignore[arg-type]


def built() -> PI0FAST:
    torch.manual_seed(0)
    return PI0FAST(config(), BODIES).eval()


@pytest.mark.slow
def test_the_shared_sight_keeps_the_contract() -> None:
    made = config()
    check_policy(lambda: PI0FAST(made, BODIES), samples=3, compiles=False)


def test_what_is_written_is_always_a_whole_chunk() -> None:
    """Fresh weights know nothing, and yet every answer can be decoded."""
    policy = built()
    with torch.no_grad():
        acted = policy.act(random_batch(policy, 3))
    assert acted.failures is None
    low, high = policy.required.limits
    assert bool(torch.isfinite(acted.actions).all())
    assert ((acted.actions.numpy() >= low - 1e-6) & (acted.actions.numpy() <= high + 1e-6)).all()


def test_what_is_acted_on_holds_no_chunk() -> None:
    """A batch with actions and the same one without are answered alike."""
    policy = built()
    batch = random_batch(policy, 3)
    spec = BODIES["one"]
    pipeline = policy.transforms("one", random_stats(spec))
    samples = [replace(random_sample(spec, policy.window, "one", n), actions=None) for n in range(3)]
    asked = collate([pipeline.apply(sample) for sample in samples], policy.embodiments)
    with torch.no_grad():
        assert torch.equal(policy.act(batch).actions, policy.act(asked).actions)


def test_tokens_one_by_one_are_the_likeliest_of_all_at_once() -> None:
    """Cached decoding against scores of the whole text, and against a loop over one sample."""
    policy = built()
    batch = random_batch(policy, 3)
    begin = torch.full((3, 1), policy.config.vocabulary)
    with torch.no_grad():
        seen = policy.trunk.observe(batch)
        together = policy.write(seen, begin)
        for row, tokens in enumerate(together):
            one = policy.trunk.observe(batch.map(lambda t, row=row: t[row : row + 1]))
            assert np.array_equal(policy.write(one, begin[:1])[0], tokens)
            ids = torch.tensor([[policy.config.vocabulary, *tokens[:-1]]])
            text = Segment(tokens=policy.trunk.embed(ids), block=1, causal=True)
            (_, end), _ = run([policy.trunk.decoder], [one.prefix, text])
            scores = policy.trunk.score(end)[0].numpy()
            for place, token in enumerate(tokens):
                allowed = policy.required.allowed(tokens[:place])
                assert token == np.where(allowed, scores[place, : len(allowed)], -np.inf).argmax()


def test_learned_tokens_decode_to_the_chunk() -> None:
    policy = built()
    batch = random_batch(policy, 3)
    written, real = behind(batch, policy.trunk.prompt_width)
    assert batch.actions is not None
    for row, actions in enumerate(batch.actions):
        decoded = policy.required.decode(written[row][real[row]][1:].numpy())
        assert isinstance(decoded, np.ndarray)
        reached = int(batch.horizon_mask[row].sum())  # type: ignore[index]
        bound = policy.required.rounding_bound
        assert np.abs(decoded[:reached] - actions[:reached].numpy()).max() <= bound


def test_a_policy_without_codec_says_what_to_do() -> None:
    policy = PI0FAST(PI0FASTConfig.tiny(), BODIES)
    assert policy.unfitted
    with pytest.raises(DataError, match="Train the policy"):
        policy.act(random_batch(policy, 3))


def test_a_codec_of_other_chunks_is_refused() -> None:
    codec = FAST.fit(np.random.default_rng(0).uniform(-1, 1, (20, 5, 3)), vocabulary=256).to_json()
    with pytest.raises(ValueError, match="fitted to chunks of 5 x 3"):
        PI0FAST(replace(PI0FASTConfig.tiny(), codec=codec), BODIES)
