# long: a policy family is one file, read downwards like the method section of a paper.
"""BC: behavior cloning, which answers what demonstrators did as directly as it can.

Pomerleau (1989) for the idea; Mandlekar et al. (2021), "What matters in learning from offline human
demonstrations for robot manipulation", and its code robomimic 0.3.0 for every number.

1. Each tick of the history becomes one vector: of each camera 64 features, by a ResNet-18 over a random
   crop, 32 keypoints by spatial softmax (Finn et al. 2016) and a linear layer; beside them the state.
2. A trunk reads the ticks: an MLP the current one, an LSTM or a causal transformer the last ten.
3. A head answers: with the mean, under a squared or an absolute error, or with a Gaussian mixture of 5
   components under its negative log-likelihood. Means are bounded by tanh, as actions are normalized.
4. Where people do one thing or another, the error heads answer with something in between that nobody
   did; a mixture keeps both. While acting a component is drawn, and answered without its spread
   ("low noise").
5. Adam, 1e-4, no weight decay.

`BCConfig.published(...)` is the published network, number for number. Not from the paper:

- One call may answer a chunk of actions, 1 as published. A mixture is then one over whole chunks (see
  `visuomotor.generative.mixture`), and promised actions choose the component that begins like them.
- Policies here are stateless. robomimic carries the state of its LSTM from tick to tick and empties it
  every 10 ticks, so that it never remembers more than a training sequence; ours begins empty at each call
  and reads the last 10 ticks anew. Where both have read the same ticks they answer the same; ours has
  always read 10, but at the start of an episode, and only its last tick is trained, not all of them.
- The start of an episode is masked, not filled with copies of its first tick; missing cameras and padded
  numbers are masked, too.
- `apart` adds the error of the nearest component, so that likelihood does not settle on a single one;
  `sampling="mode"` answers with the heaviest, for one that is drawn may be one that hardly ever is right.
- Group norm instead of batch norm, whose statistics are a state; as many weights. `norm="frozen"` is
  robomimic's network while acting.
- States are normalized by mean and spread, actions to [-1, 1] within the limits of the body; robomimic
  has actions in [-1, 1] and takes both as they are.
- The absolute error is not smoothed near 0. All losses are means over numbers.
- With a language reader, a learned query reads the token states of the instruction; a network for
  several bodies is told which one it is.
- `vision="sight"` has the shared sight look at the current tick (see `visuomotor.perception.sight`); the
  trunk reads its vector there, and the states of the ticks before. It learns from blind samples, too.

Held against robomimic 0.3.0 with equal weights: answers, likelihoods, and the number of weights of the
published sizes (tests/parity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.generative import mixture
from visuomotor.losses import Loss, Term
from visuomotor.nn.causal import CausalLayer, looking_back
from visuomotor.nn.lstm import LSTM
from visuomotor.nn.pooling import SpatialSoftArgmax
from visuomotor.nn.resnet import Norm, ResNet18
from visuomotor.nn.weights import load_named
from visuomotor.perception.geometry import every_camera
from visuomotor.perception.language import Language, LanguageConfig, SentenceReader
from visuomotor.perception.points import cropped
from visuomotor.perception.sight import Sight, SightConfig, real_actions
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["BC", "BCConfig", "load_released", "released_names"]

Head = Literal["mse", "l1", "mixture"]
Trunk = Literal["mlp", "lstm", "transformer"]
Vision = Literal["resnet18", "sight", "none"]
Sampling = Literal["low_noise", "full", "mode"]
WORDS = 64  # numbers that are taken from the sentence, as from a camera
NAT = 0.1  # what a nat a number weighs; its gradients are those of errors in units of a spread


@dataclass(frozen=True, kw_only=True)
class BCConfig:
    """Everything about a `BC` policy that the data does not decide."""

    horizon: int = 1
    """Actions predicted by one call; 1 in the paper."""
    history: tuple[int, ...] = (0,)
    """Ticks seen, as offsets from the current one."""
    head: Head = "mixture"
    """Squared error, absolute error, or a Gaussian mixture."""
    trunk: Trunk = "mlp"
    """What reads the ticks."""
    vision: Vision = "resnet18"
    """A ResNet-18 for each camera; the shared sight, which learns to look within minutes; or state only."""
    sight: SightConfig = field(default_factory=SightConfig)
    """The eyes of `vision="sight"`."""
    language: LanguageConfig = field(default_factory=LanguageConfig.none)
    """How the instruction is read; the paper has none."""
    layers: tuple[int, ...] = (1024, 1024)
    """Widths of the layers of the MLP; with an LSTM, of those behind it."""
    memory: int = 400
    """Width of the LSTM."""
    memory_layers: int = 2
    """Layers of the LSTM."""
    width: int = 512
    """Width of the transformer."""
    blocks: int = 6
    """Layers of the transformer."""
    heads: int = 8
    """Attention heads of the transformer."""
    dropout: float = 0.1
    """Share that the transformer drops in training."""
    keypoints: int = 32
    """Places that the spatial softmax finds in each picture."""
    features: int = 64
    """Numbers that are taken from each picture."""
    crop: float = 76 / 84
    """Sides of a crop as a share of the picture's: at random in training, of the middle while acting."""
    norm: Norm = "group"
    """Norm of the ResNet-18: "group" to train it from scratch, "frozen" for pretrained weights."""
    backbone_width: int = 64
    """Channels of the first stage of the ResNet-18."""
    modes: int = 5
    """Components of the mixture."""
    apart: float = 0.0
    """Weight of what keeps the components apart; see `visuomotor.generative.mixture`. 0 in the paper."""
    min_std: float = 1e-4
    """Least spread of a component, in model space, where limits are -1 and 1."""
    bounded: bool = True
    """Whether means are kept in [-1, 1] by tanh."""
    sampling: Sampling = "low_noise"
    """While acting: a drawn component without its spread, with it, or the component of most weight."""
    weight: float = 1.0
    """Weight of an error of the actions, beside the losses of the shared sight; of a likelihood a tenth."""

    def __post_init__(self) -> None:
        for name, choices in (("head", Head), ("trunk", Trunk), ("vision", Vision), ("sampling", Sampling)):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"{name} of BC", getattr(self, name), get_args(choices))
        sizes = (*self.layers, self.horizon, self.memory, self.memory_layers, self.width, self.blocks)
        if min(*sizes, self.heads, self.keypoints, self.features, self.modes) < 1:
            raise ValueError(f"BC: sizes and numbers of layers must be at least 1, got {self}.")
        if self.trunk == "mlp" and not self.layers:
            raise ValueError("BC: an MLP needs at least one layer, got layers=().")
        if self.trunk == "transformer" and self.width % self.heads:
            raise ValueError(f"BC: width {self.width} is not a multiple of {self.heads} heads.")
        if not 0 < self.crop <= 1 or not 0 <= self.dropout < 1 or not self.min_std > 0:
            raise ValueError("BC: crop must be in (0, 1], dropout in [0, 1), min_std positive.")
        if min(self.weight, self.apart) < 0:
            raise ValueError(
                f"BC: weights of losses must be at least 0, got weight={self.weight}, apart={self.apart}."
            )

    @classmethod
    def published(cls, trunk: Trunk = "lstm", head: Head = "mixture", *, pictures: bool = True) -> BCConfig:
        """The published sizes; without `pictures` those for states that tell everything.

        The LSTM is 400 wide for states and 1000 for pictures, and nothing stands between it and the head.
        """
        vision: Vision = "resnet18" if pictures else "none"
        config = cls(head=head, trunk=trunk, vision=vision)
        if trunk == "mlp":
            return config
        memory = 1000 if pictures else 400
        return replace(config, history=tuple(range(-9, 1)), layers=(), memory=memory)

    @classmethod
    def small(cls, trunk: Trunk = "mlp", head: Head = "mixture") -> BCConfig:
        """What two CPU cores train in minutes; a chunk of 8."""
        return cls(
            horizon=8,
            history=(0,) if trunk == "mlp" else (-3, -2, -1, 0),
            head=head,
            trunk=trunk,
            vision="sight",
            language=LanguageConfig(),
            layers=(512, 512) if trunk == "mlp" else (),
            memory=256,
            width=128,
            blocks=2,
            heads=4,
            dropout=0.0,
            apart=1.0,
            sampling="mode",
            min_std=0.01,
            weight=10.0,
        )

    @classmethod
    def tiny(cls, trunk: Trunk = "mlp", head: Head = "mixture") -> BCConfig:
        """Seconds on a laptop: for tests."""
        return replace(
            cls.small(trunk, head),
            horizon=4,
            history=(0,) if trunk == "mlp" else (-2, 0),
            sight=SightConfig.tiny(),
            language=LanguageConfig.tiny(),
            layers=(32, 32) if trunk == "mlp" else (),
            memory=24,
            width=32,
            heads=2,
            keypoints=8,
            features=16,
            backbone_width=16,
            modes=3,
        )


