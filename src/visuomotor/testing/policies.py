"""The contract of every policy family."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import jaxtyping
import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from visuomotor.data.collate import collate
from visuomotor.errors import DataError
from visuomotor.policies.base import Acted, Context, Loss, Policy, Term
from visuomotor.testing.leaks import changes_that_must_not_matter
from visuomotor.testing.samples import random_observation, random_sample, random_stats
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import RELATIVE
from visuomotor.types import Batch, Sample, Stats, Tokens

__all__ = ["check_policy", "shape_checks_off"]


@dataclass(frozen=True)
class _Case:
    """A policy factory with everything its checks share."""

    make: Callable[[], Policy]
    policy: Policy
    pipelines: Mapping[str, Pipeline]
    samples: tuple[Sample, ...]
    batch: Batch
    noise: Tensor
    sentences: SentenceCache | None

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise AssertionError(f"policy {type(self.policy).__name__}: {message}")


def check_policy(
    make_policy: Callable[[], Policy],
    *,
    sentences: SentenceCache | None = None,
    samples: int = 4,
    steps: int = 300,
    learning_rate: float = 3e-3,
    overfit: float = 0.5,
    without_gradient: Mapping[str, str] | None = None,
    compiles: bool = True,
) -> None:
    """Raise `AssertionError` at the first rule of the policy contract that does not hold.

    The rules: pipelines are pure and refuse unknown keys and missing statistics; shapes; a prefix is
    continued as far as it is held; equal seeds give equal results and nothing else is random; no state is
    kept; nothing that is masked matters; a sample does not depend on its company in the batch; save and
    load give equal bits; loss and act compile; one batch can be overfitted and every trainable weight gets
    gradient on the way.

    Args:
        make_policy: Builds the policy, small; weights may come from torch's default generator.
        sentences: For families that read encoded sentences; see `RandomSentenceEncoder`.
        samples: Size of the batch.
        steps: Adam steps to overfit it, at most.
        learning_rate: Of these steps.
        overfit: Largest mean absolute error of the actions afterwards, as a share of the error of
            answering every observation with the mean.
        without_gradient: Names of trainable weights that rightly get no gradient -> the reason.
        compiles: Whether `torch.compile(fullgraph=True)` is tried too; takes seconds.
    """
    case = _prepare(make_policy, sentences, samples)
    _check_pipelines(case)
    _check_stateless(case)
    _check_shapes(case)
    _check_prefix(case)
    _check_seeds(case)
    _check_masks(case)
    _check_company(case)
    _check_save_and_load(case)
    if compiles:
        _check_compiles(case)
    _check_learning(case, steps, learning_rate, overfit, dict(without_gradient or {}))


def _build(make: Callable[[], Policy], seed: int) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def _prepare(make: Callable[[], Policy], sentences: SentenceCache | None, count: int) -> _Case:
    policy = _build(make, 0)
    keys = list(policy.bodies)
    pipelines = {key: policy.transforms(key, random_stats(policy.bodies[key]), sentences) for key in keys}
    samples = []
    for number in range(count):
        key = keys[number % len(keys)]
        samples.append(random_sample(policy.bodies[key], policy.window, key, number))
    batch = collate(
        [pipelines[sample.key].apply(copy.deepcopy(sample)) for sample in samples], policy.embodiments
    )
    if batch.actions is None:
        raise AssertionError(f"policy {type(policy).__name__}: its pipeline drops the actions of a sample.")
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0))
    return _Case(make, policy, pipelines, tuple(samples), batch, noise, sentences)


def _awake(case: _Case) -> Policy:
    """The policy with every weight moved a little: fresh ones often answer 0 whatever they see."""
    policy = copy.deepcopy(case.policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.is_floating_point():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator).to(weight))
    return policy


def _act(policy: Policy, batch: Batch, noise: Tensor) -> Tensor:
    with torch.no_grad():
        return policy.act(batch, noise=noise).actions


def _loss(policy: Policy, batch: Batch, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Name of each term -> (sum, count)."""
    with torch.no_grad():
        terms = policy.loss(batch, generator=torch.Generator().manual_seed(seed)).terms
    return {name: (float(term.sum), float(term.count)) for name, term in terms.items()}


