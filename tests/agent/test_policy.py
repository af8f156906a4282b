from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_policy import TinyConfig, TinyPolicy

from visuomotor.agent import Agent, PolicyAgent
from visuomotor.data.synthetic import SPEC
from visuomotor.generative.prefix import prefix_weights
from visuomotor.policies.base import Acted, Context
from visuomotor.training.run import build_policy
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Observation, Sample, Spec, Stats


@pytest.fixture
def agent(policy: TinyPolicy, stats: Stats) -> PolicyAgent:
    return PolicyAgent(policy, policy.transforms("set", stats), key="set")


def test_a_policy_with_its_pipeline_is_an_agent(agent: PolicyAgent, observation: Observation) -> None:
    assert isinstance(agent, Agent)
    chunk = agent.act(observation, generator=np.random.default_rng(0))
    assert chunk.actions.shape == (4, 3)
    assert chunk.actions.dtype == np.float32
    assert chunk.rate == 10
    assert chunk.time == observation.time
    assert chunk.failure is None
    assert agent.think(observation) is None


def test_the_generator_decides_and_none_repeats(agent: PolicyAgent, observation: Observation) -> None:
    def act(generator: np.random.Generator | None) -> np.ndarray:
        return agent.act(observation, generator=generator).actions

    assert np.array_equal(act(np.random.default_rng(5)), act(np.random.default_rng(5)))
    assert not np.array_equal(act(np.random.default_rng(5)), act(np.random.default_rng(6)))
    assert np.array_equal(act(None), act(None))
    generator = np.random.default_rng(5)
    assert not np.array_equal(act(generator), act(generator))


def test_acting_leaves_global_random_state_and_arguments_alone(
    agent: PolicyAgent, observation: Observation
) -> None:
    before = torch.get_rng_state(), {name: image.copy() for name, image in observation.images.items()}
    agent.act(observation, generator=np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(observation.images[name], image) for name, image in before[1].items())


def test_a_misfit_is_named_before_the_network_runs(agent: PolicyAgent, observation: Observation) -> None:
    with pytest.raises(ValueError, match="camera 'wrist' is missing"):
        agent.act(replace(observation, images={"front": observation.images["front"]}))
    with pytest.raises(ValueError, match="not finite in x"):
        agent.act(replace(observation, state=np.array([[np.inf, 0, 0]], np.float32)))


def test_dropout_is_off_while_acting(stats: Stats, observation: Observation) -> None:
    policy = build_policy("tiny_policy:TinyPolicy", TinyConfig(dropout=0.5), {"set": SPEC}, seed=0)
    agent = PolicyAgent(policy.train(), policy.transforms("set", stats), key="set")
    first, second = (agent.act(observation).actions for _ in range(2))
    assert np.array_equal(first, second)


def test_a_promised_prefix_in_robot_units_pulls_the_chunk_towards_it(
    agent: PolicyAgent, observation: Observation, stats: Stats
) -> None:
    free = agent.act(observation).actions
    prefix = np.tile(stats["action"].mean + stats["action"].std, (6, 1))
    bound = agent.act(observation, prefix=prefix[:2], delay=2).actions
    far, near = np.abs(free[:2] - prefix[:2]).max(), np.abs(bound[:2] - prefix[:2]).max()
    assert near < 0.25 * far
    soft = agent.act(
        observation, prefix=prefix[:3]
    ).actions  # nothing is promised, all of it is held a little
    assert near < np.abs(soft[2] - prefix[2]).max() < far
    assert np.array_equal(agent.act(observation, prefix=prefix[:0]).actions, free)


class Seen(TinyPolicy):
    """Keeps what it was asked."""

    def act(self, batch: Batch, **asked: object) -> Acted:
        self.asked = asked
        return super().act(batch)


@dataclass(frozen=True)
class FromState:
    """Actions measured from the state at the observation."""

    def apply(self, sample: Sample) -> Sample:
        return (
            sample if sample.actions is None else replace(sample, actions=sample.actions - sample.state[-1])
        )

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        return actions + observation.state[-1]


def test_a_prefix_is_measured_anew_from_the_present_observation(observation: Observation) -> None:
    policy = Seen(TinyConfig(), {"set": SPEC})
    agent = PolicyAgent(policy, Pipeline((FromState(),)), key="set")
    prefix = np.arange(15, dtype=np.float64).reshape(5, 3)
    agent.act(observation, prefix=prefix[:3], delay=3)
    promised = policy.asked["prefix"]
    assert isinstance(promised, torch.Tensor)
    assert promised.shape == (1, 3, 3)
    assert np.allclose(promised[0].numpy(), prefix[:3] - observation.state[0], atol=1e-6)
    assert policy.asked["held"] is None  # all of it is promised
    agent.act(observation, prefix=prefix, delay=2)  # longer than a chunk
    assert policy.asked["prefix"].shape == (1, 4, 3)
    assert np.array_equal(policy.asked["held"][0].numpy(), prefix_weights(4, delay=2, end=4))