class Eye(nn.Module):
    """One camera: pictures to keypoints to features.

    Source: robomimic 0.3.0, `VisualCore`; the keypoints are those of Finn et al. (2016), section IV-B, at
    a temperature that is not learned.
    """

    def __init__(self, config: BCConfig) -> None:
        super().__init__()
        self.backbone = ResNet18(config.norm, config.backbone_width)
        self.maps = nn.Conv2d(self.backbone.channels, config.keypoints, 1)
        self.pool = SpatialSoftArgmax(config.keypoints).requires_grad_(False)
        self.leave = nn.Linear(2 * config.keypoints, config.features)

    def forward(self, pixels: UInt8[Tensor, "frame height across 3"]) -> Float[Tensor, "frame feature"]:
        """Features of pictures, whose colors are taken as they are, in [0, 1]."""
        pictures = (pixels.float() / 255).permute(0, 3, 1, 2)  # in memory channels last, as convolutions like
        return self.leave(self.pool(self.maps(self.backbone(pictures))).flatten(1))


class MLPTrunk(nn.Module):
    """All ticks at once through layers with ReLUs; ticks that are not real are zeros.

    Source: robomimic 0.3.0, `MIMO_MLP`.
    """

    def __init__(self, config: BCConfig, inputs: int) -> None:
        super().__init__()
        self.layers = _layers(len(config.history) * inputs, config.layers)
        self.out = config.layers[-1]

    def forward(
        self, ticks: Float[Tensor, "row history input"], mask: Bool[Tensor, "row history"]
    ) -> Float[Tensor, "row width"]:
        return self.layers((ticks * mask[:, :, None]).flatten(1))


