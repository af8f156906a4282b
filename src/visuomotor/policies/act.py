# long: a policy family is one file, read downwards like the method section of a paper.
"""ACT: action chunking with transformers.

Zhao et al. (2023), "Learning fine-grained bimanual manipulation with low-cost hardware", section IV.

1. One call predicts a chunk of the next 100 actions, so that few decisions are left in which errors
   could grow; pauses and other habits that depend on time stay within a chunk.
2. Demonstrators do not always do the same. In training an encoder reads the whole chunk into a latent
   of 32 numbers, drawn from a Gaussian that is held close to a standard normal one (a conditional VAE);
   the policy may look at it. While acting it is 0, the mean, so a call has no randomness.
3. The policy is a transformer as in DETR (Carion et al. 2020): its encoder mixes latent, state and all
   places of the feature maps of every camera; its decoder asks once for each tick of the chunk.
4. The loss is the mean absolute error, which is sharper than the squared one, and 10 times the
   divergence of the latent from its prior.
5. Chunks that overlap are averaged while acting: `visuomotor.executors.TemporalEnsemble`.

With `ACTConfig.published()` it is the released network, number for number. That one computes 7 decoder
layers, but reads the first one's answer, and never trains the other 6: `decoder="published"`, where we
do not compute them either. Its L1 is divided by padded ticks, too: `average="all"`. Not from the paper:

- `decoder="deep"` uses all decoder layers; `average="real"`, the default, counts real numbers only.
- Missing cameras and padded numbers are masked; a network for several bodies adds to the state which
  one it is.
- With a language reader, the token states of the instruction are further tokens of the encoder.
- `vision="sight"` gives the encoder a few tokens made of everything that was observed, in the place of
  feature maps (see `visuomotor.perception.sight`), and learns from blind samples, too. With `guess` a
  regression teaches it what to tell: through the transformer that is learned late, or never.
- `vision="none"` leaves latent and state alone.
- The unused head of the released network that was to tell padding (513 numbers) is left out.

Held against LeRobot's implementation with equal weights (tests/parity) and against the parameter counts
of both released layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.generative import cvae
from visuomotor.losses import Loss, Term
from visuomotor.nn.detr import DecoderLayer, EncoderLayer, sine_grid, sine_table
from visuomotor.nn.masks import needed
from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD, standardize_pictures
from visuomotor.nn.resnet import Norm, ResNet18
from visuomotor.nn.weights import load_named
from visuomotor.perception.bodies import BodyTable
from visuomotor.perception.geometry import every_camera
from visuomotor.perception.guess import Guess
from visuomotor.perception.language import Language, LanguageConfig
from visuomotor.perception.sight import Sight, SightConfig, real_actions
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Batch, Diet, Spec, Stats, Summary, Window

__all__ = ["ACT", "ACTConfig", "Layout", "load_released", "released_names", "released_stats"]

Vision = Literal["resnet18", "sight", "none"]
Decoder = Literal["published", "deep"]
Average = Literal["real", "all"]
Backbones = Literal["shared", "each"]
Layout = Literal["lerobot", "original"]
"""Whose state dicts: LeRobot's `ACTPolicy`, or that of the code released with the paper."""


