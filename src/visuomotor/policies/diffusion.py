# long: a policy family is one file, read downwards like the method section of a paper.
"""Diffusion Policy: a chunk of actions is drawn by removing noise step by step.

Chi et al. (2023), "Diffusion Policy: visuomotor policy learning via action diffusion", sections II and III.

1. The network predicts the noise in a noisy chunk, given the last two observations (eq. 4-5); sampling
   removes it in many small steps, so the answer may have several modes and is one of them.
2. The observation is encoded once a call, and every step of the sampler uses it.
3. Two networks: a convolutional U-Net over the ticks, modulated by the observation
   (`visuomotor.nn.unet1d`), and a transformer whose memory is the diffusion step and the observations.
4. Trained with 100 steps of DDPM and a cosine schedule; acts with DDPM, or in fewer steps with DDIM.
5. A few actions of each chunk are played before the next call: `visuomotor.executors.RecedingHorizon`.

Differences: the first action belongs to the current tick, while the released code spends the first
`n_obs - 1` predictions on ticks that are over; `past` says how many of them weights of theirs predict, and
they are cut off. Actions past the end of an episode are masked, where they are learned as repetitions there.
Each map of an eye learns a temperature. With a language reader a query attends to the token states, and finds
64 more numbers. `vision="sight"` takes everything that was observed as one vector (see
`visuomotor.perception.sight`); with `guess` the chunk is what is left of a regression, in units of its doubt,
and the gradients of the network stop before the observation, of which a few minutes teach them little
(docs/results.md). With `max_delay` it also learns to go on from actions that are already promised, which
stay clean and are marked by a learned vector (Black et al. 2025, "Training-time action conditioning for
efficient real-time chunking", for flows). The moving average of the weights is the training loop's.

Held against LeRobot's implementation with equal weights (tests/parity), against the released parameter
counts, and samplers against diffusers'. `policies/released/diffusion.py` reads weights of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.errors import unknown_name
from visuomotor.generative import diffusion, flow
from visuomotor.generative.diffusion import Prediction, Sampler, Schedule
from visuomotor.losses import Loss, Term
from visuomotor.nn.resnet import Norm
from visuomotor.nn.transformer import Block
from visuomotor.nn.unet1d import ConditionalUNet1D, StepWaves
from visuomotor.perception.bodies import BodyTable
from visuomotor.perception.geometry import every_camera
from visuomotor.perception.guess import FARTHEST, Guess
from visuomotor.perception.language import Language, LanguageConfig, SentenceReader
from visuomotor.perception.points import SEEN, PointEye, cropped
from visuomotor.perception.sight import Sight, SightConfig, real_actions
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["DiffusionConfig", "DiffusionPolicy", "DiffusionTransformer"]

Network = Literal["unet", "transformer"]
Vision = Literal["resnet18", "sight", "none"]
Before = Literal["nothing", "first"]


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Everything about a `DiffusionPolicy` that the data does not decide."""

    horizon: int = 16
    """Actions predicted by one call, those of `past` ticks among them."""
    history: tuple[int, ...] = (-1, 0)
    """Ticks seen, as offsets from the current one."""
    before: Before = "nothing"
    """Ticks before an episode, unless the shared sight sees: zeros, or its first one again, as published."""
    past: int = 0
    """First predictions that belong to ticks that are over; 1 for released weights, which are not trained."""
    network: Network = "unet"
    """Convolutions over the ticks, or a transformer."""
    vision: Vision = "resnet18"
    """A ResNet-18 with spatial soft-argmax for each camera, the shared sight, or the state alone."""
    sight: SightConfig = field(default_factory=SightConfig)
    """The eyes of `vision="sight"`."""
    language: LanguageConfig = field(default_factory=LanguageConfig.none)
    """How the instruction is read; the paper has none."""
    backbone_width: int = 64
    """Channels of the first stage of the ResNet-18."""
    norm: Norm = "group"
    """Norm of the ResNet-18: "group" to train it from scratch, as published, "frozen" if it was trained."""
    picture_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What becomes 0 of red, green and blue, in [0, 1], before the ResNet-18."""
    picture_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """How far from it 1 is; as published, colors are in [-1, 1]."""
    crop: float = 84 / 96
    """Share of a picture's sides that is seen: cut at random in training, from the middle while acting."""
    dims: tuple[int, ...] = (512, 1024, 2048)
    """Channels of each level of the U-Net."""
    groups: int = 8
    """Groups of channels that the U-Net normalizes together."""
    step_width: int = 128
    """Size of the embedded diffusion step in the U-Net."""
    width: int = 256
    """Width of the transformer."""
    layers: int = 8
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of the transformer."""
    dropout: float = 0.0
    """Share that the transformer drops in training."""
    train_steps: int = 100
    """Steps of noise in training."""
    prediction: Prediction = "epsilon"
    """What the network says of a noisy chunk: its noise, as published, the clean chunk, or a mix ("v")."""
    sampler: Sampler = "ddpm"
    """How noise is removed while acting: "ddpm" draws fresh noise on the way, "ddim" does not."""
    steps: int = 100
    """Calls of the network while acting."""
    draws: int = 1
    """Noise draws for each encoded observation in training."""
    temperature: float = 1.0
    """Scale of the noise from which a call starts; 1 as published, near 0 it stays close to the likeliest."""
    weight: float = 1.0
    """Weight of the loss of the prediction, beside the losses of the shared sight."""
    guess: float = 0.0
    """Weight of a first guess by regression, of which the network models what is left; 0 for none."""
    max_delay: int = 0
    """Most actions of a chunk that it learns to continue, for the executor `trained_real_time`."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("network", Network),
            ("vision", Vision),
            ("before", Before),
            ("sampler", Sampler),
            ("prediction", Prediction),
            ("norm", Norm),
        ):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"{name} of Diffusion Policy", getattr(self, name), get_args(choices))
        if not 0 <= self.past < self.horizon:
            raise ValueError(f"diffusion: past must be in [0, horizon), got {self.past} of {self.horizon}.")
        if not 1 <= self.steps <= self.train_steps or self.draws < 1 or not 0 < self.crop <= 1:
            raise ValueError(f"diffusion: steps in 1 to train_steps, draws >= 1, crop in (0, 1]; got {self}.")
        if self.weight <= 0 or self.temperature < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"diffusion: expected weight above 0, temperature at least 0, dropout in [0, 1), got {self}."
            )
        if self.guess < 0 or (self.guess and self.vision != "sight"):
            raise ValueError(
                f'diffusion: a first guess needs vision="sight" and a weight of at least 0, got {self.guess}.'
            )
        if not 0 <= self.max_delay < self.horizon or (self.max_delay and self.past):
            raise ValueError(
                f"diffusion: max_delay must be in [0, horizon), got {self.max_delay} of {self.horizon}; and "
                f"0 with past ticks, which are for weights that are not trained, got past={self.past}."
            )
        halvings = 2 ** (len(self.dims) - 1)
        if self.network == "unet" and self.horizon % halvings:
            raise ValueError(
                f"diffusion: a U-Net of {len(self.dims)} levels halves the ticks; expected a horizon that is "
                f"a multiple of {halvings}, got {self.horizon}."
            )

    @classmethod
    def published(cls) -> DiffusionConfig:
        """The published U-Net for pictures, as on PushT; elsewhere `crop` is 76 / 84."""
        return cls(before="first")

    @classmethod
    def lowdim(cls) -> DiffusionConfig:
        """The published U-Net for states alone."""
        return cls(before="first", vision="none", dims=(256, 512, 1024), step_width=256)

    @classmethod
    def transformer(cls) -> DiffusionConfig:
        """The published transformer for states alone, as on PushT."""
        return cls(before="first", vision="none", network="transformer", dropout=0.01)

    @classmethod
    def image_transformer(cls) -> DiffusionConfig:
        """The published transformer for pictures; on PushT `crop` is 84 / 96."""
        return cls(before="first", network="transformer", horizon=10, dropout=0.3, crop=76 / 84)

    @classmethod
    def small(cls) -> DiffusionConfig:
        """What two CPU cores train in minutes."""
        return cls(
            horizon=8,
            history=(0,),
            vision="sight",
            language=LanguageConfig(),
            dims=(96, 192),
            step_width=64,
            width=128,
            layers=3,
            train_steps=50,
            sampler="ddim",
            steps=10,
            prediction="sample",
            guess=10.0,
            temperature=0.2,
            draws=2,
        )

    @classmethod
    def tiny(cls) -> DiffusionConfig:
        """Seconds on a laptop: for tests."""
        return replace(
            cls.small(),
            horizon=4,
            sight=SightConfig.tiny(),
            language=LanguageConfig.tiny(),
            backbone_width=16,
            dims=(32, 64),
            groups=1,
            step_width=16,
            width=32,
            layers=1,
            heads=2,
            train_steps=20,
            steps=5,
            draws=16,
        )