class LSTMTrunk(nn.Module):
    """What an LSTM knows after the last tick, and layers behind it if asked for.

    Source: robomimic 0.3.0, `RNN_MIMO_MLP`.
    """

    def __init__(self, config: BCConfig, inputs: int) -> None:
        super().__init__()
        self.memory = LSTM(inputs, config.memory, config.memory_layers)
        self.layers = _layers(config.memory, config.layers)
        self.out = config.layers[-1] if config.layers else config.memory

    def forward(
        self, ticks: Float[Tensor, "row history input"], mask: Bool[Tensor, "row history"]
    ) -> Float[Tensor, "row width"]:
        return self.layers(self.memory(ticks, mask)[:, -1])


class TransformerTrunk(nn.Module):
    """The last token of a causal transformer, with learned places.

    Source: robomimic 0.3.0, `MIMO_Transformer`.
    """

    def __init__(self, config: BCConfig, inputs: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.enter = nn.Linear(inputs, config.width)
        self.places = nn.Parameter(torch.zeros(1, len(config.history), config.width))
        self.norm_in = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            CausalLayer(config.width, config.heads, config.dropout) for _ in range(config.blocks)
        )
        self.norm_out = nn.LayerNorm(config.width)
        self.out = config.width

    def forward(
        self, ticks: Float[Tensor, "row history input"], mask: Bool[Tensor, "row history"]
    ) -> Float[Tensor, "row width"]:
        tokens = self.norm_in(self.enter(ticks) + self.places)
        tokens = F.dropout(tokens, self.dropout, self.training)
        sees = looking_back(mask)
        for block in self.blocks:
            tokens = block(tokens, sees)
        return self.norm_out(tokens[:, -1])


