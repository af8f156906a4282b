"""Compact: a small policy made to follow sentences after minutes of training on two CPU cores.

Our own family, made of published ideas: a sight that hindsight teaches where to look
(`visuomotor.perception.sight`), and flow matching (Lipman et al. 2023, eq. 23) over the whole action
chunk (Zhao et al. 2023) in a residual MLP modulated by the observation (adaLN, Peebles & Xie 2023, but
not starting at zero), preconditioned as in Karras et al. (2022). The flow begins at a first guess, by
regression, and models what is left in units of a learned doubt; its gradients stop before the
observation (as in Driess et al. 2025), and each encoded picture serves several noise draws. With
`max_delay` it also learns to go on from actions that are already promised (Black et al. 2025,
"Training-time action conditioning for efficient real-time chunking").

How far it comes stands in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.generative import flow
from visuomotor.nn.embedding import embed_time
from visuomotor.perception.guess import FARTHEST, Guess
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.sight import Sight, SightConfig
from visuomotor.policies.base import Acted, Context, Loss, Policy, Term, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["Compact", "CompactConfig"]

SPREAD = 1.0  # of what is left of actions after the first guess, in units of its doubt
TIME = 64  # width of the embedded flow time


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Everything about a `Compact` policy that the data does not decide."""

    horizon: int = 8
    """Actions predicted by one call."""
    history: tuple[int, ...] = (0,)
    """Ticks seen, as offsets from the current one."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """How the instruction is read."""
    sight: SightConfig = field(default_factory=SightConfig)
    """How it sees; its width is that of the flow network, too."""
    blocks: int = 3
    """Residual blocks of the flow network."""
    draws: int = 2
    """Noise draws for each encoded picture in training; blind samples have one."""
    steps: int = 4
    """Euler steps of one call."""
    temperature: float = 0.2
    """Scale of the noise from which a call starts; near 0 it stays close to the likeliest chunk."""
    guess: float = 10.0
    """Weight of the loss of the first guess of the actions."""
    max_delay: int = 0
    """Most actions of a chunk that it learns to continue, for the executor `trained_real_time`."""

    def __post_init__(self) -> None:
        if min(self.horizon, self.blocks, self.draws) < 1:
            raise ValueError(f"compact: sizes must be at least 1, got {self}.")
        if min(self.guess, self.temperature) < 0:
            raise ValueError("compact: the weight of the guess and the temperature must be at least 0.")
        if self.steps < 1:
            raise ValueError(f"compact: steps must be at least 1, got {self.steps}.")
        if not 0 <= self.max_delay < self.horizon:
            raise ValueError(
                f"compact: max_delay must be in [0, horizon), got {self.max_delay} of {self.horizon}."
            )

    @classmethod
    def tiny(cls) -> CompactConfig:
        """Seconds on a laptop: for tests."""
        return cls(
            horizon=4, language=LanguageConfig.tiny(), sight=SightConfig.tiny(), blocks=1, draws=2, steps=2
        )


class FlowBlock(nn.Module):
    """Residual MLP block, modulated by observation and flow time (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.from_observation = nn.Linear(width, 3 * width)
        self.from_time = nn.Linear(TIME, 3 * width, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "row width"],
        modulation: Float[Tensor, "row modulation"],
    ) -> Float[Tensor, "row width"]:
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return hidden + gate * self.mlp(self.norm(hidden) * (1 + scale) + shift)


class Velocity(nn.Module):
    """Flow velocity of a noisy chunk, given what was observed.

    With `max_delay` it takes a flow time for each tick, too, and knows which first ticks are clean; the
    last one never is.
    """

    def __init__(self, config: CompactConfig, action: int) -> None:
        super().__init__()
        chunk, width = config.horizon * action, config.sight.width
        self.enter = nn.Linear(chunk, width)
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, chunk)
        self.from_clean = nn.Linear(config.horizon, width, bias=False) if config.max_delay else None

    def given(
        self, observation: Float[Tensor, "row width"], real: Float[Tensor, "row action"]
    ) -> flow.Velocity:
        """The velocity as a function of chunk and flow time; what the observation says is computed once.

        Padded actions are not read.
        """
        blocks = cast(Sequence[FlowBlock], self.blocks)
        said = [block.from_observation(observation) for block in blocks]

        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            time = time.reshape(len(chunk), -1)  # row -> row 1, or row horizon
            skip, out, enter = (part[:, :, None] for part in precondition(time))
            hidden = self.enter((enter * chunk * real[:, None]).flatten(1)) + observation
            if self.from_clean is not None:
                hidden = hidden + self.from_clean((time == 1).expand(chunk.shape[:2]).to(hidden.dtype))
            waves = embed_time(time[:, -1], TIME)
            for block, part in zip(blocks, said, strict=True):
                hidden = block(hidden, part + block.from_time(waves))
            return skip * chunk + out * self.leave(self.norm(hidden)).reshape(chunk.shape)

        return velocity