class DiffusionTransformer(nn.Module):
    """Ticks look back at earlier ticks, and at a memory of the diffusion step and the observations.

    Each tick sees the step and the observations of ticks up to its own; of a released chunk, whose first
    prediction belongs to the first observed tick.

    Args:
        action: Numbers of an action.
        known: Size of what is known of one observed tick.
        config: Sizes; as many memory tokens as `observed`, and the step.
        observed: Observed ticks.

    Source: section III-C and fig. 3c.
    """

    def __init__(self, action: int, known: int, config: DiffusionConfig, observed: int) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Linear(action, width)
        self.ticks = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.waves = StepWaves(width)
        self.observation = nn.Linear(known, width)
        self.places = nn.Parameter(0.02 * torch.randn(1 + observed, width))
        self.memory = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, context_width=width, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, action)
        self.mark = nn.Parameter(torch.zeros(width)) if config.max_delay else None
        tick = torch.arange(config.horizon)
        self.register_buffer("earlier", tick[:, None] >= tick[None], persistent=False)
        seen = tick[:, None] + (0 if config.past else observed) >= torch.arange(1 + observed)[None] - 1
        self.register_buffer("visible", seen, persistent=False)
        self.earlier: Tensor
        self.visible: Tensor

    def forward(
        self,
        chunk: Float[Tensor, "batch horizon action"],
        step: Int[Tensor, " batch"],
        known: Float[Tensor, "batch observed known"],
        clean: Bool[Tensor, "batch horizon"] | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """What is predicted of a noisy chunk, whose ticks may be `clean` if it learned what that means."""
        memory = torch.cat([self.waves(step)[:, None], self.observation(known)], dim=1)
        memory = self.memory(memory + self.places)
        tokens = self.enter(chunk) + self.ticks
        if clean is not None and self.mark is not None:
            tokens = tokens + self.mark * clean[:, :, None].to(tokens.dtype)
        rows = (len(chunk), -1, -1)
        for block in self.blocks:
            tokens = block(
                tokens,
                mask=self.earlier.expand(rows),
                context=memory,
                context_mask=self.visible.expand(rows),
            )
        return self.leave(self.norm(tokens))


class DiffusionPolicy(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = DiffusionConfig
    config: DiffusionConfig
    released = (
        "LeRobot safetensors (U-Net)",
        "original checkpoints (U-Net, transformer), through scripts/convert_diffusion.py",
    )

    def __init__(self, config: DiffusionConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        specs = self.bodies.values()
        self.views = every_camera(specs) if config.vision != "none" else ()
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        ticks = len(config.history)
        self.sight: Sight | None = None
        self.language: Language | None = None
        self.guess: Guess | None = None
        if config.vision == "sight":
            self.sight = Sight(config.sight, self.bodies, language=config.language, history=ticks)
            known, ticks = self.sight.width, 1
            if config.guess:
                self.guess = Guess(self.sight.width, config.horizon, self.action_width)
        else:
            self.eyes = nn.ModuleDict(
                {
                    camera.name: PointEye(
                        config.backbone_width,
                        norm=config.norm,
                        mean=config.picture_mean,
                        std=config.picture_std,
                    )
                    for camera in self.views
                }
            )
            known = self.state_width + SEEN * len(self.views)
            if len(self.embodiments) > 1:
                self.body = BodyTable(len(self.embodiments), self.state_width)
            if config.language.reader != "none":
                self.language = Language(config.language)
                self.reader = SentenceReader(config.language.width, slots=1, width=SEEN)
                known += SEEN
        self.network: nn.Module
        if config.network == "unet":
            self.network = ConditionalUNet1D(
                self.action_width,
                known * ticks,
                dims=config.dims,
                step_width=config.step_width,
                groups=config.groups,
                marks=config.max_delay > 0,
            )
        else:
            self.network = DiffusionTransformer(self.action_width, known, config, ticks)

    @cached_property
    def schedule(self) -> Schedule:
        """How noise grows: the cosine schedule, as published."""
        return Schedule.cosine(self.config.train_steps)

    @cached_property
    def rungs(self) -> diffusion.Ladder:
        """The steps of acting."""
        return diffusion.ladder(
            self.schedule, self.config.steps, sampler=self.config.sampler, prediction=self.config.prediction
        )

    @property
    def window(self) -> Window:
        """History of the config, what of its horizon is not over, and with `max_delay` what ran."""
        config = self.config
        horizon, ran = config.horizon - config.past, config.max_delay > 0
        return Window(history=config.history, horizon=horizon, executed=ran)

    @property
    def diet(self) -> Diet:
        """What the shared sight asks for; else every tick."""
        return self.sight.diet if self.sight else Diet()

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs, if any."""
        language = self.sight.language if self.sight else self.language
        return language.encoder if language else None

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """States and actions to [-1, 1] by their extremes; with the shared sight, the pipeline of that."""
        spec = self.check_key(key)
        if self.sight:
            return self.sight.pipeline(spec, stats, sentences)
        return Pipeline(
            (
                *(self.language.transform(sentences) if self.language else ()),
                Normalize(
                    state=stats["state"],
                    action=within_limits(stats["action"], spec.action),
                    mode="min_max",
                    action_mode="min_max",
                ),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self.views),
            )
        )

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Squared error of the prediction at a random step, and the losses of the shared sight.

        With `max_delay` the first ticks of each chunk are what ran there, as many as a draw says, and the
        others count.

        Source: eq. 5.
        """
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("diffusion: the batch has no actions to learn from.")
        if self.config.past:
            raise ValueError("diffusion: past ticks are for released weights. To train, set past to 0.")
        terms: dict[str, Term] = {}
        if self.sight:
            lesson = self.sight.learn(batch, generator)
            vector, actions, mask, terms = lesson.vector, lesson.actions, lesson.mask, dict(lesson.losses)
            ran = lesson.executed
            if self.guess:
                if self.config.max_delay:
                    ran = self.guess.around(vector, ran) / FARTHEST
                left, told = self.guess.learn(vector, actions, mask, self.config.guess)
                vector, actions, terms = vector.detach(), left / FARTHEST, terms | told
            known = vector[:, None]
        else:
            known = self.known(batch, generator, learning=True)
            actions, mask = batch.actions, real_actions(batch)
            ran = actions if batch.executed is None else batch.executed
        rows = torch.arange(len(known), device=known.device).repeat(self.config.draws)
        real, promised, clean = mask.any(1)[rows], None, None
        if self.config.max_delay:
            promised = flow.sample_delay(
                len(rows), maximum=self.config.max_delay, generator=generator, device=rows.device
            )
            clean = torch.arange(actions.shape[1], device=rows.device) < promised[:, None]
        total, count = diffusion.loss(
            lambda points, step: self.predict(points, step, known[rows], real, clean),
            self.schedule,
            actions[rows],
            generator=generator,
            mask=mask[rows],
            prediction=self.config.prediction,
            promised=promised,
            ran=ran[rows],
        )
        return Loss({"noise": Term(total, count, self.config.weight), **terms})

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
        """A chunk drawn by the sampler.

        Promised actions that it learned to continue are clean all the way; it is guided towards others, as
        far as they are held.
        """
        if batch.action_mask is None:
            raise ValueError("diffusion: the batch has no action mask. Run the policy's transforms first.")
        past = self.config.past
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        else:
            noise = F.pad(noise, (0, 0, past, 0))  # what is over starts from nothing
        known = self.sight(batch).vector[:, None] if self.sight else self.known(batch, None, learning=False)
        around, scale = self.around(known[:, -1])
        real = batch.action_mask

        clean: Tensor | None = None

        def plain(points: Tensor, step: Tensor) -> Tensor:
            return self.predict(points, step, known, real, clean)

        predict: diffusion.Predict = plain
        kept: Tensor | None = None
        if prefix is not None:
            weights = prefix.new_ones(prefix.shape[1]) if held is None else held.to(prefix)
            promised, weights = F.pad(prefix, (0, 0, past, 0)), F.pad(weights, (past, 0))
            reach = promised.shape[1]
            promised = (promised - around[:, :reach]) / scale[:, :reach]
            if held is None and reach <= self.config.max_delay:
                kept = promised if self.guess is None else promised.clamp(-1, 1)
                clean = (torch.arange(noise.shape[1], device=noise.device) < reach).expand(len(noise), -1)
            else:
                predict = diffusion.guide(
                    plain, self.schedule, promised, weights, prediction=self.config.prediction
                )
        start = self.config.temperature * noise
        drawn = diffusion.sample(predict, self.rungs, start, generator=generator, promised=kept)
        actions = (around + scale * drawn)[:, past:].float()
        if prefix is not None:  # what will have run stands as it is, however far the pull came
            surely = prefix.new_ones(prefix.shape[:2]) if held is None else (held >= 1).to(prefix)
            actions = continued(actions, prefix, surely)
        return Acted(actions=actions)

    def around(
        self, known: Float[Tensor, "row known"]
    ) -> tuple[Float[Tensor, "row horizon action"], Float[Tensor, "row horizon action"]]:
        """What the network's chunk of numbers in [-1, 1] is centered on, and scaled by."""
        if self.guess is None:
            shape = (len(known), self.config.horizon, self.action_width)
            return known.new_zeros(shape), known.new_ones(shape)
        guess, doubt = self.guess(known)
        return guess, FARTHEST * doubt

    def predict(
        self,
        points: Float[Tensor, "row horizon action"],
        step: Int[Tensor, " row"],
        known: Float[Tensor, "row observed known"],
        real: Bool[Tensor, "row action"],
        clean: Bool[Tensor, "row horizon"] | None = None,
    ) -> Float[Tensor, "row horizon action"]:
        """The noise of noisy chunks, some of whose ticks may be clean; padded dimensions are not read."""
        points = points * real[:, None]
        if self.config.network == "unet":
            known = known.flatten(1)
        return self.network(points, step, known, clean)

    def known(
        self, batch: Batch, generator: torch.Generator | None, *, learning: bool
    ) -> Float[Tensor, "batch history known"]:
        """State, pictures and sentence of each tick; zeros where something is not there.

        With `before="first"` ticks before an episode are its first one again, as in data and play of the
        released code and of LeRobot.
        """
        state = batch.state * batch.state_mask[:, None]
        if len(self.embodiments) > 1:
            state = state + self.body(batch.embodiment)[:, None]
        parts = [state]
        for name, eye in self.eyes.items():
            pixels = batch.images[name].flatten(0, 1)  # batch history -> frame
            found = eye(cropped(pixels, self.config.crop, at_random=learning, generator=generator))
            parts.append(found.unflatten(0, state.shape[:2]) * batch.image_mask[name][:, :, None])
        if self.language:
            words = self.reader(*self.language(batch))  # batch 1 feature, the same at every tick
            parts.append(words.expand(-1, state.shape[1], -1))
        found = torch.cat(parts, dim=-1) * batch.history_mask[:, :, None]
        if self.config.before == "nothing":
            return found
        first = batch.history_mask.int().argmax(1, keepdim=True)  # of the ticks that are there
        seen = torch.arange(found.shape[1], device=found.device).maximum(first)  # batch history
        return found.gather(1, seen[:, :, None].expand_as(found))