@dataclass(frozen=True, kw_only=True)
class ACTConfig:
    """Everything about an `ACT` policy that the data does not decide; the defaults are the paper's."""

    horizon: int = 100
    """Actions predicted by one call."""
    vision: Vision = "resnet18"
    """Feature maps of a ResNet-18; the shared sight, which learns to look within minutes; or state only."""
    sight: SightConfig = field(default_factory=SightConfig)
    """The eyes of `vision="sight"`."""
    language: LanguageConfig = field(default_factory=LanguageConfig.none)
    """How the instruction is read; the paper has none."""
    seen_tokens: int = 4
    """Tokens that the encoder gets from the shared sight."""
    guess: float = 0.0
    """Weight of a regression that teaches the shared sight, if there is one; 0 leaves that to the chunk."""
    backbones: Backbones = "shared"
    """One ResNet-18 for all cameras, as released, or one for each, as in ACT++ (Fu et al. 2024)."""
    norm: Norm = "frozen"
    """Norm of the ResNet-18: "frozen" for pretrained weights, "group" to train it from scratch."""
    backbone_width: int = 64
    """Channels of the first stage of the ResNet-18."""
    width: int = 512
    """Width of every token."""
    heads: int = 8
    """Attention heads."""
    feed: int = 3200
    """Hidden size of the feed-forward branches."""
    dropout: float = 0.1
    """Share that is dropped in training."""
    posterior_layers: int = 4
    """Layers of the encoder of the latent."""
    encoder_layers: int = 4
    """Layers that mix the observation."""
    decoder_layers: int = 7
    """Layers of the decoder."""
    decoder: Decoder = "deep"
    """Use all decoder layers, or only the first one, as the released network does."""
    latent: int = 32
    """Size of the latent."""
    divergence: float = 10.0
    """Weight of the divergence of the latent from its prior."""
    average: Average = "real"
    """What the absolute error is divided by: real numbers, or padded ticks too, as released."""
    std_floor: float = 1e-2
    """Least spread that states and actions are divided by, in raw units; not used by the shared sight."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("vision", Vision),
            ("decoder", Decoder),
            ("average", Average),
            ("backbones", Backbones),
        ):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"{name} of ACT", getattr(self, name), get_args(choices))
        sizes = (self.horizon, self.seen_tokens, self.heads, self.feed, self.latent)
        layers = (self.posterior_layers, self.encoder_layers, self.decoder_layers)
        if min(*sizes, *layers) < 1:
            raise ValueError(f"ACT: sizes and numbers of layers must be at least 1, got {self}.")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"ACT: width {self.width} must be a multiple of 4 and of {self.heads} heads.")
        if not 0 <= self.dropout < 1 or min(self.divergence, self.guess) < 0 or self.std_floor <= 0:
            raise ValueError("ACT: dropout must be in [0, 1), weights at least 0, std_floor positive.")
        if self.guess and self.vision != "sight":
            raise ValueError(f'ACT: a first guess needs vision="sight", got {self.vision!r}. Set guess=0.')

    @classmethod
    def published(cls) -> ACTConfig:
        """The released network and loss: 7 decoder layers, one of which does something.

        All cameras share a ResNet, so 83,922,574 weights for 14 joints whatever their number. Weights of
        ACT++, which has one for each camera, need `backbones="each"`.
        """
        return cls(decoder="published", average="all")

    @classmethod
    def lerobot(cls) -> ACTConfig:
        """LeRobot's: one decoder layer, which is the same function, and one ResNet for all cameras.

        The loss is that of version 0.6; earlier ones have `average="all"`. However small a spread is, LeRobot
        divides by it.
        """
        return cls(decoder_layers=1, std_floor=1e-8)

    @classmethod
    def small(cls) -> ACTConfig:
        """What two CPU cores train in minutes."""
        return cls(
            horizon=8,
            vision="sight",
            language=LanguageConfig(),
            guess=10.0,
            width=128,
            heads=4,
            feed=512,
            dropout=0.0,
            posterior_layers=2,
            encoder_layers=2,
            decoder_layers=2,
        )

    @classmethod
    def tiny(cls) -> ACTConfig:
        """Seconds on a laptop: for tests."""
        return replace(
            cls.small(),
            horizon=4,
            sight=SightConfig.tiny(),
            language=LanguageConfig.tiny(),
            seen_tokens=2,
            backbone_width=16,
            width=32,
            heads=2,
            feed=64,
            posterior_layers=1,
            encoder_layers=1,
            latent=4,
        )


class Posterior(nn.Module):
    """State and chunk to a Gaussian over latents: a transformer over [start, state, a_1 ... a_horizon].

    Source: section IV-C and fig. 4 left; appendix C.
    """

    places: Tensor

    def __init__(self, config: ACTConfig, state: int, action: int) -> None:
        super().__init__()
        self.start = nn.Embedding(1, config.width)
        self.state = nn.Linear(state, config.width)
        self.action = nn.Linear(action, config.width)
        self.layers = nn.ModuleList(_encoder_layers(config, config.posterior_layers))
        self.leave = nn.Linear(config.width, 2 * config.latent)
        places = sine_table(2 + config.horizon, config.width)[None]
        self.register_buffer("places", places, persistent=False)

    def forward(
        self,
        state: Float[Tensor, "row state"],
        actions: Float[Tensor, "row horizon action"],
        mask: Bool[Tensor, "row horizon action"],
    ) -> tuple[Float[Tensor, "row latent"], Float[Tensor, "row latent"]]:
        """Mean and log-variance of the latent; what is masked is not read."""
        start = self.start.weight.expand(len(state), 1, -1)
        read = self.action(actions.masked_fill(~mask, 0))
        tokens = torch.cat([start, self.state(state)[:, None], read], dim=1)
        real = needed(F.pad(mask.any(-1), (2, 0), value=True))
        for layer in self.layers[:-1]:
            tokens = layer(tokens, self.places, real)
        tokens = self.layers[-1](tokens, self.places, real, first=1)  # the others are not read
        mean, log_variance = self.leave(tokens[:, 0]).chunk(2, dim=-1)
        return mean, log_variance


class Scene(NamedTuple):
    """What the network may look at beside the state, as far as it was built for it.

    `pictures` are those of each camera, and `there` says in which samples it was there; `vector` is
    everything that was seen as one vector; `words` are token states and `heard` which of them are real.
    """

    pictures: Sequence[UInt8[Tensor, "row height across 3"]] = ()
    there: Sequence[Bool[Tensor, " row"]] = ()
    vector: Float[Tensor, "row seen"] | None = None
    words: Float[Tensor, "row token word"] | None = None
    heard: Bool[Tensor, "row token"] | None = None


class Network(nn.Module):
    """Posterior, and the transformer from latent, state and scene to a chunk.

    Args:
        config: Sizes.
        state: Numbers of a state.
        action: Numbers of an action.
        cameras: How many cameras there are.
        seen: Width of the vector that everything seen comes as; 0 if it does not.
        word: Width of token states; 0 if there are none.

    Source: section IV-C and fig. 4 right; appendix C.
    """

    def __init__(
        self, config: ACTConfig, *, state: int, action: int, cameras: int = 0, seen: int = 0, word: int = 0
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.posterior = Posterior(config, state, action)
        self.from_latent = nn.Linear(config.latent, width)
        self.from_state = nn.Linear(state, width)
        self.from_seen = nn.Linear(seen, config.seen_tokens * width) if seen else None
        self.from_word = nn.Linear(word, width) if word else None
        count = 0 if not cameras else 1 if config.backbones == "shared" else cameras
        eyes = [ResNet18(config.norm, config.backbone_width) for _ in range(count)]
        self.eyes = nn.ModuleList(eyes)
        self.from_map = nn.Conv2d(eyes[0].channels, width, 1) if eyes else None
        self.places = nn.Embedding(2 + (config.seen_tokens if seen else 0), width)
        self.encoder = nn.ModuleList(_encoder_layers(config, config.encoder_layers))
        self.decoder = nn.ModuleList(
            DecoderLayer(width, config.heads, config.feed, config.dropout)
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.ticks = nn.Embedding(config.horizon, width)
        self.leave = nn.Linear(width, action)
        for weight in (*self.encoder.parameters(), *self.decoder.parameters()):
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        for layer in self.decoder[self.depth :]:
            layer.requires_grad_(False)  # kept for the released weights, never computed

    @property
    def depth(self) -> int:
        """Decoder layers that are computed."""
        return 1 if self.config.decoder == "published" else len(self.decoder)

    def forward(
        self,
        state: Float[Tensor, "row width"],
        latent: Float[Tensor, "row latent"],
        scene: Scene,
    ) -> Float[Tensor, "row horizon action"]:
        """The chunk.

        Args:
            state: Token of the state, see `from_state`.
            latent: Drawn from the posterior, or 0.
            scene: Everything else.
        """
        tokens, places, mask = self.tokens(state, latent, scene)
        for layer in self.encoder:
            tokens = layer(tokens, places, mask)
        placed, asked = tokens + places, self.ticks.weight[None]
        answer = None
        for layer in self.decoder[: self.depth]:
            answer = layer(answer, asked, tokens, placed, mask)
        return self.leave(self.norm(answer))

    def tokens(
        self, state: Float[Tensor, "row width"], latent: Float[Tensor, "row latent"], scene: Scene
    ) -> tuple[
        Float[Tensor, "row token width"], Float[Tensor, "1 token width"], Bool[Tensor, "row token"] | None
    ]:
        """What the encoder mixes, where it is, and what of it is real; None if all is."""
        parts = [self.from_latent(latent)[:, None], state[:, None]]
        if self.from_seen is not None:
            assert scene.vector is not None
            parts.append(self.from_seen(scene.vector).unflatten(-1, (-1, self.config.width)))
        places, real = [self.places.weight], []
        if self.from_word is not None:  # the states of words know their places already
            assert scene.words is not None
            assert scene.heard is not None
            parts.append(self.from_word(scene.words))
            places.append(self.places.weight.new_zeros(parts[-1].shape[1:]))
            real.append(scene.heard)
        for number, (pictures, there) in enumerate(zip(scene.pictures, scene.there, strict=True)):
            maps = self.eyes[number % len(self.eyes)](standardize_pictures(pictures))
            parts.append(self.look(maps))
            height, across = maps.shape[-2:]
            places.append(sine_grid(height, across, self.config.width, maps.device))
            real.append(there[:, None].expand(parts[-1].shape[:2]))
        mask = None
        if real:
            always = real[0].new_ones(len(latent), len(self.places.weight))
            mask = needed(torch.cat([always, *real], dim=1))
        return torch.cat(parts, dim=1), torch.cat(places)[None], mask

    def look(self, maps: Float[Tensor, "row channel y x"]) -> Float[Tensor, "row place width"]:
        """Each place of the feature maps as a token; their order in memory is already that of tokens."""
        assert self.from_map is not None
        tokens = maps.flatten(2).transpose(1, 2)  # row channel y x -> row (y x) channel
        return F.linear(tokens, self.from_map.weight.flatten(1), self.from_map.bias)


def _encoder_layers(config: ACTConfig, count: int) -> list[EncoderLayer]:
    return [EncoderLayer(config.width, config.heads, config.feed, config.dropout) for _ in range(count)]


class ACT(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = ACTConfig
    config: ACTConfig
    released = ("LeRobot safetensors", "original checkpoints, through scripts/convert_act.py")

    def __init__(self, config: ACTConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        specs = self.bodies.values()
        self.views = every_camera(specs) if config.vision != "none" else ()
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        self.sight: Sight | None = None
        self.language: Language | None = None
        self.body: nn.Embedding | None = None
        if config.vision == "sight":
            self.sight = Sight(config.sight, self.bodies, language=config.language)
        else:
            if not self.views and config.vision != "none":
                raise ValueError(
                    'ACT: expected at least one camera, got none. Use vision="none" without one.'
                )
            if config.language.reader != "none":
                self.language = Language(config.language)
            if len(self.embodiments) > 1:
                self.body = BodyTable(len(self.embodiments), config.width)
        self.guess: Guess | None = None
        if self.sight and config.guess:
            self.guess = Guess(self.sight.width, config.horizon, self.action_width)
        self.network = Network(
            config,
            state=self.state_width,
            action=self.action_width,
            cameras=0 if self.sight else len(self.views),
            seen=self.sight.width if self.sight else 0,
            word=config.language.width if self.language else 0,
        )

    @property
    def window(self) -> Window:
        """The current tick, and the horizon of the config."""
        return Window(horizon=self.config.horizon)

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
        """States and actions by mean and spread; with the shared sight, the pipeline of that."""
        spec = self.check_key(key)
        if self.sight:
            return self.sight.pipeline(spec, stats, sentences)
        state, action = (_floored(stats[name], self.config.std_floor) for name in ("state", "action"))
        floor = self.config.std_floor
        return Pipeline(
            (
                *(self.language.transform(sentences) if self.language else ()),
                Normalize(state=state, action=action, mode="mean_std", floor=floor),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self.views),
            )
        )

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Absolute error of the chunk given a latent that has read it, and the divergence of the latent.

        Source: algorithm 1; the divergence is summed over the latent and averaged over samples.
        """
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("ACT: the batch has no actions to learn from.")
        terms: dict[str, Term] = {}
        if self.sight:
            lesson = self.sight.learn(batch, generator)
            state, actions, mask = lesson.state[:, -1], lesson.actions, lesson.mask
            vector, terms = lesson.vector, lesson.losses
            if self.guess:
                _, told = self.guess.learn(vector, actions, mask, self.config.guess)
                vector, terms = vector.detach(), {**terms, **told}
            scene = Scene(vector=vector)
        else:
            state, actions, mask = _state_now(batch), batch.actions, real_actions(batch)
            scene = self.scene(batch)
        actions = actions.masked_fill(~mask, 0)
        mean, log_variance = self.network.posterior(state, actions, mask)
        latent = cvae.draw(mean, log_variance, generator=generator)
        found = self.network(self.felt(state, batch), latent, scene)
        error = (found.float() - actions).abs().masked_fill(~mask, 0)
        counts, has = mask, mask.flatten(1).any(-1)
        if self.config.average == "all":
            counts = mask.any(1, keepdim=True).expand_as(mask)  # every tick of each real dimension
        apart = cvae.divergence(mean, log_variance).masked_fill(~has, 0)
        return Loss(
            {
                "l1": Term(error.sum(), counts.sum().to(error.dtype)),
                "divergence": Term(apart.sum(), has.sum().to(apart.dtype), self.config.divergence),
                **terms,
            }
        )

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
        """The chunk of the latent 0: nothing is random. Promised actions stand in it as they are.

        Source: algorithm 2, without its ensemble, which is an executor's work.
        """
        state = _state_now(batch)
        latent = state.new_zeros(len(batch), self.config.latent)
        scene = Scene(vector=self.sight(batch).vector) if self.sight else self.scene(batch)
        actions = self.network(self.felt(state, batch), latent, scene)
        return Acted(actions=continued(actions.float(), prefix, held))

    def scene(self, batch: Batch) -> Scene:
        """What the network looks at with eyes of its own."""
        names = [camera.name for camera in self.views]
        words, heard = self.language(batch) if self.language else (None, None)
        return Scene(
            pictures=[batch.images[name][:, -1] for name in names],
            there=[batch.image_mask[name][:, -1] for name in names],
            words=words,
            heard=heard,
        )

    def felt(self, state: Float[Tensor, "row state"], batch: Batch) -> Float[Tensor, "row width"]:
        """The token of the state, and with several bodies of whose it is."""
        token = self.network.from_state(state)
        return token if self.body is None else token + self.body(batch.embodiment)