TRUNKS: dict[Trunk, type[MLPTrunk] | type[LSTMTrunk] | type[TransformerTrunk]] = {
    "mlp": MLPTrunk,
    "lstm": LSTMTrunk,
    "transformer": TransformerTrunk,
}


def _layers(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *widths), widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


class Answer(nn.Module):
    """The head: from what the trunk says to a chunk, and to its loss.

    Source: robomimic 0.3.0, `ActorNetwork` and `GMMActorNetwork`.
    """

    def __init__(self, config: BCConfig, inputs: int, action: int) -> None:
        super().__init__()
        self.config, self.shape = config, (config.horizon, action)
        numbers = config.horizon * action
        self.action: nn.Linear | None = None
        if config.head == "mixture":
            self.mean = nn.Linear(inputs, config.modes * numbers)
            self.scale = nn.Linear(inputs, config.modes * numbers)
            self.logits = nn.Linear(inputs, config.modes)
        else:
            self.action = nn.Linear(inputs, numbers)

    def point(self, hidden: Float[Tensor, "row width"]) -> Float[Tensor, "row horizon action"]:
        """The one answer of an error head."""
        assert self.action is not None
        found = self.action(hidden).unflatten(-1, self.shape).float()
        return found.tanh() if self.config.bounded else found

    def mixture(self, hidden: Float[Tensor, "row width"]) -> mixture.Mixture:
        """The mixture over chunks."""
        shape = (self.config.modes, *self.shape)
        mean, std = (part(hidden).unflatten(-1, shape) for part in (self.mean, self.scale))
        return mixture.from_raw(
            self.logits(hidden), mean, std, min_std=self.config.min_std, bounded=self.config.bounded
        )

    def loss(
        self,
        hidden: Float[Tensor, "row width"],
        actions: Float[Tensor, "row horizon action"],
        mask: Bool[Tensor, "row horizon action"],
    ) -> Term:
        """Error or negative log-likelihood of the real numbers of the chunks."""
        if self.config.head == "mixture":
            surprise = mixture.loss(self.mixture(hidden), actions, mask, apart=self.config.apart)
            return Term(*surprise, NAT * self.config.weight)
        off = (self.point(hidden) - actions.masked_fill(~mask, 0)).masked_fill(~mask, 0)
        error = off.square() if self.config.head == "mse" else off.abs()
        return Term(error.sum(), mask.sum().to(error.dtype), self.config.weight)

    def act(
        self,
        hidden: Float[Tensor, "row width"],
        noise: Float[Tensor, "row horizon action"],
        prefix: Float[Tensor, "row prefix action"] | None,
        held: Float[Tensor, "row prefix"] | None,
        mask: Bool[Tensor, "row action"],
    ) -> Float[Tensor, "row horizon action"]:
        """A chunk that begins with the prefix, if there is one, as far as it is held."""
        if self.config.head == "mixture":
            plans = self.mixture(hidden)
            if prefix is not None:
                real = mask[:, None] if held is None else mask[:, None] & (held > 0)[..., None]
                plans = mixture.condition(plans, prefix, real)
            if self.config.sampling == "mode":
                actions = mixture.mode(plans)
            else:
                if self.config.sampling == "low_noise":
                    plans = mixture.quiet(plans)
                actions = mixture.sample(plans, noise)
        else:
            actions = self.point(hidden)
        return continued(actions, prefix, held)


