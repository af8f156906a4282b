"""A policy with its pipeline as an agent: raw observation to raw chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.agent.base import check_observation
from visuomotor.agent.compiled import CompiledAct
from visuomotor.agent.disk import training_seeds
from visuomotor.agent.folder import Weights, load_policy
from visuomotor.data.collate import collate
from visuomotor.generative.prefix import prefix_weights
from visuomotor.policies.base import Acted, Context, Policy
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Chunk, Observation, Sample, Spec, Window

__all__ = ["PolicyAgent", "load_agent"]


class PolicyAgent:
    """A policy, the pipeline of one data set and the body of that data set.

    Args:
        policy: Put into evaluation mode.
        pipeline: `policy.transforms(key, ...)`.
        key: Which of `policy.bodies` it acts for.
        provenance: Content of provenance.json, if it came from a checkpoint.
        folder: The checkpoint it came from.
        compiled: What answers calls without a prefix in the place of the plain policy.

    Attributes:
        spec: The body.
        window: History it wants and horizon it answers with.
    """

    def __init__(
        self,
        policy: Policy,
        pipeline: Pipeline,
        *,
        key: str,
        provenance: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        compiled: CompiledAct | None = None,
    ) -> None:
        self.policy = policy.eval()
        self.compiled = compiled
        self.pipeline = pipeline
        self.key = key
        self.provenance = dict(provenance or {})
        self.folder = folder
        self.spec: Spec = policy.check_key(key)
        self.window: Window = policy.window

    @property
    def seeds(self) -> frozenset[int]:
        """Every seed that its training data were collected with; an evaluation must not use them."""
        return training_seeds(self.provenance)

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return next(self.policy.parameters()).device

    def act(
        self,
        observation: Observation,
        *,
        generator: np.random.Generator | None = None,
        context: Context | None = None,
        prefix: Float[np.ndarray, "prefix action"] | None = None,
        delay: int = 0,
    ) -> Chunk:
        """The policy's chunk in robot units; see `Agent.act`.

        Raises:
            ValueError: The observation does not fit the body, or `prefix` and `delay` do not fit each other.
        """
        observation = check_observation(observation, self.spec, self.window)
        sample = self._sample(observation)
        promise = self._promise(sample, prefix, delay)
        if self.compiled is not None and not promise:
            with torch.no_grad():
                batch = self._batch(sample)
                acted = self.compiled(batch, self._generator(generator), context)
            return self._chunk(acted, observation, context)
        # Guidance by a prefix differentiates the network, which inference mode forbids.
        with torch.no_grad() if promise else torch.inference_mode():
            acted = self.policy.act(
                self._batch(sample), generator=self._generator(generator), context=context, **promise
            )
        return self._chunk(acted, observation, context)

    def think(
        self, observation: Observation, *, generator: np.random.Generator | None = None
    ) -> Context | None:
        """The slow part of the policy; None if it has none."""
        if type(self.policy).think is Policy.think:
            return None
        observation = check_observation(observation, self.spec, self.window)
        with torch.no_grad():
            thought = self.policy.think(
                self._batch(self._sample(observation)), generator=self._generator(generator)
            )
        if thought is None:
            return None
        return replace(thought, time=torch.tensor([observation.time], dtype=torch.float64))

    def _sample(self, observation: Observation) -> Sample:
        return Sample.from_observation(observation, self.key)

    def _batch(self, sample: Sample) -> Batch:
        """The model inputs of one raw sample."""
        return collate([self.pipeline.apply(sample)], self.policy.embodiments).to(self.device)

    def _generator(self, generator: np.random.Generator | None) -> torch.Generator:
        """A torch generator seeded by the next number of `generator`; by 0 if there is none."""
        seed = 0 if generator is None else int(generator.integers(2**63))
        return torch.Generator(self.device).manual_seed(seed)

    def _promise(self, sample: Sample, prefix: np.ndarray | None, delay: int) -> dict[str, Tensor | None]:
        """`prefix` in model space, as seen from this observation, and how strongly it is held; or nothing."""
        if delay < 0:
            raise ValueError(f"agent: delay counts ticks, expected 0 or more, got {delay}.")
        if prefix is None or len(prefix) == 0:
            return {}
        prefix = np.asarray(prefix, np.float32)
        width = len(self.spec.action)
        if prefix.ndim != 2 or prefix.shape[1] != width:
            raise ValueError(f"agent: prefix: expected actions (prefix, {width}), got shape {prefix.shape}.")
        if not np.isfinite(prefix).all():
            raise ValueError("agent: prefix: expected finite actions, got NaN or infinity.")
        horizon = self.window.horizon
        reach = min(len(prefix), horizon)
        if delay > reach:
            raise ValueError(
                f"agent: delay of {delay} ticks, but prefix has {len(prefix)} actions and a chunk {horizon}. "
                "Plan earlier, or use a longer horizon."
            )
        ticks = np.minimum(np.arange(horizon), reach - 1)  # the last action of the prefix fills the horizon
        actions = self.pipeline.apply(_with_actions(sample, prefix[ticks], reach)).actions
        if actions is None:
            raise ValueError(
                "agent: the pipeline of this policy drops actions, so it cannot continue a prefix."
            )
        promised = torch.from_numpy(np.asarray(actions[None, :reach], np.float32)).to(self.device)
        if delay == reach:
            return {"prefix": promised, "held": None}
        weights = prefix_weights(horizon, delay=delay, end=reach)[None, :reach]
        return {"prefix": promised, "held": torch.from_numpy(weights).to(self.device)}

    def _chunk(self, acted: Acted, observation: Observation, context: Context | None) -> Chunk:
        """The answer of the policy in robot units; without actions if it failed or is not finite.

        What it says is what it said now, or in its thought.
        """
        failure = acted.failures[0] if acted.failures is not None else None
        said = acted.text if acted.text is not None or context is None else context.text
        text = said[0] if said is not None else None
        progress = float(acted.progress[0]) if acted.progress is not None else None
        mask = acted.mask[0].cpu().numpy() if acted.mask is not None else None
        actions = acted.actions[0].float().cpu().numpy()
        if failure is None:
            actions = np.asarray(self.pipeline.invert(actions, observation), np.float32)
            real = actions if mask is None else actions[mask]
            failure = None if np.isfinite(real).all() else "the policy answered numbers that are not finite"
        if failure is not None:
            actions, mask = np.zeros((0, len(self.spec.action)), np.float32), None
        return Chunk(
            actions=actions,
            rate=self.spec.rate,
            time=observation.time,
            mask=mask,
            text=text,
            progress=progress,
            failure=failure,
        )


def _with_actions(sample: Sample, actions: np.ndarray, real: int) -> Sample:
    """`sample` with actions (horizon, action), of which the first `real` are real."""
    return replace(
        sample,
        actions=actions,
        horizon_mask=np.arange(len(actions)) < real,
        action_mask=np.ones(actions.shape[1], bool),
    )


def load_agent(
    folder: str | os.PathLike[str],
    *,
    key: str | None = None,
    weights: Weights = "ema",
    text_path: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    compile: bool = False,
    graphs: bool = False,
) -> PolicyAgent:
    """The agent in a checkpoint folder, after every check; the only public loader.

    Args:
        folder: A checkpoint, or the folder of a training run that holds one.
        key: Which data set's body and statistics to act with; may be left out if there is only one.
        weights: "ema", the moving average of the weights, or "model", the weights as trained.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
        device: Where to compute.
        compile: Answer with the policy compiled by `torch.compile`; its first answer is compared with the
            plain one. The first call takes a minute, as does the first with other cameras or a prompt that
            is longer by more than 32 tokens.
        graphs: Compiled, and with CUDA graphs; needs a GPU.

    Raises:
        CheckpointError: A file is missing, damaged, changed or foreign, or a golden vector fails.
        ValueError: Unknown `key`, or none given and several to choose from.
    """
    loaded = load_policy(folder, weights=weights, text_path=text_path)
    bodies = loaded.policy.bodies
    if key is None:
        if len(bodies) > 1:
            raise ValueError(
                f"{folder}: trained on several data sets; pass key=, one of {', '.join(bodies)}."
            )
        (key,) = bodies
    loaded.policy.check_key(key)
    policy = loaded.policy.to(device).eval()
    return PolicyAgent(
        policy,
        loaded.pipelines[key],
        key=key,
        provenance=loaded.provenance,
        folder=loaded.folder,
        compiled=CompiledAct(policy, graphs=graphs) if compile or graphs else None,
    )
