"""What every policy family declares, and the values it returns.

A policy is stateless: no queue, no reset, no optimizer, no device logic. Randomness comes through
a generator; everything it returns lives in model space and is brought back by its pipeline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.losses import Loss, Term
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import RelativeActions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

if TYPE_CHECKING:
    from visuomotor.text.sentences import SentenceCache

__all__ = ["Acted", "Context", "Loss", "Policy", "Term", "continued"]


@dataclass(frozen=True, kw_only=True)
class Acted:
    """What a policy answers, in model space.

    Attributes:
        actions: float32 (batch, horizon, action).
        mask: bool (batch, horizon), `True` where the policy has an opinion; None means all.
        failures: One reason or None a sample; None means no failure at all.
        text: One string a sample, if the policy speaks.
        progress: float32 (batch,) in [0, 1], if the policy guesses it.
    """

    actions: Tensor
    mask: Tensor | None = None
    failures: tuple[str | None, ...] | None = None
    text: tuple[str, ...] | None = None
    progress: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the slow part of a policy thought, to be used by `act` at later ticks.

    Attributes:
        tensors: Name to tensor, batch first.
        time: float64 (batch,), time of the observation it came from, in seconds.
        text: One string a sample, if the slow part speaks.
    """

    tensors: Mapping[str, Tensor]
    time: Tensor
    text: tuple[str, ...] | None = None


def continued(
    actions: Float[Tensor, "batch horizon action"],
    prefix: Float[Tensor, "batch prefix action"] | None,
    held: Float[Tensor, "batch prefix"] | None = None,
) -> Float[Tensor, "batch horizon action"]:
    """`actions` whose first ticks are moved to `prefix` as far as it is held.

    For families that answer in one pass and cannot be asked to continue: the first ticks are as
    promised, the rest of the chunk does not know of it.
    """
    if prefix is None:
        return actions
    reach = prefix.shape[1]
    share = prefix.new_ones(prefix.shape[:2]) if held is None else held
    # lerp is exact at both ends
    first = torch.lerp(actions[:, :reach], prefix.to(actions), share.to(actions)[..., None])
    return torch.cat([first, actions[:, reach:]], dim=1)


class Policy(nn.Module, ABC):
    """Base of every family: `Policy(config, bodies)` with a frozen dataclass `Config` beside it.

    Attributes:
        config: The family's frozen config.
        bodies: Data-set key to `Spec`, sorted by key.
    """

    Config: type
    released: ClassVar[tuple[str, ...]] = ()
    """Published weights that the family's file loads, in words."""
    compiles: ClassVar[bool] = True
    """Whether `act` is one graph for `torch.compile`."""

    def __init__(self, config: Any, bodies: Mapping[str, Spec]) -> None:
        super().__init__()
        if not bodies:
            raise ValueError("policy: expected at least one body, got none. Pass bodies={key: spec}.")
        self.config = config
        self.bodies = dict(sorted(bodies.items()))

    @property
    @abstractmethod
    def window(self) -> Window:
        """History and horizon that the config asks for; data and session obey it."""

    @property
    def diet(self) -> Diet:
        """What it wants to learn from; every tick with its pictures, and nothing else."""
        return Diet()

    @property
    def learns_answers(self) -> bool:
        """Whether `loss` learns `Sample.answer`, which `transforms` make tokens of, without any action."""
        return False

    @property
    def learns_subtasks(self) -> bool:
        """Whether `loss` learns `Sample.subtask`, which `transforms` make tokens of."""
        return False

    @property
    def sentence_encoder(self) -> str | None:
        """Frozen encoder whose token states `transforms` needs ("minilm"); None if it needs none."""
        return None

    @property
    def unfitted(self) -> bool:
        """Whether something of the config must be fitted to the data before training; see `fitted`."""
        return False

    def fitted(self, chunks: Float[np.ndarray, "chunk horizon action"], texts: Collection[str] = ()) -> Any:
        """The config with whatever is fitted to the data; for `unfitted` policies.

        Args:
            chunks: Normalized and padded.
            texts: Everything that it is to write: subtasks, if it learns them, and answers.
        """
        raise ValueError(f"policy: {type(self).__name__} has nothing to fit to data.")

    def relative(self, key: str) -> RelativeActions | None:
        """How the pipeline of a data set measures actions from the state; None if it leaves them absolute.

        Its statistics then have the feature `visuomotor.transforms.relative.RELATIVE`, in the place of
        "action".

        Args:
            key: A key of `bodies`.
        """
        return None

    def fitted_as(self, other: Any) -> Any:
        """The config with whatever it lacks taken from another config of the family that was fitted."""
        return self.config

    def load_pretrained(self) -> None:
        """Read published weights that the config names, if any, into a new policy that is to be trained."""

    @abstractmethod
    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """The pipeline of the data set `key`, run on each sample before collation.

        Args:
            key: A key of `bodies`; an unknown one is a `ValueError`.
            stats: Statistics of that data set; a missing feature is a `DataError`. See `relative`.
            sentences: Encoded instructions, for families that read them frozen.
        """

    @abstractmethod
    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Training loss of a batch with actions.

        Args:
            batch: Samples with actions.
            generator: Source of noise; None means torch's default generator, seeded by the caller, for
                compiled calls: `torch.compile` takes no generator as an argument.
        """

    @abstractmethod
    def act(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        context: Context | None = None,
        prefix: Tensor | None = None,
        held: Tensor | None = None,
    ) -> Acted:
        """Chunks for a batch of observations.

        Args:
            batch: Observations; its actions are not looked at.
            generator: Source of noise when `noise` is not given.
            noise: The starting noise (batch, horizon, action), for exact repetition.
            context: What `think` returned earlier, for families with a slow part.
            prefix: Actions (batch, prefix, action) in model space that the chunk has to continue.
            held: In [0, 1], (batch, prefix): how strongly each tick of `prefix` is held. None means that
                all of them are promised and will be executed; a policy that was trained with clean
                prefixes (`flow.train_prefix`) then keeps them exactly, others steer towards them
                (`flow.guide`, `diffusion.guide`) or overwrite their answer (`continued`).
        """

    def think(self, batch: Batch, *, generator: torch.Generator | None = None) -> Context | None:
        """The slow part, if the family has one; None otherwise."""
        return None

    def packed(self, batch: Batch) -> Batch:
        """Observations without what none of them has, where leaving it out changes no answer of `act`.

        A compiled graph cannot look which cameras and words are there. It is given this, which comes in few
        sizes, and is compiled once for each.
        """
        return batch

    @property
    def embodiments(self) -> tuple[str, ...]:
        """Body names in the order of `Batch.embodiment`."""
        return tuple(sorted({spec.embodiment for spec in self.bodies.values()}))

    def check_key(self, key: str) -> Spec:
        """The body of the data set `key`; `ValueError` with the closest key if unknown."""
        from visuomotor.errors import unknown_name

        if key not in self.bodies:
            raise unknown_name("data-set key", key, self.bodies)
        return self.bodies[key]