def _state_now(batch: Batch) -> Float[Tensor, "batch state"]:
    """The state of the current tick, as far as it is there."""
    return batch.state[:, -1] * batch.history_mask[:, -1:] * batch.state_mask


def _floored(summary: Summary, floor: float) -> Summary:
    return replace(summary, std=np.maximum(summary.std, floor))


NAMES: dict[Layout, tuple[tuple[str, str], ...]] = {
    "lerobot": (
        ("posterior.start.", "model.vae_encoder_cls_embed."),
        ("posterior.state.", "model.vae_encoder_robot_state_input_proj."),
        ("posterior.action.", "model.vae_encoder_action_input_proj."),
        ("posterior.layers.", "model.vae_encoder.layers."),
        ("posterior.leave.", "model.vae_encoder_latent_output_proj."),
        ("from_latent.", "model.encoder_latent_input_proj."),
        ("from_state.", "model.encoder_robot_state_input_proj."),
        ("from_seen.", "model.encoder_env_state_input_proj."),
        ("from_map.", "model.encoder_img_feat_input_proj."),
        ("eyes.0.", "model.backbone."),
        ("places.", "model.encoder_1d_feature_pos_embed."),
        ("encoder.", "model.encoder.layers."),
        ("decoder.", "model.decoder.layers."),
        ("norm.", "model.decoder.norm."),
        ("ticks.", "model.decoder_pos_embed."),
        ("leave.", "model.action_head."),
    ),
    "original": (
        ("posterior.start.", "model.cls_embed."),
        ("posterior.state.", "model.encoder_joint_proj."),
        ("posterior.action.", "model.encoder_action_proj."),
        ("posterior.layers.", "model.encoder.layers."),
        ("posterior.leave.", "model.latent_proj."),
        ("from_latent.", "model.latent_out_proj."),
        ("from_state.", "model.input_proj_robot_state."),
        ("from_map.", "model.input_proj."),
        *((f"eyes.{camera}.", f"model.backbones.{camera}.0.body.") for camera in range(16)),
        ("places.", "model.additional_pos_embed."),
        ("encoder.", "model.transformer.encoder.layers."),
        ("decoder.", "model.transformer.decoder.layers."),
        ("norm.", "model.transformer.decoder.norm."),
        ("ticks.", "model.query_embed."),
        ("leave.", "model.action_head."),
    ),
}
"""How entries of a `Network` begin, and how the same entries begin in a released state dict."""
UNUSED: dict[Layout, tuple[str, ...]] = {
    # Fixed waves, which we compute; and statistics, which belong into a pipeline.
    "lerobot": ("model.vae_encoder_pos_enc", "normalize_*", "unnormalize_*"),
    # Fixed waves, a head that is never trained, and statistics that the converter script put there.
    "original": ("model.pos_table", "model.is_pad_head.*", "stats.*"),
}
"""Entries of released state dicts that carry nothing to be loaded."""


