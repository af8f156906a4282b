"""The family `pi0` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import body, random_batch

from visuomotor.data.collate import collate
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats

BODIES = {"one": body("arm"), "two": body("leg", 5, 2)}
ONE_VIEW = dict.fromkeys(
    ("trunk.sight.trust.weight", "trunk.sight.trust.bias"),
    "only one camera is calibrated, so it has all trust",
)


def built(config: PI0Config) -> PI0:
    torch.manual_seed(0)
    return PI0(config, {"one": body("arm")}).eval()


@pytest.mark.slow
def test_the_shared_sight_keeps_the_contract() -> None:
    check_policy(lambda: PI0(PI0Config.tiny(), BODIES), without_gradient=ONE_VIEW)


@pytest.mark.slow
def test_clean_prefixes_keep_the_contract() -> None:
    config = replace(PI0Config.tiny(), max_delay=2)
    check_policy(lambda: PI0(config, BODIES), without_gradient=ONE_VIEW, compiles=False)


def test_what_depends_on_time_alone_may_be_looked_up() -> None:
    policy = built(PI0Config.tiny())
    batch = random_batch(policy)
    assert batch.action_mask is not None
    chunk = torch.randn(4, 4, 3)
    with torch.no_grad():
        past = policy.remember(policy.trunk.observe(batch))
        plain = policy.velocity(past, batch.action_mask)
        table = policy.velocity(past, batch.action_mask, tabulated=True)
        for step in range(policy.config.steps):
            time = torch.full((4,), step / policy.config.steps)
            torch.testing.assert_close(table(chunk, time), plain(chunk, time))


def test_the_expert_sees_the_state_and_the_trunk_does_not() -> None:
    policy = built(PI0Config.tiny())
    seen = policy.trunk.observe(random_batch(policy))
    with torch.no_grad():
        one, other = (policy.remember(seen._replace(state=seen.state + value)) for value in (0.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(one[0].keys, other[0].keys, strict=True))
    assert not torch.equal(one[1].keys[0], other[1].keys[0])


@pytest.mark.parametrize("delay", [0, 2])
def test_promises_are_kept_by_the_flow_itself(delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is written over the answer afterwards: steered towards them, or clean from the start."""
    policy = built(replace(PI0Config.tiny(), max_delay=delay, steps=20))
    for parameter in policy.leave.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    monkeypatch.setattr("visuomotor.policies.pi0.continued", lambda actions, prefix, held: actions)
    batch = random_batch(policy)
    noise = torch.zeros(4, 4, 3)
    with torch.no_grad():
        free = policy.act(batch, noise=noise).actions
        promised = free[:, :2] + 0.1
        found = policy.act(batch, noise=noise, prefix=promised).actions
    off = (found[:, :2] - promised).abs().max()
    assert off < (1e-5 if delay else 0.03)


def test_learned_padding_is_that_of_dimensions_alone() -> None:
    """Ticks beyond the end of an episode, and samples without actions, teach nothing."""
    torch.manual_seed(0)
    policy = PI0(replace(PI0Config.tiny(), padding="learned"), BODIES)
    spec = BODIES["two"]
    pipeline = policy.transforms("two", random_stats(spec))
    samples = [pipeline.apply(random_sample(spec, policy.window, "two", n)) for n in range(4)]
    samples[1] = replace(samples[1], horizon_mask=np.array([True, True, False, False]))
    batch = replace(collate(samples, policy.embodiments), blind=None)
    batch = replace(batch, has_actions=torch.tensor([True, True, False, True]))
    assert batch.horizon_mask is not None
    real = int(batch.horizon_mask[batch.has_actions].sum())
    term = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms["flow"]
    assert int(term.count) == policy.config.draws * real * 3  # three numbers, of which this body has two


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="max_delay"):
        replace(PI0Config.tiny(), max_delay=4)
    with pytest.raises(ValueError, match="law of flow times"):
        replace(PI0Config.tiny(), time_law="normal")  # type: ignore[arg-type]