def _check_pipelines(case: _Case) -> None:
    for sample in case.samples[: len(case.pipelines)]:
        spec, pipeline = case.policy.bodies[sample.key], case.pipelines[sample.key]
        before = copy.deepcopy(sample)
        first, second = pipeline.apply(sample), pipeline.apply(sample)
        case.require(_equal(sample, before), "its pipeline writes into the sample that it is given.")
        case.require(_equal(first, second), "its pipeline gives two results for the same sample.")
        observation = random_observation(
            spec, np.random.default_rng(0), history=len(case.policy.window.history)
        )
        acting = pipeline.apply(Sample.from_observation(observation, sample.key))
        case.require(acting.actions is None, "its pipeline invents actions while acting.")
        actions = pipeline.invert(np.asarray(first.actions), observation)
        expected = (case.policy.window.horizon, len(spec.action))
        case.require(
            actions.shape == expected,
            f"its pipeline inverts to actions {actions.shape}, expected {expected}.",
        )
        raw = np.asarray(sample.actions)
        error, spread = float(np.abs(actions - raw).max()), float(np.ptp(raw))
        case.require(
            error <= 0.01 * spread,
            f"its pipeline does not bring actions back: off by {error:.2g}, they span {spread:.2g}.",
        )
        needed = "action" if case.policy.relative(sample.key) is None else RELATIVE
        for feature in ("state", needed):
            stats = random_stats(spec)
            rest = {name: summary for name, summary in stats.features.items() if name != feature}
            message = f"transforms() accepts statistics without {feature!r}; expected a DataError."
            _must_refuse(case, DataError, message, sample.key, Stats(source="random", features=rest))
    _must_refuse(
        case,
        ValueError,
        "transforms() accepts the unknown data-set key 'nowhere'; expected a ValueError.",
        "nowhere",
        random_stats(next(iter(case.policy.bodies.values()))),
    )


def _must_refuse(case: _Case, error: type[Exception], message: str, key: str, stats: Stats) -> None:
    try:
        case.policy.transforms(key, stats, case.sentences)
    except error:
        return
    case.require(False, message)


def _check_shapes(case: _Case) -> None:
    assert case.batch.actions is not None
    with torch.no_grad():
        acted = case.policy.act(replace(case.batch, actions=None, horizon_mask=None), noise=case.noise)
    shape, expected = tuple(acted.actions.shape), tuple(case.batch.actions.shape)
    case.require(
        shape == expected, f"act() gives actions {shape}, expected {expected} (batch, horizon, action)."
    )
    case.require(
        acted.actions.dtype == torch.float32, f"act() gives {acted.actions.dtype}, expected float32."
    )
    case.require(bool(acted.actions.isfinite().all()), "act() gives NaN or infinity.")
    case.require(
        torch.equal(_act(case.policy, case.batch, case.noise), acted.actions),
        "act() looks at the actions of the batch.",
    )
    terms = case.policy.loss(case.batch, generator=torch.Generator().manual_seed(0)).terms
    case.require(len(terms) > 0, "loss() has no terms.")
    for name, term in terms.items():
        case.require(
            term.sum.ndim == 0, f"loss term {name!r}: the sum must be a scalar, got {tuple(term.sum.shape)}."
        )
        case.require(bool(term.sum.isfinite()), f"loss term {name!r} is NaN or infinite.")
        case.require(float(term.count) > 0, f"loss term {name!r} counts nothing in a batch with actions.")


