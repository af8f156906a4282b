# long: a policy family is one file, read downwards like the method section of a paper.
"""pi0: a vision-language model with an expert for actions beside it, trained by flow matching.

Black et al. (2024), "pi0: a vision-language-action flow model for general robot control".

1. A pretrained vision-language model (PaliGemma, Beyer et al. 2024) reads pictures and prompt.
2. An action expert, a smaller decoder of equal depth with weights of its own, reads the state and the
   noisy chunk. In each layer the tokens of both look at each other in one attention; all else is apart.
3. Three blocks: pictures and prompt, then the state, then the actions. A token sees its own block and
   those before it, so what was observed is computed once and kept for all steps of the flow.
4. The expert predicts the velocity of a flow from noise to the chunk (Lipman et al. 2023), trained
   mostly at times close to the noise, and integrated in 10 Euler steps.

Their time runs as ours: 0 is noise, 1 is data (appendix B); the released code turned it round, so the
waves of the embedded time are those of 1 - time, and the signs of the last layer change where released
weights are loaded. Differences from the paper, and what is always saved without a change of the answer:

- Missing cameras and padding of the prompt take no place and no position. The state is kept with the
  prefix, whose last layer computes keys and values alone; what depends on time alone is a table.
- Padded dimensions are not seen, and padding does not count in the loss; `padding="learned"` feeds and learns
  padded dimensions, as released. Ticks behind the end of an episode, where the released code repeats the last
  action, are a lesson there and never here.
- `max_delay` trains with clean prefixes (Black et al. 2025, "Training-time action conditioning").
- `SightTrunkConfig` gives the trunk a few tokens made of everything that was observed, in the place of
  PaliGemma's (see `visuomotor.perception.sight`), and learns from blind samples, too; several noise
  draws share one observation, and the flow models what is left of a first guess, in units of its doubt
  (`visuomotor.perception.guess`). `temperature` scales the noise from which a call starts. `smollm2` has the
  first layers of a published language model as its trunk, which reads the instruction before the eyes look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.backbones.language_model import decoder_names
from visuomotor.errors import unknown_name
from visuomotor.generative import flow
from visuomotor.losses import Loss, Term
from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.embedding import embed_time
from visuomotor.nn.mixture import Past, Segment, remember, run
from visuomotor.nn.weights import Names, load_named
from visuomotor.perception.chunk_flow import Padding, draw_chunk, flow_error
from visuomotor.perception.openpi_names import expert_names, trunk_names
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig
from visuomotor.perception.trunk import Seen, SightTrunkConfig
from visuomotor.perception.trunks import TrunkConfig, build_trunk
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import RelativeActions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["PI0", "PI0Config", "load_released", "released_names"]


EXPERT = 1  # the trunk is expert 0
STATE, ACTIONS = 1, 2  # blocks; what was observed is block 0


@dataclass(frozen=True, kw_only=True)
class PI0Config:
    """Everything about a `PI0` policy that the data does not decide; the defaults are the paper's."""

    horizon: int = 50
    """Actions predicted by one call."""
    trunk: TrunkConfig = field(default_factory=PaliGemmaTrunkConfig)
    """What sees and reads."""
    expert_width: int = 1024
    """Width of the action expert; depth and heads are those of the trunk."""
    expert_mlp_width: int = 4096
    """Hidden size of the action expert's feed-forward layers."""
    draws: int = 1
    """Noise draws for each observation in training."""
    weight: float = 1.0
    """Of the flow beside the losses of seeing."""
    padding: Padding = "ignored"
    """Padded dimensions are not read, or are noised, seen and learned as zeros, as released."""
    time_law: flow.Law = "beta"
    """Flow times to train at; the paper's favors those close to the noise."""
    steps: int = 10
    """Euler steps of one call."""
    temperature: float = 1.0
    """Scale of the noise from which a call starts; 1 as published, near 0 it stays close to the likeliest."""
    max_delay: int = 0
    """Longest clean prefix in training, in ticks; 0 trains without."""

    def __post_init__(self) -> None:
        if min(self.horizon, self.draws, self.steps) < 1:
            raise ValueError(f"pi0: horizon, draws and steps must be at least 1, got {self}.")
        if not 0 <= self.max_delay < self.horizon:
            raise ValueError(f"pi0: max_delay must be in [0, {self.horizon}), got {self.max_delay}.")
        if self.weight <= 0 or self.temperature < 0:
            raise ValueError(f"pi0: expected weight above 0 and temperature at least 0, got {self}.")
        if self.padding not in get_args(Padding):
            raise unknown_name("padding of pi0", self.padding, get_args(Padding))
        if self.time_law not in get_args(flow.Law):
            raise unknown_name("law of flow times", self.time_law, get_args(flow.Law))

    @property
    def expert(self) -> DecoderConfig:
        """The action expert."""
        return replace(self.trunk.decoder, width=self.expert_width, mlp_width=self.expert_mlp_width)

    @classmethod
    def published(cls) -> PI0Config:
        """The released network and normalization, and the loss where all ticks are there: PaliGemma 3B and an
        expert of 300 million weights.
        """
        return cls(trunk=PaliGemmaTrunkConfig().released(), padding="learned")

    @classmethod
    def small(cls) -> PI0Config:
        """What two CPU cores train in minutes."""
        return cls(
            horizon=8,
            trunk=SightTrunkConfig(),
            expert_width=96,
            expert_mlp_width=256,
            draws=4,
            temperature=0.2,
        )

    @classmethod
    def smollm2(cls, layers: int = 2) -> PI0Config:
        """`small` with the first layers of SmolLM2 135M as its trunk; `TrainConfig.freeze` keeps them."""
        return replace(cls.small(), trunk=SightTrunkConfig.smollm2(layers))

    @classmethod
    def tiny(cls) -> PI0Config:
        """Seconds on a laptop: for tests."""
        return cls(
            horizon=4,
            trunk=SightTrunkConfig.tiny(),
            expert_width=24,
            expert_mlp_width=48,
            draws=16,
            steps=4,
            temperature=0.2,
        )