class Network(nn.Module):
    """Eyes, trunk and head.

    Args:
        config: Sizes.
        state: Numbers of a state.
        action: Numbers of an action.
        cameras: Which have eyes of their own.
        seen: Width of the vector that everything seen comes as; 0 if it does not.
        word: Width of token states; 0 if there are none.
        bodies: How many there are.
    """

    def __init__(
        self,
        config: BCConfig,
        *,
        state: int,
        action: int,
        cameras: Sequence[str] = (),
        seen: int = 0,
        word: int = 0,
        bodies: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.state = config, state
        self.eyes = nn.ModuleDict({name: Eye(config) for name in cameras})
        self.reader = SentenceReader(word, slots=1, width=WORDS) if word else None
        tick = len(cameras) * config.features + state + seen
        tick += (WORDS if word else 0) + (bodies if bodies > 1 else 0)
        self.trunk = TRUNKS[config.trunk](config, tick)
        self.head = Answer(config, self.trunk.out, action)

    def look(
        self, batch: Batch, *, learning: bool, generator: torch.Generator | None
    ) -> list[Float[Tensor, "batch history feature"]]:
        """Features of each camera at each tick, 0 where it was not there."""
        found = []
        for name, eye in self.eyes.items():
            pixels, there = batch.images[name], batch.image_mask[name]
            part = cropped(
                pixels.flatten(0, 1), self.config.crop, at_random=learning, generator=generator
            )  # batch history -> frame
            features = eye(part)
            if self.config.trunk != "transformer":  # which begins with a linear layer and a norm
                features = features.relu()
            found.append(features.unflatten(0, there.shape) * there[:, :, None])
        return found


class Rows(NamedTuple):
    """What a trunk reads: the ticks of each row, and which of them are real."""

    ticks: Float[Tensor, "row history input"]
    there: Bool[Tensor, "row history"]


class BC(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = BCConfig
    config: BCConfig
    released = ("robomimic 0.3.0, through scripts/convert_robomimic.py",)

    def __init__(self, config: BCConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        specs = self.bodies.values()
        self.views = every_camera(specs)
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        self.sight: Sight | None = None
        self.language: Language | None = None
        if config.vision == "sight":
            self.sight = Sight(config.sight, self.bodies, language=config.language)
        elif config.language.reader != "none":
            self.language = Language(config.language)
        alone = len(config.history) == 1  # the vector of the sight knows the state of its tick
        self.network = Network(
            config,
            state=0 if self.sight and alone else self.state_width,
            action=self.action_width,
            cameras=[camera.name for camera in self.views] if config.vision == "resnet18" else (),
            seen=self.sight.width if self.sight else 0,
            word=config.language.width if self.language else 0,
            bodies=1 if self.sight else len(self.embodiments),  # the sight knows them
        )

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
        """States by mean and spread, actions to [-1, 1]; with the shared sight, the pipeline of that."""
        spec = self.check_key(key)
        if self.sight:
            return self.sight.pipeline(spec, stats, sentences)
        action = within_limits(stats["action"], spec.action)
        return Pipeline(
            (
                *(self.language.transform(sentences) if self.language else ()),
                Normalize(state=stats["state"], action=action, action_mode="min_max"),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self.views),
            )
        )

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Error or negative log-likelihood of the chunks, and the losses of seeing.

        Source: robomimic 0.3.0, `BC` and `BC_GMM`.
        """
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("BC: the batch has no actions to learn from.")
        terms: dict[str, Term] = {}
        actions, mask = batch.actions, real_actions(batch)
        if self.sight:
            lesson = self.sight.learn(_now(batch), generator)
            actions, mask, terms = lesson.actions, lesson.mask, lesson.losses
            blind = batch.blind if len(actions) > len(batch) else None
            rows = self.beside(lesson.vector, batch, blind)
        else:
            rows = self.observed(batch, learning=True, generator=generator)
        return Loss(
            {self.config.head: self.network.head.loss(self.network.trunk(*rows), actions, mask), **terms}
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
        """The chunk. Only a mixture is random: its noise says which component, and how far from its mean.

        Promised actions choose the component that begins like them, and stand at the beginning.
        """
        if batch.action_mask is None:
            raise ValueError("BC: the batch has no action mask. Run the policy's transforms first.")
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        if self.sight:
            rows = self.beside(self.sight(_now(batch)).vector, batch)
        else:
            rows = self.observed(batch, learning=False)
        hidden = self.network.trunk(*rows)
        return Acted(actions=self.network.head.act(hidden, noise, prefix, held, batch.action_mask).float())

    def observed(self, batch: Batch, *, learning: bool, generator: torch.Generator | None = None) -> Rows:
        """Each tick with eyes of its own: pictures, state, words, and whose they are."""
        history = batch.state.shape[1]
        parts = [*self.network.look(batch, learning=learning, generator=generator), _felt(batch)]
        if self.language and self.network.reader:
            words = self.network.reader(*self.language(batch))  # batch 1 feature, the same at every tick
            parts.append(words.expand(-1, history, -1))
        if len(self.embodiments) > 1:
            whose = F.one_hot(batch.embodiment, len(self.embodiments)).to(batch.state.dtype)
            parts.append(whose[:, None].expand(-1, history, -1))
        return Rows(torch.cat(parts, dim=-1), batch.history_mask)

    def beside(self, vector: Float[Tensor, "row width"], batch: Batch, blind: Batch | None = None) -> Rows:
        """The ticks with the shared sight: their states, and at the last one everything that was seen.

        A history of one tick is that vector alone, which knows its state.
        """
        state, there = _felt(batch), batch.history_mask
        if blind is not None:
            state, there = torch.cat([state, _felt(blind)]), torch.cat([there, blind.history_mask])
        seen = F.pad(vector[:, None], (0, 0, state.shape[1] - 1, 0))  # row width -> row history width
        return Rows(torch.cat([state, seen], dim=-1) if state.shape[1] > 1 else seen, there)


def _felt(batch: Batch) -> Float[Tensor, "batch history state"]:
    """The states, as far as they are there."""
    return batch.state * batch.history_mask[:, :, None] * batch.state_mask[:, None]


def _now(batch: Batch) -> Batch:
    """The same batch without its past."""
    return replace(
        batch,
        images={name: pictures[:, -1:] for name, pictures in batch.images.items()},
        image_mask={name: there[:, -1:] for name, there in batch.image_mask.items()},
        state=batch.state[:, -1:],
        history_mask=batch.history_mask[:, -1:],
        blind=None if batch.blind is None else _now(batch.blind),
    )


BLOCK = "policy.nets.transformer.nets.transformer."
NAMES: dict[Trunk, tuple[tuple[str, str], ...]] = {
    "mlp": (("trunk.layers.", "policy.nets.mlp._model."),),
    "lstm": (
        ("trunk.memory.", "policy.nets.rnn.nets."),
        ("trunk.layers.", "policy.nets.mlp._model."),
    ),
    "transformer": (
        ("trunk.enter.", "policy.nets.embed_encoder."),
        ("trunk.places", "policy.params.embed_timestep"),
        ("trunk.norm_in.", "policy.nets.embed_ln."),
        *(
            (f"trunk.blocks.{block}.{ours}.", f"{BLOCK}{block}.nets.{theirs}.")
            for block in range(64)
            for ours, theirs in (
                ("norm1", "ln1"),
                ("qkv", "attention.nets.qkv"),
                ("out", "attention.nets.output"),
                ("norm2", "ln2"),
                ("feed", "mlp"),
            )
        ),
        ("trunk.norm_out.", "policy.nets.transformer.nets.output_ln."),
    ),
}
"""How entries of a `Network` begin, and how the same entries begin in a state dict of robomimic."""
FIRST: dict[Trunk, str] = {
    "mlp": "trunk.layers.0.weight",
    "lstm": "trunk.memory.weight_ih_l0",
    "transformer": "trunk.enter.weight",
}
"""The weight that reads a tick, whose columns stand in another order there."""
SEEN = "policy.nets.encoder.nets.obs.obs_nets."
EYE = (
    ("backbone.conv1.", "backbone.nets.0."),
    ("backbone.bn1.", "backbone.nets.1."),
    *((f"backbone.layer{stage}.", f"backbone.nets.{stage + 3}.") for stage in range(1, 5)),
    ("maps.", "pool.nets."),
    ("pool.log_temperature", "pool.temperature"),
    ("leave.", "nets.3."),
)
"""The same for each camera, behind its name."""


def load_released(
    network: Network,
    weights: Mapping[str, Tensor],
    observations: Mapping[str, Sequence[int]],
    *,
    where: str = "BC",
) -> None:
    """Copy a state dict of robomimic into a network of the same configuration: `policy.network`.

    Its weights expect states as they are, and actions in [-1, 1]: act with statistics of mean 0 and
    spread 1 for the state and of minimum -1 and maximum 1 for the actions.

    Args:
        network: Built for the same sizes, with norm="frozen"; see `BCConfig.published`. Its state is what
            was observed beside pictures, in this order.
        weights: What a safetensors file holds; pickled ones go through `scripts/convert_robomimic.py`.
        observations: Name to shape of what was observed, in the order of the checkpoint: pictures, called
            as the camera or with "_image" behind, and parts of the state.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape; with the closest names.
    """
    pictures = _pictures(network, observations, where)
    names = released_names(network, observations, where=where)
    unused = ["policy.nets.rnn.per_step_net.*", "*.num_batches_tracked", f"{BLOCK}*.mask"]
    weights = dict(weights)
    for picture in pictures.values():  # two names for the same, and fixed places
        eye = SEEN + picture
        unused += [f"{eye}.nets.0.*", f"{eye}.nets.1.*", f"{eye}.pool.pos_?"]
        heat = weights.get(f"{eye}.pool.temperature")
        if heat is not None:
            weights[f"{eye}.pool.temperature"] = heat.log().expand(network.config.keypoints)
    columns, width = {}, 0
    for name, shape in observations.items():
        count = network.config.features if len(shape) == 3 else int(torch.Size(shape).numel())
        columns[name], width = range(width, width + count), width + count
    order = [*pictures.values(), *(name for name in columns if name not in pictures.values())]
    first = names[FIRST[network.config.trunk]]
    if first in weights and weights[first].shape[-1] == width:
        weights[first] = weights[first][:, [place for name in order for place in columns[name]]]
    load_named(network, weights, where=where, names=names, unused=unused)


def released_names(
    network: Network, observations: Mapping[str, Sequence[int]], *, where: str = "BC"
) -> dict[str, str]:
    """Each entry of a network's state dict -> its name in robomimic; see `load_released`."""
    table = list(NAMES[network.config.trunk])
    table += [
        (f"head.{part}.", f"policy.nets.decoder.nets.{part}.")
        for part in ("action", "mean", "scale", "logits")
    ]
    for camera, picture in _pictures(network, observations, where).items():
        table += [(f"eyes.{camera}.{ours}", f"{SEEN}{picture}.{theirs}") for ours, theirs in EYE]
    names = {}
    for ours in network.state_dict():
        found = [theirs + ours.removeprefix(own) for own, theirs in table if ours.startswith(own)]
        if not found:
            raise CheckpointError(
                f"{where}: robomimic has no place for {ours!r}. Load it into a network without that part: "
                'language "none", and vision "resnet18" or "none".'
            )
        names[ours] = found[0]
    return names


def _pictures(network: Network, observations: Mapping[str, Sequence[int]], where: str) -> dict[str, str]:
    """Camera -> name of its pictures in a checkpoint."""
    known = [name for name, shape in observations.items() if len(shape) == 3]
    found = {camera: name for camera in network.eyes for name in known if name in (camera, f"{camera}_image")}
    missing = [camera for camera in network.eyes if camera not in found]
    if missing:
        raise CheckpointError(f"{where}: {unknown_name('camera', missing[0], known)}")
    unseen = sorted(set(known) - set(found.values()))
    if unseen:
        raise CheckpointError(
            f"{where}: the checkpoint sees {unseen}, and the network has no camera of that name, "
            f"only {sorted(network.eyes)}. Name the cameras of the spec as the checkpoint does."
        )
    return found