@pytest.mark.parametrize(
    ("prefix", "delay", "message"),
    [
        (None, -1, "delay counts ticks"),
        (np.zeros((2, 3)), 3, "delay of 3 ticks, but prefix has 2 actions"),
        (np.zeros((9, 3)), 5, "delay of 5 ticks, but prefix has 9 actions and a chunk 4"),
        (np.zeros((2, 4)), 1, r"expected actions \(prefix, 3\), got shape \(2, 4\)"),
        (np.full((2, 3), np.nan), 1, "expected finite actions"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(
    agent: PolicyAgent, observation: Observation, prefix: np.ndarray | None, delay: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        agent.act(observation, prefix=prefix, delay=delay)


class Answering(TinyPolicy):
    """Answers what the test says."""

    answer: Acted

    def act(self, batch: Batch, **asked: object) -> Acted:
        return self.answer


@pytest.fixture
def answering(stats: Stats) -> PolicyAgent:
    policy = Answering(TinyConfig(), {"set": SPEC})
    return PolicyAgent(policy, Pipeline(), key="set")


def test_mask_text_and_progress_are_handed_on(answering: PolicyAgent, observation: Observation) -> None:
    answering.policy.answer = Acted(
        actions=torch.zeros(1, 4, 3),
        mask=torch.tensor([[True, True, False, False]]),
        text=("reaching",),
        progress=torch.tensor([0.25]),
    )
    chunk = answering.act(observation)
    assert chunk.mask is not None
    assert chunk.mask.tolist() == [True, True, False, False]
    assert chunk.text == "reaching"
    assert chunk.progress == 0.25


def test_a_failure_and_numbers_that_are_not_finite_give_no_actions(
    answering: PolicyAgent, observation: Observation
) -> None:
    answering.policy.answer = Acted(actions=torch.zeros(1, 4, 3), failures=("no valid tokens",))
    chunk = answering.act(observation)
    assert chunk.failure == "no valid tokens"
    assert chunk.actions.shape == (0, 3)
    answering.policy.answer = Acted(actions=torch.full((1, 4, 3), torch.nan))
    assert "not finite" in (answering.act(observation).failure or "")
    answering.policy.answer = Acted(
        actions=torch.tensor([0.0, torch.nan]).repeat_interleave(6).reshape(1, 4, 3),
        mask=torch.tensor([[True, True, False, False]]),
    )
    assert answering.act(observation).failure is None  # it has no opinion there


class Slow(TinyPolicy):
    """Thinks about the state and adds its thought to the actions."""

    def think(self, batch: Batch, *, generator: torch.Generator | None = None) -> Context:
        return Context(
            tensors={"thought": batch.state[:, -1:]}, time=torch.zeros(len(batch), dtype=torch.float64)
        )

    def act(self, batch: Batch, *, context: Context | None = None, **asked: object) -> Acted:
        assert context is not None
        return Acted(actions=super().act(batch, **asked).actions + context.tensors["thought"])  # type: ignore[arg-type]


def test_a_thought_is_made_once_and_used_later(observation: Observation, stats: Stats) -> None:
    policy = Slow(TinyConfig(), {"set": SPEC})
    agent = PolicyAgent(policy, Pipeline(), key="set")
    thought = agent.think(observation)
    assert thought is not None
    later = replace(observation, state=observation.state + 1)
    shifted = agent.act(later, context=thought).actions
    plain = agent.act(later, context=replace(thought, tensors={"thought": torch.zeros(1, 1, 3)})).actions
    assert np.allclose(shifted - plain, observation.state, atol=1e-5)


def test_training_seeds_are_known(policy: TinyPolicy, spec: Spec) -> None:
    provenance = {"data": {"a": {"seeds": [1, 2]}, "b": {"seeds": [2, 9]}, "c": {}}}
    agent = PolicyAgent(policy, Pipeline(), key="set", provenance=provenance)
    assert agent.seeds == {1, 2, 9}
    with pytest.raises(ValueError, match="unknown data-set key 'sets'"):
        PolicyAgent(policy, Pipeline(), key="sets")
