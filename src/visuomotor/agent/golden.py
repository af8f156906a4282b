"""Golden vectors: what a checkpoint answered when it was saved, to be repeated at every load.

For each data-set key one raw observation goes through the pipeline and the network with fixed noise;
everything on the way is kept. A pipeline, statistics, a sentence encoder or code that changed since
shows as a difference here, before a robot moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visuomotor.data.collate import collate
from visuomotor.errors import CheckpointError
from visuomotor.policies.base import Policy
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Observation, Sample, Spec, Stats, Tokens, Window

__all__ = [
    "Golden",
    "acting",
    "answer",
    "check_network",
    "check_pipelines",
    "example_observation",
    "instruction_of",
    "record",
]

Golden = Mapping[str, np.ndarray]
"""Array names such as "0/input/state": the first part counts the data-set keys in sorted order."""

PIPELINE_TOLERANCE = 1e-5
"""Relative and absolute; one float32 rounding in another order on another machine is below 1e-6."""
SENTENCE_TOLERANCE = 2e-3
"""Token states come out of a network of their own (values of order 1), in float32, on any machine."""
NETWORK_TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Absolute, in model space, where actions have a spread of about 1: rounding of the weights' type (2^-24,
2^-8, 2^-11), grown over some tens of layers and integration steps. A wrong network is off by about 1."""


def example_observation(spec: Spec, stats: Stats, window: Window, instruction: str) -> Observation:
    """An observation that a body of `spec` could make, the same one every time.

    Pictures are colored ramps with noise, the state lies between its 1 % and 99 % quantiles, if told.
    """
    generator = np.random.default_rng(0)
    history = len(window.history)
    images = {}
    for camera in spec.cameras:
        y, x = np.mgrid[0 : 1 : camera.height * 1j, 0 : 1 : camera.width * 1j]
        ramps = np.stack([x, y, 1 - x], axis=-1) * 200
        noise = generator.uniform(0, 55, (history, camera.height, camera.width, 3))
        images[camera.name] = (ramps + noise).astype(np.uint8)
    low, high = _range(stats, len(spec.state))
    return Observation(
        images=images,
        state=generator.uniform(low, high, (history, len(spec.state))).astype(np.float32),
        instruction=instruction,
        embodiment=spec.embodiment,
        time=1.0,
        history_mask=np.ones(history, bool),
    )


def _range(stats: Stats, width: int) -> tuple[np.ndarray, np.ndarray]:
    """1 % and 99 % quantile of the state, or what released statistics tell in their place.

    Zeros and ones for data without a state.
    """
    summary = stats.features.get("state")
    if summary is not None and np.shape(summary.q01) == (width,):
        pairs = (
            (summary.q01, summary.q99),
            (summary.min, summary.max),
            (summary.mean - summary.std, summary.mean + summary.std),
        )
        for low, high in pairs:
            if np.isfinite(low).all() and np.isfinite(high).all():
                return np.asarray(low), np.asarray(high)
    return np.zeros(width), np.ones(width)


@contextmanager
def acting(policy: Policy) -> Iterator[None]:
    """Evaluation mode, no gradients, full float32 precision; the mode before comes back after the block."""
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        policy.train(training)


def instruction_of(path: Path) -> str:
    """Words of the golden observation in a file that was checked."""
    with np.load(path, allow_pickle=False) as golden:
        return str(golden["0/observation/instruction"])


def record(
    policy: Policy, pipelines: Mapping[str, Pipeline], observations: Mapping[str, Observation]
) -> Golden:
    """Everything but the answers: raw observations, model inputs and noise, for each key of the policy."""
    golden: dict[str, np.ndarray] = {}
    for i, key in enumerate(sorted(policy.bodies)):
        observation = observations[key]
        sample = pipelines[key].apply(Sample.from_observation(observation, key))
        golden[f"{i}/key"] = np.array(key)
        golden.update({f"{i}/observation/{name}": array for name, array in _arrays(observation).items()})
        golden.update({f"{i}/input/{name}": array for name, array in _arrays(sample).items()})
        with acting(policy):
            batch = collate([sample], policy.embodiments).to(_device(policy))
            generator = torch.Generator(batch.state.device).manual_seed(0)
            context = policy.think(batch, generator=generator)
            shape = tuple(policy.act(batch, generator=generator, context=context).actions.shape)
        golden[f"{i}/noise"] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return golden


def answer(policy: Policy, pipelines: Mapping[str, Pipeline], golden: Golden, weights: str) -> Golden:
    """Answers to the recorded inputs: "0/actions/ema" in model space, "0/chunk/ema" in robot units."""
    answers = {}
    for i, key in enumerate(sorted(policy.bodies)):
        actions = _act(policy, _batch(golden, i, policy), golden[f"{i}/noise"])
        answers[f"{i}/actions/{weights}"] = actions
        answers[f"{i}/chunk/{weights}"] = pipelines[key].invert(actions, _observation(golden, i))
    return answers


def _act(policy: Policy, batch: Batch, noise: np.ndarray) -> np.ndarray:
    """Actions (horizon, action) in model space from given noise."""
    device = _device(policy)
    with acting(policy):
        batch = batch.to(device)
        context = policy.think(batch, generator=torch.Generator(device).manual_seed(0))
        acted = policy.act(batch, noise=torch.from_numpy(noise).to(device), context=context)
    return acted.actions[0].float().cpu().numpy()


def _device(policy: Policy) -> torch.device:
    """Where the weights live."""
    return next(policy.parameters()).device