def load_released(
    network: Network, weights: Mapping[str, Tensor], layout: Layout, *, where: str = "ACT"
) -> None:
    """Copy a released state dict into a network of the same configuration: `policy.network`.

    Statistics in it are not loaded but checked, if they are of pictures; see `released_stats` for the others.

    Args:
        network: Built for the same sizes; see `ACTConfig.published` and `ACTConfig.lerobot`.
        weights: What a safetensors file holds; pickled ones go through `scripts/convert_act.py` first.
        layout: Whose names these are.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape, with the closest names; or pictures
            were normalized in another way.
    """
    names = released_names(network, layout, where=where)
    _check_pictures(weights, where)
    load_named(network, weights, where=where, names=names, unused=UNUSED[layout])


def released_names(network: Network, layout: Layout, *, where: str = "ACT") -> dict[str, str]:
    """Each entry of a network's state dict -> its name in a released layout; see `load_released`."""
    if layout not in get_args(Layout):
        raise unknown_name("layout of ACT", layout, get_args(Layout))
    names = {}
    for ours in network.state_dict():
        found = [theirs + ours.removeprefix(own) for own, theirs in NAMES[layout] if ours.startswith(own)]
        if not found:
            raise CheckpointError(
                f"{where}: the layout {layout!r} has no place for {ours!r}. Load it into a network without "
                'that part: language "none", and one ResNet for all cameras in LeRobot\'s layout.'
            )
        names[ours] = found[0]
    return names