def precondition(
    time: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """How much of the noisy chunk passes by the network, and scales of the network's output and input.

    What passes is the best linear guess of the velocity if actions had mean 0 and spread `SPREAD`;
    the network is left with numbers of unit variance at every flow time.

    Source: Karras et al. (2022), section 5 and table 1, with sigma = (1 - time) / time.
    """
    variance = (time * SPREAD) ** 2 + (1 - time) ** 2
    skip = (time * SPREAD**2 - (1 - time)) / variance
    return skip, SPREAD * variance.rsqrt(), variance.rsqrt()


class Compact(Policy):
    """The policy: sentence, views and state to one vector, and a flow over chunks beside it.

    Cameras are the union over all bodies; state and action are as wide as the widest body.
    """

    Config = CompactConfig
    config: CompactConfig

    def __init__(self, config: CompactConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.sight = Sight(config.sight, self.bodies, language=config.language, history=len(config.history))
        self.action_width = self.sight.action_width
        self.guess = Guess(config.sight.width, config.horizon, self.action_width)
        self.velocity = Velocity(config, self.action_width)

    @property
    def window(self) -> Window:
        """History and horizon of the config; promises, which it learns to continue, are of what ran."""
        ran = self.config.max_delay > 0
        return Window(history=self.config.history, horizon=self.config.horizon, executed=ran)

    @property
    def diet(self) -> Diet:
        """What its sight wants to learn from."""
        return self.sight.diet

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs: "minilm", or None for words learned from scratch."""
        return self.sight.language.encoder

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """The pipeline of its sight."""
        return self.sight.pipeline(self.check_key(key), stats, sentences)

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """First guess and its doubt; flow matching of what is left; and the losses of seeing."""
        lesson = self.sight.learn(batch, generator)
        vector, actions, mask = lesson.vector, lesson.actions, lesson.mask
        left, terms = self.guess.learn(vector, actions, mask, self.config.guess)
        rows = torch.arange(len(vector), device=vector.device)
        rows = torch.cat([rows[: lesson.seen].repeat(self.config.draws), rows[lesson.seen :]])
        ran = self.guess.around(vector, lesson.executed)[rows] if self.config.max_delay else None
        terms["flow"] = self.flow(vector[rows].detach(), left[rows], mask[rows], ran, generator)
        return Loss(terms | lesson.losses)

    def flow(
        self,
        vector: Float[Tensor, "row width"],
        clean: Float[Tensor, "row horizon action"],
        mask: Bool[Tensor, "row horizon action"],
        ran: Float[Tensor, "row horizon action"] | None,
        generator: torch.Generator | None,
    ) -> Term:
        """Flow matching of what is left after the first guess, in units of its doubt.

        With `max_delay` the first ticks of each chunk are what ran there, as many as the draw says, and the
        others count.
        """
        noise = flow.sample_noise(clean.shape, generator=generator, device=clean.device)
        time = flow.sample_time(clean.shape[:1], generator=generator, device=clean.device)
        velocity = self.velocity.given(vector, mask.any(1).float())
        if ran is not None:
            time, learn = flow.train_prefix(
                time, self.config.horizon, maximum=self.config.max_delay, generator=generator
            )
            clean = torch.where(learn[:, :, None], clean, ran.masked_fill(~mask, 0))
            mask = mask & learn[:, :, None]
        wrong = velocity(flow.interpolate(noise, clean, time), time) - flow.velocity_target(noise, clean)
        _, out, _ = precondition(time)  # in units of the network's output, every flow time counts alike
        error = (wrong.float() / out.reshape(len(clean), -1, 1)).square().masked_fill(~mask, 0)
        return Term(error.sum(), mask.sum().to(error.dtype))

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
        """Integrate the flow from noise to a chunk in `steps` Euler steps.

        Promised actions that it learned to continue are kept as they are; it is steered towards others.
        """
        if batch.action_mask is None:
            raise ValueError("compact: the batch has no action mask. Run the policy's transforms first.")
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        vector = self.sight(batch).vector
        guess, doubt = self.guess(vector)
        velocity = self.velocity.given(vector, batch.action_mask.float())
        learned = prefix is not None and held is None and prefix.shape[1] <= self.config.max_delay
        if prefix is not None:
            length = prefix.shape[-2]
            promised = (prefix - guess[:, :length]) / doubt[:, :length]
            weights = prefix.new_ones(prefix.shape[:2]) if held is None else held
            if learned:
                velocity = flow.clamp(velocity, promised.clamp(-FARTHEST, FARTHEST))
            else:
                velocity = flow.guide(velocity, promised, weights)
        off = flow.integrate(velocity, self.config.temperature * noise, steps=self.config.steps)
        actions = guess + doubt * off
        return Acted(actions=continued(actions, prefix) if learned else actions)