def check_pipelines(policy: Policy, pipelines: Mapping[str, Pipeline], golden: Golden, weights: str) -> None:
    """Raise `CheckpointError` unless `pipelines` treat observations and actions as they did on saving."""
    for i, key in enumerate(sorted(policy.bodies)):
        if str(_take(golden, f"{i}/key")) != key:
            raise CheckpointError(
                f"golden vector: expected data-set key {key!r}, got {str(golden[f'{i}/key'])!r}."
            )
        observation = _observation(golden, i)
        found = _arrays(pipelines[key].apply(Sample.from_observation(observation, key)))
        saved = _group(golden, f"{i}/input/")
        if set(found) != set(saved):
            raise CheckpointError(
                f"golden vector of {key!r}: the pipeline gives {sorted(found)}, on saving {sorted(saved)}. "
                "The code of its transforms has changed; use the versions in provenance.json."
            )
        for name, array in saved.items():
            _compare(found[name], array, f"golden vector of {key!r}: model input {name!r}", name)
        chunk = pipelines[key].invert(_take(golden, f"{i}/actions/{weights}"), observation)
        _compare(
            chunk,
            _take(golden, f"{i}/chunk/{weights}"),
            f"golden vector of {key!r}: chunk in robot units",
            "chunk",
        )


def check_network(policy: Policy, golden: Golden, weights: str) -> float:
    """Largest difference of the network's answers from the saved ones, in model space.

    Raises:
        CheckpointError: The difference is larger than `NETWORK_TOLERANCE` of the weights' type.
    """
    tolerance = NETWORK_TOLERANCE[next(policy.parameters()).dtype]
    worst = 0.0
    for i, key in enumerate(sorted(policy.bodies)):
        actions = _act(policy, _batch(golden, i, policy), _take(golden, f"{i}/noise"))
        saved = _take(golden, f"{i}/actions/{weights}")
        if actions.shape != saved.shape:
            raise CheckpointError(
                f"golden vector of {key!r}: the network answers {actions.shape}, on saving {saved.shape}."
            )
        difference = float(np.abs(actions - saved).max())
        if not difference <= tolerance:
            raise CheckpointError(
                f"golden vector of {key!r}: the network ({weights} weights) answers {difference:.3g} away "
                f"from what it answered on saving; the tolerance is {tolerance:g}. The code of the policy or "
                "of torch has changed; use the versions in provenance.json, or train again."
            )
        worst = max(worst, difference)
    return worst


def _compare(found: np.ndarray, saved: np.ndarray, what: str, name: str) -> None:
    """Raise `CheckpointError` unless `found` is `saved`: exactly for counts and masks, closely for floats."""
    if found.shape != saved.shape or found.dtype != saved.dtype:
        raise CheckpointError(f"{what}: {found.dtype} {found.shape}, on saving {saved.dtype} {saved.shape}.")
    if np.issubdtype(saved.dtype, np.floating):
        tolerance = SENTENCE_TOLERANCE if name == "sentence" else PIPELINE_TOLERANCE
        same = np.allclose(found, saved, rtol=tolerance, atol=tolerance)
    else:
        same = np.array_equal(found, saved)
    if not same:
        hint = "The sentence encoder" if name == "sentence" else "A transform, or statistics on disk,"
        raise CheckpointError(
            f"{what} differs from what it was on saving. {hint} has changed; "
            "use the versions in provenance.json, or train again."
        )


def _arrays(value: Any) -> dict[str, np.ndarray]:
    """Arrays, numbers and words of an observation or a sample by name; "images/front" for a mapping."""
    found: dict[str, np.ndarray] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Mapping):
            found.update({f"{field.name}/{name}": np.asarray(array) for name, array in item.items()})
        elif is_dataclass(item):
            found.update({f"{field.name}/{name}": array for name, array in _arrays(item).items()})
        elif item is not None:
            found[field.name] = np.asarray(item)
    return found


def _group(golden: Golden, start: str) -> dict[str, np.ndarray]:
    """Arrays whose names begin with `start`, by the rest of the name."""
    return {name.removeprefix(start): array for name, array in golden.items() if name.startswith(start)}


def _take(golden: Golden, name: str) -> np.ndarray:
    """The array called `name`; `CheckpointError` if there is none."""
    if name not in golden:
        raise CheckpointError(
            f"golden.npz: array {name!r} is missing. Copy the whole checkpoint folder again."
        )
    return golden[name]


def _observation(golden: Golden, i: int) -> Observation:
    """The raw observation of key number `i`."""
    start = f"{i}/observation/"
    return Observation(
        images=_group(golden, f"{start}images/"),
        state=_take(golden, f"{start}state"),
        instruction=str(_take(golden, f"{start}instruction")),
        embodiment=str(_take(golden, f"{start}embodiment")),
        time=float(_take(golden, f"{start}time")),
        history_mask=_take(golden, f"{start}history_mask"),
    )


def _batch(golden: Golden, i: int, policy: Policy) -> Batch:
    """The model inputs of key number `i` as a batch of one."""
    found = _group(golden, f"{i}/input/")
    words: dict[str, Any] = {name: str(_take(found, name)) for name in ("instruction", "embodiment", "key")}
    arrays: dict[str, Any] = {
        f.name: found[f.name]
        for f in fields(Sample)
        if f.name in found and f.name not in {*words, "time", "answer", "part"}
    }
    tokens = _group(found, "tokens/")
    sample = Sample(
        images=_group(found, "images/"),
        image_mask=_group(found, "image_mask/"),
        tokens=Tokens(**tokens) if tokens else None,
        **words,
        **arrays,
    )
    return collate([sample], policy.embodiments)