def released_stats(weights: Mapping[str, Tensor], layout: Layout, *, where: str = "ACT") -> Stats:
    """Mean and spread of states and actions in a released file, for `ACT.transforms`.

    What such files do not tell is NaN.

    Args:
        weights: LeRobot's: the checkpoint itself up to version 0.3, later the safetensors file beside it
            whose name ends in "normalizer_processor". The original: what `scripts/convert_act.py` wrote.
        layout: Whose names these are.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: There are no statistics; or pictures were normalized otherwise than for ImageNet.
    """
    if layout not in get_args(Layout):
        raise unknown_name("layout of ACT", layout, get_args(Layout))
    _check_pictures(weights, where)
    features = {}
    for feature, name in (("state", "observation.state"), ("action", "action")):
        buffer = "buffer_" + name.replace(".", "_")
        places = (name, f"normalize_inputs.{buffer}", f"unnormalize_outputs.{buffer}")
        starts = places if layout == "lerobot" else (f"stats.{feature}",)
        there = [start for start in starts if {f"{start}.mean", f"{start}.std"} <= set(weights)]
        if not there:
            raise CheckpointError(
                f"{where}: no statistics of the {feature}. Newer checkpoints of LeRobot keep them beside the "
                "weights, in policy_preprocessor_step_*_normalizer_processor.safetensors: pass its tensors. "
                "Those of the original go through scripts/convert_act.py with their dataset_stats.pkl."
            )
        mean, std = (weights[f"{there[0]}.{part}"].double().flatten().numpy() for part in ("mean", "std"))
        unknown = np.full_like(mean, np.nan)
        features[feature] = Summary(
            mean=mean, std=std, min=unknown, max=unknown, q01=unknown, q99=unknown, count=0
        )
    return Stats(source=where, features=features)


def _check_pictures(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` if LeRobot's file says that pictures were not normalized as for ImageNet."""
    ours = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])
    starts = ("observation.image", "normalize_inputs.buffer_observation_image")
    for name in weights:
        if name.startswith(starts) and name.endswith(".mean"):
            spread = weights.get(name.removesuffix("mean") + "std", torch.zeros(0))
            theirs = [part.float().flatten() for part in (weights[name], spread)]
            if any(len(part) != 3 for part in theirs) or not torch.allclose(
                torch.stack(theirs), ours, atol=1e-4
            ):
                mean, std = (tuple(round(number, 4) for number in part.tolist()) for part in theirs)
                raise CheckpointError(
                    f"{where}: {name!r}: pictures were normalized by mean {mean} and spread {std}; ACT does "
                    "it as for ImageNet, by which it cannot stand in for this network. Train one with "
                    "use_imagenet_stats, LeRobot's default."
                )