def _check_prefix(case: _Case) -> None:
    """What is promised is continued: wholly if it is held with 1, not at all if it is held with 0."""
    assert case.batch.actions is not None
    reach = max(1, case.batch.actions.shape[1] // 2)
    prefix = case.batch.actions[:, :reach]
    policy = _awake(case)

    def act(prefix: Tensor | None = None, held: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return policy.act(case.batch, noise=case.noise, prefix=prefix, held=held).actions

    free, kept = act(), act(prefix=prefix)
    case.require(
        kept.shape == free.shape and bool(kept.isfinite().all()),
        f"act() with a prefix gives {tuple(kept.shape)}, expected finite {tuple(free.shape)}.",
    )
    real = torch.ones_like(free, dtype=torch.bool)
    if case.batch.action_mask is not None:
        real = case.batch.action_mask[:, None].expand_as(free)
    far, near = ((chunk[:, :reach] - prefix)[real[:, :reach]].abs().mean() for chunk in (free, kept))
    case.require(
        float(near) <= 0.3 * float(far),
        f"act() does not continue a prefix: off by {near:.2g}, without the prefix by {far:.2g}.",
    )
    held = torch.ones(prefix.shape[:2])
    steered = act(prefix=prefix, held=held)
    near = (steered[:, :reach] - prefix)[real[:, :reach]].abs().mean()
    case.require(
        float(near) <= 0.3 * float(far),
        f"act() does not continue a prefix that is held with 1: off by {near:.2g}, else by {far:.2g}.",
    )
    difference = float((act(prefix=prefix, held=0 * held) - free)[real].abs().max())
    case.require(
        difference <= 1e-4 * max(1.0, float(free.abs().max())),  # float32 sums in another order
        f"act() changes by {difference:.2g} for a prefix that is held with 0.",
    )


def _check_seeds(case: _Case) -> None:
    def act(seed: int) -> Tensor:
        with torch.no_grad():
            return case.policy.act(case.batch, generator=torch.Generator().manual_seed(seed)).actions

    before = _global_randomness()
    case.require(torch.equal(act(0), act(0)), "act() gives two results for equal seeds.")
    case.require(
        _loss(case.policy, case.batch) == _loss(case.policy, case.batch), "loss() differs for equal seeds."
    )
    case.require(
        _global_randomness() == before, "it draws from a global random generator although one was passed in."
    )
    again = _build(case.make, 0).state_dict()
    same = all(torch.equal(value, again[name]) for name, value in case.policy.state_dict().items())
    case.require(same, "two policies built from equal seeds have different weights.")


def _check_stateless(case: _Case) -> None:
    policy = copy.deepcopy(case.policy).train()
    before = copy.deepcopy(policy.state_dict())
    policy.loss(case.batch, generator=torch.Generator().manual_seed(0)).total().backward()
    policy.eval()
    first = _act(policy, case.batch, case.noise)
    _act(policy, _rows(case.batch, slice(1, None)), case.noise[1:] + 1)
    changed = [name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])]
    case.require(not changed, f"loss() or act() change {changed[:3]}; a policy keeps no state.")
    case.require(
        torch.equal(_act(policy, case.batch, case.noise), first),
        "act() depends on what was asked before; a policy keeps no state.",
    )


def _check_masks(case: _Case) -> None:
    policy = _awake(case)
    for what, masked, changed, acting in changes_that_must_not_matter(case.batch):
        for name, (total, count) in _loss(policy, masked).items():
            other, number = _loss(policy, changed)[name]
            case.require(
                abs(total - other) <= 1e-5 * max(1.0, abs(total)) and count == number,
                f"{what} change the loss term {name!r} from {total:.6g} to {other:.6g}.",
            )
        if acting:
            difference = float(
                (_act(policy, masked, case.noise) - _act(policy, changed, case.noise)).abs().max()
            )
            case.require(difference <= 1e-5, f"{what} change the actions by {difference:.2g}.")
    if len(case.batch) > 1:
        has = case.batch.has_actions.clone()
        has[0] = False
        totals = {name: count for name, (_, count) in _loss(policy, case.batch).items()}
        fewer = {
            name: count for name, (_, count) in _loss(policy, replace(case.batch, has_actions=has)).items()
        }
        case.require(fewer != totals, "a sample without actions is still counted by the loss.")


def _check_company(case: _Case) -> None:
    policy = _awake(case)
    together = _act(policy, case.batch, case.noise)
    for row in range(len(case.batch)):
        one = slice(row, row + 1)
        alone = _act(policy, _rows(case.batch, one), case.noise[one])
        difference = float((alone - together[one]).abs().max())
        # float32 sums in another order; a sample that sees its neighbors is off by far more
        limit = 1e-4 * max(1.0, float(together.abs().max()))
        case.require(
            difference <= limit, f"sample {row} alone and in a batch differ by {difference:.2g} in act()."
        )


def _check_save_and_load(case: _Case) -> None:
    policy = _awake(case)
    stored = save({name: value.clone().contiguous() for name, value in policy.state_dict().items()})
    other = _build(case.make, 1)
    other.load_state_dict(load(stored), strict=True)
    case.require(
        torch.equal(_act(policy, case.batch, case.noise), _act(other, case.batch, case.noise)),
        "act() differs after save and load: something that matters is not in the state dict.",
    )
    case.require(
        _loss(policy, case.batch) == _loss(other, case.batch),
        "loss() differs after save and load: something that matters is not in the state dict.",
    )


