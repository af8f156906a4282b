"""The family `pi0_fast` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrated import armed_body, random_batch

from visuomotor.codecs.fast import FAST
from visuomotor.codecs.fast_hub import read_fast, write_fast
from visuomotor.data.collate import collate
from visuomotor.errors import DataError
from visuomotor.nn.mixture import Segment, run
from visuomotor.nn.weights import unfilled
from visuomotor.policies.base import Policy
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.policies.pi05 import PI05, PI05Config
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


def codec(horizon: int = 4, action: int = 3, vocabulary: int = 256) -> dict[str, Any]:
    """With as many tokens as asked for: everything comes twice."""
    shape = (6_000 // (horizon * action), horizon, action)
    chunks = np.random.default_rng(0).uniform(-1, 1, shape)
    return FAST.fit(np.concatenate([chunks, chunks]), vocabulary=vocabulary).to_json()


@pytest.mark.parametrize("family", ["pi0-FAST", "pi0.5"])
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"horizon": 5}, "fitted to chunks of 5 x 3, the policy's are 4 x 3. Fit it anew: codec=None"),
        ({"action": 2}, "fitted to chunks of 4 x 2, the policy's are 4 x 3"),
        ({"vocabulary": 300}, r"has 300 tokens, the policy writes at most 256\. Set vocab"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused(family: str, made: dict[str, Any], message: str) -> None:
    def build(codec: dict[str, Any] | None) -> Policy:
        if family == "pi0-FAST":
            return PI0FAST(replace(PI0FASTConfig.tiny(), codec=codec), BODIES)
        tiny = PI05Config.tiny()
        changed = replace(tiny, trunk=replace(tiny.trunk, words=257), vocabulary=256, codec=codec)
        return PI05(replace(changed, insulated=True), BODIES)

    assert not build(codec()).unfitted
    with pytest.raises(ValueError, match=f"{family}: the codec .*{message}"):
        build(codec(**made))


def test_a_published_tokenizer_of_actions_becomes_the_codec(tmp_path: Path) -> None:
    """As docs/backbones.md tells it: two files, read for chunks of the policy, a part of the config."""
    write_fast(FAST.from_json(codec()), tmp_path)
    config = PI0FASTConfig.tiny()
    limits = (-1.5, 1.5)
    found = read_fast(tmp_path, horizon=config.horizon, action=3, limits=limits)
    torch.manual_seed(0)
    policy = PI0FAST(replace(config, codec=found.to_json()), BODIES).eval()
    with torch.no_grad():
        acted = policy.act(random_batch(policy, 3))
    assert acted.failures is None
    assert float(acted.actions.abs().max()) <= 1.5


def test_the_published_policy_takes_a_codec_of_the_size_of_the_published_one() -> None:
    config = PI0FASTConfig.published()
    plus = codec(config.horizon, config.trunk.action, vocabulary=2048)  # type: ignore[union-attr]
    with unfilled():
        policy = PI0FAST(replace(config, codec=plus), BODIES)
    assert policy.required.vocabulary == 2048
