"""BC: behavior cloning, the regression that every other family is compared with.

Pomerleau (1989) for the idea; Mandlekar et al. (2021), "What matters in learning from offline human
demonstrations for robot manipulation" (robomimic), section 4 and appendix, for networks and heads.

1. Eyes: a ResNet-18 for each camera, whose maps become 32 points by spatial soft-argmax, then 64 numbers.
2. A trunk: an MLP over what is seen now, or an LSTM or a transformer over the history.
3. A head: the squared error, the absolute error, or a mixture of Gaussians, which can say "left or right"
   where the errors can only say "the middle".
4. While acting a mixture draws its component and adds next to no noise ("low-noise evaluation").

Differences: a policy here remembers nothing, so an LSTM reads the history of the window anew at each call
(robomimic carries its state along and begins anew every 10 ticks; a history of 10 is the same at the tenth).
The horizon may be longer than 1; then a component of the mixture is a whole chunk. With a language reader,
the mean of the token states is seen beside the pictures. `vision="sight"` takes everything that was
observed as one vector (see `visuomotor.perception.sight`), and learns from blind samples, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from visuomotor.errors import unknown_name
from visuomotor.generative import mixture
from visuomotor.losses import Loss, Term
from visuomotor.nn.pooling import SpatialSoftArgmax
from visuomotor.nn.resnet import ResNet18, standardize_pictures
from visuomotor.nn.transformer import Block
from visuomotor.perception.geometry import every_camera
from visuomotor.perception.language import Language, LanguageConfig
from visuomotor.perception.sight import Sight, SightConfig, real_actions
from visuomotor.policies.base import Acted, Context, Policy
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["BC", "BCConfig"]

Head = Literal["mse", "l1", "mixture"]
Trunk = Literal["mlp", "lstm", "transformer"]
Vision = Literal["resnet18", "sight"]
POINTS = 32  # of a camera's soft-argmax
SEEN = 64  # numbers that a camera comes down to, and the instruction, too


@dataclass(frozen=True, kw_only=True)
class BCConfig:
    """Everything about a `BC` policy that the data does not decide."""

    horizon: int = 1
    """Actions predicted by one call."""
    history: tuple[int, ...] = (0,)
    """Ticks seen, as offsets from the current one."""
    head: Head = "mixture"
    """Squared error, absolute error, or a mixture of Gaussians."""
    trunk: Trunk = "mlp"
    """What lies between eyes and head; an LSTM or a transformer read the history in its order."""
    vision: Vision = "resnet18"
    """A ResNet-18 with spatial soft-argmax for each camera, or the shared sight."""
    sight: SightConfig = field(default_factory=SightConfig)
    """The eyes of `vision="sight"`."""
    language: LanguageConfig = field(default_factory=LanguageConfig.none)
    """How the instruction is read; the paper has none."""
    backbone_width: int = 64
    """Channels of the first stage of the ResNet-18."""
    crop: float = 76 / 84
    """Share of a picture's sides that is seen: cut at random in training, from the middle while acting."""
    width: int = 1024
    """Width of the trunk."""
    layers: int = 2
    """Layers of the trunk."""
    heads: int = 8
    """Attention heads of a transformer."""
    modes: int = 5
    """Components of a mixture."""
    least_std: float = 1e-4
    """Added to every spread of a mixture."""
    acting_std: float = 1e-4
    """Spread of a component while acting."""
    weight: float = 1.0
    """Weight of the loss of the actions; matters beside those of the shared sight."""

    def __post_init__(self) -> None:
        for name, choices in (("head", Head), ("trunk", Trunk), ("vision", Vision)):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"{name} of BC", getattr(self, name), get_args(choices))
        if min(self.horizon, self.width, self.layers, self.heads, self.modes) < 1:
            raise ValueError(f"BC: sizes must be at least 1, got {self}.")
        if not 0 < self.crop <= 1 or min(self.least_std, self.acting_std) <= 0 or self.weight < 0:
            raise ValueError("BC: crop must be in (0, 1], spreads positive, the weight at least 0.")

    @classmethod
    def recurrent(cls) -> BCConfig:
        """robomimic's LSTM with a mixture: 2 layers of 400 over 10 ticks."""
        return cls(trunk="lstm", history=tuple(range(-9, 1)), width=400)

    @classmethod
    def transformer(cls) -> BCConfig:
        """robomimic's transformer with a mixture: 6 layers of 512 over 10 ticks."""
        return cls(trunk="transformer", history=tuple(range(-9, 1)), width=512, layers=6)

    @classmethod
    def small(cls) -> BCConfig:
        """What two CPU cores train in minutes."""
        return cls(
            horizon=8, vision="sight", language=LanguageConfig(), width=512, least_std=1e-2, weight=10.0
        )

    @classmethod
    def tiny(cls) -> BCConfig:
        """Seconds on a laptop: for tests."""
        return replace(
            cls.small(),
            horizon=4,
            sight=SightConfig.tiny(),
            language=LanguageConfig.tiny(),
            backbone_width=16,
            width=32,
            heads=2,
            modes=2,
        )