class ActionEmbedding(nn.Module):
    """Noisy actions and flow time to tokens of the expert.

    Args:
        action: Numbers of an action.
        width: Of the expert.

    Source: appendix B; the waves are those of the released code.
    """

    def __init__(self, action: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Linear(action, width)
        self.mix = nn.Linear(2 * width, width)
        self.leave = nn.Linear(width, width)

    def timed(self, time: Float[Tensor, "*time"]) -> Float[Tensor, "*time width"]:
        """What flow times add before the nonlinearity: a table, where they are few."""
        waves = embed_time(1 - time, self.width).to(self.mix.weight.dtype)
        return F.linear(waves, self.mix.weight[:, self.width :], self.mix.bias)

    def forward(
        self, actions: Float[Tensor, "row horizon action"], timed: Float[Tensor, "row ticks width"]
    ) -> Float[Tensor, "row horizon width"]:
        """The tokens; `timed` is for a chunk or for each of its ticks."""
        entered = self.enter(actions.to(self.enter.weight.dtype))  # the flow itself stays in float32
        entered = F.linear(entered, self.mix.weight[:, : self.width])
        return self.leave(F.silu(entered + timed))


class PI0(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = PI0Config
    config: PI0Config
    released = (
        "openpi safetensors",
        "LeRobot safetensors",
        "transformers safetensors",
        "orbax trees of openpi, through scripts/convert_openpi.py",
    )

    def __init__(self, config: PI0Config, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.trunk = build_trunk(config.trunk, self.bodies, horizon=config.horizon)
        self.expert = Decoder(config.expert)
        self.action_width = self.trunk.action_width
        self.state = nn.Linear(self.trunk.state_width, config.expert_width)
        self.embed = ActionEmbedding(self.action_width, config.expert_width)
        self.leave = nn.Linear(config.expert_width, self.action_width)
        for part in self.trunk.unread():
            part.requires_grad_(False)  # kept for released weights

    @property
    def window(self) -> Window:
        """The current tick, and the horizon of the config; what it learns to continue is what ran."""
        return Window(horizon=self.config.horizon, executed=self.config.max_delay > 0)

    @property
    def diet(self) -> Diet:
        """What its trunk asks for."""
        return self.trunk.diet

    def packed(self, batch: Batch) -> Batch:
        """As its trunk packs it."""
        return self.trunk.packed(batch)

    def load_pretrained(self) -> None:
        """What its trunk begins with."""
        self.trunk.load_pretrained()

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs, if any."""
        return self.trunk.sentence_encoder

    @property
    def experts(self) -> Sequence[Decoder]:
        """Trunk and action expert."""
        return self.trunk.decoder, self.expert

    def relative(self, key: str) -> RelativeActions | None:
        """What its trunk measures from the state."""
        return self.trunk.relative(self.check_key(key))

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """The pipeline of its trunk."""
        return self.trunk.pipeline(self.check_key(key), stats, sentences)

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Flow matching of the chunk, and the losses of seeing.

        Source: eq. 1; appendix B for the law of flow times.
        """
        seen = self.trunk.learn(batch, generator)
        past = self.remember(seen)
        config = self.config
        total, count = flow_error(
            seen,
            past,
            self.velocity,
            draws=config.draws,
            law=config.time_law,
            padding=config.padding,
            max_delay=config.max_delay,
            generator=generator,
        )
        return Loss({"flow": Term(total, count, self.config.weight), **seen.losses})

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
        """Integrate the flow from noise to a chunk in `steps` Euler steps, each of the expert alone.

        A promised prefix stands as it is if the policy was trained with clean prefixes; else, or if it is
        not held in full, the flow is guided towards it (`flow.guide`).
        """
        if batch.action_mask is None:
            raise ValueError("pi0: the batch has no action mask. Run the policy's transforms first.")
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        seen = self.trunk.observe(batch)
        real = batch.action_mask
        if self.config.padding == "learned":
            real = torch.ones_like(real)
        velocity = self.velocity(self.remember(seen), real, tabulated=True)
        actions = draw_chunk(
            seen,
            velocity,
            self.config.temperature * noise,
            steps=self.config.steps,
            max_delay=self.config.max_delay,
            prefix=prefix,
            held=held,
        )
        if prefix is not None:  # what will have run stands as it is, however far the pull came
            surely = prefix.new_ones(prefix.shape[:2]) if held is None else (held >= 1).to(prefix)
            actions = continued(actions, prefix, surely)
        return Acted(actions=actions)

    def remember(self, seen: Seen) -> list[Past]:
        """Keys and values of the first two blocks, which no step of the flow changes."""
        state = seen.state.to(self.state.weight.dtype)
        felt = Segment(tokens=self.state(state)[:, None], expert=EXPERT, block=STATE)
        return [*seen.past, *remember(self.experts, [seen.prefix, felt], seen.past)]

    def velocity(
        self, past: Sequence[Past], real: Bool[Tensor, "row action"], *, tabulated: bool = False
    ) -> flow.Velocity:
        """The velocity as a function of chunk and flow time; padded dimensions are not read.

        Args:
            past: What `remember` gives.
            real: Dimensions of the body.
            tabulated: Look up what depends on time alone; right at multiples of `1 / steps` only.
        """
        steps = self.config.steps
        every = torch.arange(steps + 1, device=real.device) / steps
        table = self.embed.timed(every) if tabulated else None

        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            time = time[:, None] if time.ndim == 1 else time  # row -> row 1
            timed = self.embed.timed(time) if table is None else table[(time * steps).round().long()]
            tokens = self.embed(chunk * real[:, None], timed)
            (end,), _ = run(self.experts, [Segment(tokens=tokens, expert=EXPERT, block=ACTIONS)], past)
            return self.leave(end)

        return velocity


# Weight loading

UNUSED = (
    "*paligemma_with_expert.gemma_expert.lm_head.weight",
    "*paligemma_with_expert.paligemma.lm_head.weight",
)
"""Never trained and never computed, but saved: no words are written; LeRobot keeps both tables of scores."""
PROJECTIONS = {
    "state": "state_proj",
    "embed.enter": "action_in_proj",
    "embed.mix": "action_time_mlp_in",
    "embed.leave": "action_time_mlp_out",
}


def released_names(config: PI0Config) -> Names:
    """Each weight of a policy -> its spellings in released files; of one with PaliGemma as its trunk.

    Raises:
        ValueError: A policy with the shared sight, of which nothing was released.
    """
    return {
        **trunk_names(config.trunk, "pi0"),
        **expert_names(decoder_names(config.expert), PROJECTIONS),
    }


def load_released(policy: PI0, weights: Mapping[str, Tensor], *, where: str = "pi0") -> None:
    """Copy released weights into a policy of the same configuration.

    Args:
        policy: See `PI0Config.published`; with the horizon that the weights were trained with.
        weights: What safetensors files hold; orbax trees go through `scripts/convert_openpi.py` first.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape; with the closest names.
    """
    load_named(policy, weights, where=where, names=released_names(policy.config), unused=UNUSED)
