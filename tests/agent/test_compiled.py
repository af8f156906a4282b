"""A compiled policy answers what the plain one does, or says that it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from calibrated import body, random_batch
from tiny_policy import TinyPolicy

from visuomotor.agent import PolicyAgent
from visuomotor.agent.compiled import CompiledAct
from visuomotor.errors import VisuomotorError
from visuomotor.policies.base import Acted
from visuomotor.policies.diffusion import DiffusionConfig, DiffusionPolicy
from visuomotor.testing.policies import shape_checks_off
from visuomotor.types import Observation, Stats


def agent(policy: TinyPolicy, stats: Stats, compiled: CompiledAct | None) -> PolicyAgent:
    return PolicyAgent(policy, policy.transforms("set", stats), key="set", compiled=compiled)


def test_answers_are_those_of_the_plain_policy(
    policy: TinyPolicy, stats: Stats, observation: Observation
) -> None:
    plain = agent(policy.eval(), stats, None)
    quick = agent(policy, stats, CompiledAct(policy, backend="aot_eager"))
    before = torch.get_rng_state()
    with shape_checks_off():  # the checks of the test run cannot be compiled
        for seed in range(3):
            first, second = (
                each.act(observation, generator=np.random.default_rng(seed)) for each in (plain, quick)
            )
            np.testing.assert_allclose(first.actions, second.actions, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_on_the_way_is_that_of_the_plain_policy() -> None:
    """DDPM draws at every step; with `past` the chunk that is drawn is longer than the answer."""
    given = {"vision": "none", "guess": 0.0, "sampler": "ddpm", "steps": 3, "temperature": 1.0, "past": 1}
    tiny = replace(DiffusionConfig.tiny(), **given)
    torch.manual_seed(0)
    policy = DiffusionPolicy(tiny, {"one": body("arm")}).eval()
    batch = random_batch(policy)
    with torch.no_grad(), shape_checks_off():
        plain = policy.act(batch, generator=torch.Generator().manual_seed(7))
        quick = CompiledAct(policy, backend="eager")(batch, torch.Generator().manual_seed(7))
    torch.testing.assert_close(quick.actions, plain.actions, atol=1e-5, rtol=1e-5)


def test_a_prefix_is_answered_by_the_plain_policy(
    policy: TinyPolicy, stats: Stats, observation: Observation
) -> None:
    plain = agent(policy.eval(), stats, None)
    quick = agent(policy, stats, CompiledAct(policy, backend="aot_eager"))
    prefix = np.zeros((2, 3), np.float32)
    first, second = (each.act(observation, prefix=prefix, delay=1).actions for each in (plain, quick))
    np.testing.assert_array_equal(first, second)


def test_a_compiled_policy_that_answers_otherwise_is_refused(
    policy: TinyPolicy, stats: Stats, observation: Observation
) -> None:
    compiled = CompiledAct(policy.eval(), backend="aot_eager")

    def wrong(batch: Any, **rest: Any) -> Acted:
        return Acted(actions=policy.act(batch, **rest).actions + 0.1)

    compiled._call = wrong
    with pytest.raises(VisuomotorError, match=r"differ by 0\.1 in model space"):
        agent(policy, stats, compiled).act(observation)


def test_graphs_without_a_gpu_are_refused(policy: TinyPolicy) -> None:
    with pytest.raises(ValueError, match="CUDA graphs need a policy on a GPU"):
        CompiledAct(policy, graphs=True)


def test_each_size_of_batch_is_a_graph_that_is_held_against_the_plain_policy(policy: TinyPolicy) -> None:
    """More sizes than torch compiles of one function if nobody asks for more."""
    quick = CompiledAct(policy.eval(), backend="eager")
    with torch.no_grad(), shape_checks_off():
        for count in range(1, 11):
            batch = random_batch(policy, count)
            plain = policy.act(batch, generator=torch.Generator().manual_seed(count))
            found = quick(batch, torch.Generator().manual_seed(count))
            torch.testing.assert_close(found.actions, plain.actions, atol=1e-5, rtol=1e-5)
    assert len(quick._held) == 10