def _check_learning(
    case: _Case, steps: int, learning_rate: float, overfit: float, without_gradient: dict[str, str]
) -> None:
    policy = _build(case.make, 0)
    weights = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    unknown = sorted(set(without_gradient) - set(weights))
    case.require(not unknown, f"without_gradient names {unknown}, which are no trainable weights.")
    optimizer = torch.optim.Adam(weights.values(), lr=learning_rate)
    reached: set[str] = set()
    for step in range(steps):
        optimizer.zero_grad()
        policy.train()
        policy.loss(case.batch, generator=torch.Generator().manual_seed(step)).total().backward()
        policy.eval()
        reached |= {name for name, weight in weights.items() if weight.grad is not None and weight.grad.any()}
        optimizer.step()
        silent = sorted(set(weights) - reached - set(without_gradient))
        if step % 20 == 19 and not silent and _error(case, policy) <= overfit:
            break
    case.require(not silent, f"these weights never got gradient in {steps} steps: {silent}.")
    stale = sorted(reached & set(without_gradient))
    case.require(not stale, f"without_gradient names {stale}, which do get gradient.")
    error = _error(case, policy)
    case.require(
        error <= overfit,
        f"after {steps} steps on one batch its actions are off by {error:.2f} of their spread, "
        f"expected at most {overfit}.",
    )


def _error(case: _Case, policy: Policy) -> float:
    """Mean absolute error of the actions, as a share of that of the mean over the batch."""
    actions, mask = case.batch.actions, case.batch.action_mask
    assert actions is not None
    assert mask is not None
    real = mask[:, None].expand_as(actions)
    error = (_act(policy, case.batch, case.noise) - actions)[real].abs().mean()
    return float(error / (actions - actions.mean(0))[real].abs().mean())


def _check_compiles(case: _Case) -> None:
    policy = case.policy

    def act(batch: Batch, noise: Tensor) -> Tensor:
        return policy.act(batch, noise=noise).actions

    def loss(batch: Batch) -> Tensor:
        terms = policy.loss(batch, generator=None).terms.values()
        return torch.stack([term.sum / term.count.clamp(min=1) for term in terms])

    for name, function, arguments in (("act", act, (case.batch, case.noise)), ("loss", loss, (case.batch,))):
        with shape_checks_off(), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            expected = function(*arguments)
            torch.manual_seed(0)
            torch._dynamo.reset()
            try:
                found = torch.compile(function, fullgraph=True, backend="aot_eager")(*arguments)
            except Exception as error:
                raise AssertionError(
                    f"policy {type(policy).__name__}: {name}() does not compile in one graph: {error}"
                ) from error
        difference = float((found - expected).abs().max())
        limit = 1e-4 * max(1.0, float(expected.abs().max()))
        case.require(difference <= limit, f"{name}() differs by {difference:.2g} when compiled.")


@contextmanager
def shape_checks_off() -> Iterator[None]:
    """The compiler cannot look through run-time checks of annotations, if a test run has them on.

    Off are those of functions that exist, of functions that are made meanwhile, and of the values
    that a policy makes.
    """
    values: tuple[Any, ...] = (Acted, Batch, Context, Loss, Term, Tokens)
    module: Any = jaxtyping
    before, decorate = module.config.jaxtyping_disable, module.jaxtyped
    constructors = [value.__init__ for value in values]
    module.config.update("jaxtyping_disable", True)
    module.jaxtyped = _undecorated
    for value in values:
        value.__init__ = inspect.unwrap(value.__init__)
    try:
        yield
    finally:
        module.config.update("jaxtyping_disable", before)
        module.jaxtyped = decorate
        for value, constructor in zip(values, constructors):
            value.__init__ = constructor


def _undecorated(*, typechecker: Any) -> Callable[[Any], Any]:
    return lambda function: function


def _global_randomness() -> tuple[Any, ...]:
    """State of the generators of NumPy and torch that nobody should draw from."""
    return str(np.random.get_state()), torch.get_rng_state().tolist()


def _rows(batch: Batch, rows: slice) -> Batch:
    return batch.map(lambda tensor: tensor[rows])


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit: arrays, mappings and dataclasses are walked through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if hasattr(one, "__dataclass_fields__"):
        return all(_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)