class Eye(nn.Module):
    """Pictures of one camera to `SEEN` numbers: ResNet-18, points by soft-argmax, a linear layer."""

    def __init__(self, config: BCConfig) -> None:
        super().__init__()
        self.resnet = ResNet18("group", config.backbone_width)
        self.points = nn.Conv2d(self.resnet.channels, POINTS, kernel_size=1)
        self.where = SpatialSoftArgmax(POINTS)
        self.leave = nn.Linear(2 * POINTS, SEEN)

    def forward(self, pixels: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame seen"]:
        maps = self.points(self.resnet(standardize_pictures(pixels)))
        return self.leave(self.where(maps).flatten(1))


class Recall(nn.Module):
    """A trunk over the history: what is known at its last tick.

    Ticks before the start of the episode are zeros to an LSTM, and invisible to a transformer.
    """

    def __init__(self, config: BCConfig, known: int) -> None:
        super().__init__()
        self.trunk = config.trunk
        if config.trunk == "lstm":
            self.lstm = nn.LSTM(known, config.width, config.layers, batch_first=True)
            return
        self.enter = nn.Linear(known, config.width)
        self.places = nn.Parameter(0.02 * torch.randn(len(config.history), config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, seen: Float[Tensor, "row history known"], real: Bool[Tensor, "row history"]
    ) -> Float[Tensor, "row width"]:
        if self.trunk == "lstm":
            return self.lstm(seen)[0][:, -1]
        tokens = self.enter(seen) + self.places[-seen.shape[1] :]
        for block in self.blocks:
            tokens = block(tokens, mask=real)
        return self.norm(tokens[:, -1])


def layers(known: int, config: BCConfig) -> nn.Sequential:
    """An MLP as in robomimic: linear layers with a ReLU after each."""
    parts: list[nn.Module] = []
    for _ in range(config.layers):
        parts += [nn.Linear(known, config.width), nn.ReLU()]
        known = config.width
    return nn.Sequential(*parts)


def cropped(
    pixels: UInt8[Tensor, "frame height width 3"],
    share: float,
    generator: torch.Generator | None,
    *,
    random: bool,
) -> UInt8[Tensor, "frame down across 3"]:
    """A part of each picture, `share` of its sides: from anywhere, or from the middle."""
    frames, height, width, _ = pixels.shape
    down, across = max(round(share * height), 1), max(round(share * width), 1)
    free_down, free_across = height - down, width - across
    if not random:
        top, left = free_down // 2, free_across // 2
        return pixels[:, top : top + down, left : left + across]
    tops = torch.randint(0, free_down + 1, (frames, 1), generator=generator, device=pixels.device)
    lefts = torch.randint(0, free_across + 1, (frames, 1), generator=generator, device=pixels.device)
    rows = tops + torch.arange(down, device=pixels.device)
    columns = lefts + torch.arange(across, device=pixels.device)
    frame = torch.arange(frames, device=pixels.device)[:, None, None]
    return pixels[frame, rows[:, :, None], columns[:, None, :]]


class BC(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = BCConfig
    config: BCConfig

    def __init__(self, config: BCConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        specs = self.bodies.values()
        self.views = every_camera(specs)
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        ticks = len(config.history)
        self.sight: Sight | None = None
        self.language: Language | None = None
        if config.vision == "sight":
            self.sight = Sight(config.sight, self.bodies, language=config.language, history=ticks)
            known, ticks = self.sight.width, 1
        else:
            self.eyes = nn.ModuleDict({camera.name: Eye(config) for camera in self.views})
            known = self.state_width + SEEN * len(self.views)
            self.body = nn.Embedding(len(self.embodiments), self.state_width)
            nn.init.zeros_(self.body.weight)
            if config.language.reader != "none":
                self.language = Language(config.language)
                self.heard = nn.Linear(config.language.width, SEEN)
                known += SEEN
        self.trunk = layers(known * ticks, config) if config.trunk == "mlp" else Recall(config, known)
        chunk = config.horizon * self.action_width
        modes = config.modes if config.head == "mixture" else 1
        self.means = nn.Linear(config.width, modes * chunk)
        if config.head == "mixture":
            self.spreads = nn.Linear(config.width, modes * chunk)
            self.logits = nn.Linear(config.width, modes)

    @property
    def window(self) -> Window:
        """History and horizon of the config."""
        return Window(history=self.config.history, horizon=self.config.horizon)

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
        """States by their spread, actions by their limits to [-1, 1]."""
        spec = self.check_key(key)
        if self.sight:
            return self.sight.pipeline(spec, stats, sentences)
        return Pipeline(
            (
                *(self.language.transform(sentences) if self.language else ()),
                Normalize(
                    state=stats["state"],
                    action=within_limits(stats["action"], spec.action),
                    action_mode="min_max",
                ),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self.views),
            )
        )

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Error or surprise of the chunk, and the losses of the shared sight."""
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("BC: the batch has no actions to learn from.")
        terms: dict[str, Term] = {}
        if self.sight:
            lesson = self.sight.learn(batch, generator)
            known, actions, mask, terms = lesson.vector, lesson.actions, lesson.mask, lesson.losses
            hidden = self.recalled(known[:, None], torch.ones_like(known[:, :1], dtype=torch.bool))
        else:
            actions, mask = batch.actions, real_actions(batch)
            hidden = self.recalled(self.seen(batch, generator, learning=True), batch.history_mask)
        means = self.chunks(self.means(hidden)).tanh()
        actions = actions.masked_fill(~mask, 0)
        if self.config.head == "mixture":
            stds = F.softplus(self.chunks(self.spreads(hidden))) + self.config.least_std
            total, count = mixture.surprise(self.logits(hidden), means, stds, actions, mask)
        else:
            error = (means[:, 0].float() - actions).masked_fill(~mask, 0)
            total = error.abs().sum() if self.config.head == "l1" else error.square().sum()
            count = mask.sum().to(error.dtype)
        weight = self.config.weight if self.config.head != "mixture" else 0.1 * self.config.weight
        return Loss({self.config.head: Term(total, count, weight), **terms})

    def act(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        context: Context | None = None,
        prefix: Tensor | None = None,
    ) -> Acted:
        """The answer of the regression, or a component of the mixture; promised actions stand as they are."""
        if self.sight:
            known = self.sight(batch).vector
            hidden = self.recalled(known[:, None], torch.ones_like(known[:, :1], dtype=torch.bool))
        else:
            hidden = self.recalled(self.seen(batch, None, learning=False), batch.history_mask)
        means = self.chunks(self.means(hidden)).tanh()
        if self.config.head == "mixture":
            if noise is None:
                shape = (len(batch), self.config.horizon, self.action_width)
                noise = torch.randn(shape, generator=generator, device=means.device)
            stds = torch.full_like(means, self.config.acting_std)
            actions = mixture.draw(self.logits(hidden), means, stds, noise)
        else:
            actions = means[:, 0]
        if prefix is not None:
            actions = torch.cat([prefix.to(actions), actions[:, prefix.shape[1] :]], dim=1)
        return Acted(actions=actions.float())

    def seen(
        self, batch: Batch, generator: torch.Generator | None, *, learning: bool
    ) -> Float[Tensor, "batch history known"]:
        """State, pictures and words of each tick; zeros where something is not there."""
        state = batch.state * batch.state_mask[:, None] + self.body(batch.embodiment)[:, None]
        parts = [state]
        for name, eye in self.eyes.items():
            pixels = batch.images[name].flatten(0, 1)  # batch history -> frame
            found = eye(cropped(pixels, self.config.crop, generator, random=learning))
            parts.append(found.unflatten(0, state.shape[:2]) * batch.image_mask[name][:, :, None])
        if self.language:
            states, mask = self.language(batch)
            count = mask.sum(1, keepdim=True).clamp(min=1)
            words = self.heard((states * mask[:, :, None]).sum(1) / count)
            parts.append(words[:, None].expand(-1, state.shape[1], -1))
        return torch.cat(parts, dim=-1) * batch.history_mask[:, :, None]

    def recalled(
        self, seen: Float[Tensor, "row history known"], real: Bool[Tensor, "row history"]
    ) -> Float[Tensor, "row width"]:
        """What the trunk makes of it."""
        return self.trunk(seen.flatten(1)) if self.config.trunk == "mlp" else self.trunk(seen, real)

    def chunks(self, flat: Float[Tensor, "row number"]) -> Float[Tensor, "row mode horizon action"]:
        """Numbers of a head as chunks, one a component."""
        return flat.unflatten(-1, (-1, self.config.horizon, self.action_width))
