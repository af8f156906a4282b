# long: a policy family is one file, read downwards like the method section of a paper.
"""Compact: a small policy made to follow sentences after minutes of training on two CPU cores.

Our own family, made of published ideas:

1. Words steer the eyes. Learned slots read the token states of the sentence by attention; they
   modulate the first features of each view (FiLM, Perez et al. 2018) and look for their place in it.
2. A slot sees by spatial soft-argmax (Levine et al. 2016, sec. 5.1): softmax over the picture of
   the match of slot and feature; it returns where (expected coordinates) and what (mean feature).
3. Flow matching (Lipman et al. 2023, eq. 23) over the whole action chunk (Zhao et al. 2023), in a
   residual MLP modulated by the observation (adaLN, Peebles & Xie 2023, but not starting at zero),
   preconditioned as in Karras et al. (2022).
4. A picture is encoded once and serves several noise draws, so most of the cost is shared.
5. Hindsight teaches the eyes where to look: in a calibrated view the first two slots are trained, by
   cross-entropy over places, to find where the gripper will next close and last open (keypoints,
   James and Davison 2022; per-pixel classification as in Zeng et al. 2020), and a small head to point
   from the hand to both. The flow is told how far it is. Bodies that do not say where their hand is
   lack these terms; the flow alone hardly learned in minutes where to look.

Pictures are shifted in training and the coordinates are shifted back, so that convolutions learn from
every pixel phase while geometry stays exact; each sample may lose its sentence, so that without one
the policy picks a goal of its own. How far it comes stands in docs/results.md: it finds the thing and
its goal, and does not grasp precisely yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from visuomotor.errors import unknown_name
from visuomotor.generative import flow
from visuomotor.nn.attention import Attention
from visuomotor.nn.embedding import embed_time
from visuomotor.nn.film import FiLM
from visuomotor.policies.base import Acted, Context, Loss, Policy, Term
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline, Transform
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadDimensions
from visuomotor.transforms.sentence import EncodeSentence, HashWords
from visuomotor.types import Batch, Spec, Stats, Window

__all__ = ["Compact", "CompactConfig"]

TextChoice = Literal["minilm", "scratch"]
DECISION = 4.0  # how much more decided the reading of a place is than the belief about it
KEYPOINTS = 2  # next closing and last opening of the gripper
GLANCE = 64  # width of everything that is seen beside the keypoints
REACH = 0.25  # meters; ways are told in this unit, so that they are of the size of other activations
NEARNESS = (1.0, 5.0, 25.0)  # scales at which a way is told, in 1 / REACH
BLUR = 0.06  # of a keypoint in a view, in half pictures
GROUPS = 4  # of channels that are normalized together
SHARPNESS = 1.5  # of a fresh eye; a soft one would place everything in the middle and learn slowly
KEY = 32  # width in which slots and places are matched
VALUE = 24  # what a slot takes from the place it looks at
SPREAD = 0.4  # of actions in model space, where limits are -1 and 1
TIME = 64  # width of the embedded flow time


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Everything about a `Compact` policy that the data does not decide."""

    horizon: int = 12
    """Actions predicted by one call."""
    history: tuple[int, ...] = (0,)
    """Ticks seen, as offsets from the current one."""
    text: TextChoice = "minilm"
    """Reads frozen MiniLM token states, or hashed words with an embedding learned from scratch."""
    sentence_width: int = 384
    """Width of a token state; 384 for MiniLM."""
    max_tokens: int = 32
    """Longer sentences are refused."""
    buckets: int = 4096
    """Rows of the word table when `text="scratch"`."""
    channels: int = 48
    """Feature channels of the picture encoders."""
    blocks_eye: int = 2
    """Blocks that look around at a quarter of the picture's resolution."""
    slots: int = 8
    """Queries that read the sentence and look for their place in each view."""
    slot_width: int = 128
    """Width of a slot."""
    width: int = 384
    """Width of the flow network."""
    blocks: int = 3
    """Residual blocks of the flow network."""
    blank: float = 0.1
    """Share of training samples that lose their sentence, so that without one the policy picks a goal."""
    draws: int = 6
    """Noise draws for each encoded picture in training."""
    steps: int = 8
    """Euler steps of one call."""
    look: float = 0.3
    """Weight of the loss that teaches two slots where the gripper will close and open; 0 for none."""
    point: float = 3.0
    """Weight of the loss that teaches to point from the hand to both places; 0 for none."""
    shift: int = 3
    """Largest shift of a picture in training, in pixels."""
    photometric: float = 0.12
    """Spread of brightness, contrast and color gain in training; 0 switches it off."""

    def __post_init__(self) -> None:
        if self.text not in get_args(TextChoice):
            raise unknown_name("text", self.text, get_args(TextChoice))
        if (
            min(self.horizon, self.channels, self.slots, self.slot_width, self.width, self.blocks, self.draws)
            < 1
        ):
            raise ValueError(f"compact: sizes must be at least 1, got {self}.")
        if self.slots < KEYPOINTS:
            raise ValueError(f"compact: at least {KEYPOINTS} slots, one for each keypoint, got {self.slots}.")
        if min(self.look, self.point) < 0 or not 0 <= self.blank <= 1:
            raise ValueError("compact: look and point must be at least 0, blank in [0, 1].")
        if self.steps < 1 or self.shift < 0 or self.photometric < 0:
            raise ValueError("compact: steps must be at least 1, shift and photometric at least 0.")

    @classmethod
    def tiny(cls) -> CompactConfig:
        """Seconds on a laptop: for tests."""
        return cls(
            horizon=4,
            channels=8,
            blocks_eye=1,
            slots=2,
            slot_width=16,
            width=32,
            blocks=1,
            draws=2,
            steps=2,
            shift=1,
            text="scratch",
            buckets=64,
            max_tokens=16,
        )


class Seen(NamedTuple):
    """What the slots saw: where and what, and how well each place matched each slot."""

    slots: Float[Tensor, "frame slot feature"]
    matches: Float[Tensor, "frame slot place"]
    grid: Float[Tensor, "frame place 2"]


class Sight(NamedTuple):
    """Everything that was observed as one vector, what each camera saw, and the way to both keypoints."""

    vector: Float[Tensor, "batch width"]
    seen: dict[str, Seen]
    ways: Float[Tensor, "batch 2 3"]


class Views(NamedTuple):
    """Pictures of one camera, and how far they were shifted, in units of half a picture."""

    pixels: UInt8[Tensor, "frame height width 3"]
    offset: Float[Tensor, "frame 2"]
    gain: Float[Tensor, "frame 3"]
    bias: Float[Tensor, "frame 3"]


def shifted(
    pixels: UInt8[Tensor, "frame height width 3"],
    shift: int,
    photometric: float,
    generator: torch.Generator | None,
) -> Views:
    """Augment each picture on its own: shift by whole pixels, colors by a gain and a bias.

    Only the shift touches the uint8 pixels; gain and bias are applied where they become floats.
    """
    frames, height, width, _ = pixels.shape
    device = pixels.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * 2 - 1

    moves = torch.randint(-shift, shift + 1, (frames, 2), generator=generator, device=device)  # x, y
    rows = (torch.arange(height, device=device) + moves[:, 1:]).clamp(0, height - 1)  # frame height
    columns = (torch.arange(width, device=device) + moves[:, :1]).clamp(0, width - 1)  # frame width
    frame = torch.arange(frames, device=device)[:, None, None]
    moved = pixels[frame, rows[:, :, None], columns[:, None, :]]
    size = torch.tensor([width, height], device=device)
    gain = (1 + photometric * draw(frames, 1)) * (1 + 0.5 * photometric * draw(frames, 3))
    bias = photometric * draw(frames, 1).expand(-1, 3)
    return Views(moved, 2 * moves / size, gain, bias)


def unshifted(pixels: UInt8[Tensor, "frame height width 3"]) -> Views:
    """Pictures as they are."""
    zeros = pixels.new_zeros((len(pixels), 3), dtype=torch.float32)
    return Views(pixels, zeros[:, :2], zeros + 1, zeros)


class SentenceReader(nn.Module):
    """Token states of a sentence to slots: learned queries attend over the words."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.slot_width
        self.words = nn.Sequential(
            nn.LayerNorm(config.sentence_width), nn.Linear(config.sentence_width, width)
        )
        self.queries = nn.Parameter(torch.randn(config.slots, width) * width**-0.5)
        self.attention = Attention(width, heads=4)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, sentence: Float[Tensor, "batch token feature"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch slot width"]:
        words = self.words(sentence)
        queries = self.queries.expand(len(words), -1, -1)
        slots = queries + self.attention(queries, words, mask)
        return self.norm(slots + self.mlp(slots))


class WordTable(nn.Module):
    """Hashed words to token states, learned from scratch; a convolution tells which words are neighbors."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.buckets, config.sentence_width)
        self.position = nn.Parameter(torch.randn(config.max_tokens, config.sentence_width) * 0.02)
        self.neighbors = nn.Conv1d(config.sentence_width, config.sentence_width, kernel_size=5, padding=2)

    def forward(
        self, ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token feature"]:
        words = (self.table(ids) + self.position[: ids.shape[1]]) * mask[:, :, None]
        mixed = self.neighbors(words.transpose(1, 2)).transpose(
            1, 2
        )  # batch feature token -> batch token feature
        return words + F.gelu(mixed)


class LookAround(nn.Module):
    """Residual block of an eye: a depthwise convolution looks around, a pointwise one mixes channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, kernel_size=5, padding=2, groups=channels)
        self.mix = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, features: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame channel y x"]:
        return features + F.relu(self.mix(self.around(features)))


class Eye(nn.Module):
    """One camera: each slot of the sentence finds its place in the picture and what is there."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        channels = config.channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 2, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, kernel_size=4, stride=2, padding=1),
        )
        self.contrast = nn.GroupNorm(GROUPS, channels)
        self.film = FiLM(channels, config.slot_width)
        self.near = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.blocks = nn.Sequential(*(LookAround(channels) for _ in range(config.blocks_eye)))
        self.settle = nn.GroupNorm(GROUPS, channels)
        self.keys = nn.Conv2d(channels, KEY, kernel_size=1)
        self.values = nn.Linear(channels, VALUE)
        self.queries = nn.Linear(config.slot_width, KEY)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(
        self, views: Views, slots: Float[Tensor, "frame slot width"], summary: Float[Tensor, "frame width"]
    ) -> Seen:
        features = self.features(views, summary)
        height, width = features.shape[-2:]
        keys = self.keys(features).flatten(2)  # frame key place
        matches = self.queries(slots) @ keys * (SHARPNESS * KEY**-0.5)  # frame slot place
        attention = (DECISION * matches).softmax(
            dim=-1
        )  # a little doubt must not pull the place to the middle
        what = attention @ features.flatten(2).transpose(1, 2)  # frame slot channel
        grid = pixel_grid(height, width, features) + views.offset[:, None]  # in the picture before its shift
        return Seen(torch.cat([attention @ grid, self.values(what)], dim=-1), matches, grid)

    def features(
        self, views: Views, words: Float[Tensor, "frame width"]
    ) -> Float[Tensor, "frame channel y x"]:
        """Feature map at a quarter of the resolution, steered by the words."""
        pixels = views.pixels.permute(0, 3, 1, 2).float()  # frame y x channel -> frame channel y x
        scale, bias = views.gain / 127.5, views.bias - views.gain
        pixels = torch.addcmul(bias[:, :, None, None], pixels, scale[:, :, None, None])  # now in [-1, 1]
        features = F.relu(self.film(self.contrast(self.stem(pixels)), words))
        return self.settle(self.blocks(features + F.relu(self.near(features))))


def pixel_grid(height: int, width: int, like: Tensor) -> Float[Tensor, "place 2"]:
    """Centers of the cells of a feature map, x and y in [-1, 1], row by row."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) * (2 / height) - 1
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)


class FlowBlock(nn.Module):
    """Residual MLP block, modulated by observation and flow time (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.from_observation = nn.Linear(width, 3 * width)
        self.from_time = nn.Linear(TIME, 3 * width, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "draw batch width"],
        modulation: Float[Tensor, "draw batch modulation"],
    ) -> Float[Tensor, "draw batch width"]:
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return hidden + gate * self.mlp(self.norm(hidden) * (1 + scale) + shift)


class Velocity(nn.Module):
    """Flow velocity of a noisy chunk, given what was observed."""

    def __init__(self, config: CompactConfig, action: int) -> None:
        super().__init__()
        chunk = config.horizon * action
        self.enter = nn.Linear(chunk, config.width)
        self.blocks = nn.ModuleList(FlowBlock(config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, chunk)

    def given(
        self, observation: Float[Tensor, "batch width"], real: Float[Tensor, "batch action"]
    ) -> flow.Velocity:
        """The velocity as a function of chunk and flow time; what the observation says is computed once.

        The chunks may be several draws for each observation, draw by draw. Padded actions are not read.
        """
        blocks = cast(Sequence[FlowBlock], self.blocks)
        said = [block.from_observation(observation) for block in blocks]

        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            skip, out, enter = (part[:, None, None] for part in precondition(time))
            draws = (enter * chunk).unflatten(0, (-1, len(observation))) * real[:, None]
            waves = embed_time(time, TIME).unflatten(0, (-1, len(observation)))
            hidden = (
                self.enter(draws.flatten(2)) + observation
            )  # draw batch horizon action -> draw batch width
            for block, part in zip(blocks, said, strict=True):
                hidden = block(hidden, part + block.from_time(waves))
            return skip * chunk + out * self.leave(self.norm(hidden)).reshape(chunk.shape)

        return velocity


def precondition(
    time: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
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
        specs = self.bodies.values()
        self.cameras = tuple(dict.fromkeys(camera.name for spec in specs for camera in spec.cameras))
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        self.words = WordTable(config) if config.text == "scratch" else None
        self.reader = SentenceReader(config)
        self.eyes = nn.ModuleDict({name: Eye(config) for name in self.cameras})
        self.projection: Tensor
        self.register_buffer("projection", self._projections(), persistent=False)
        self.body = nn.Embedding(len(self.embodiments), config.width)
        history = len(config.history)
        seen = history * len(self.cameras) * config.slots * (2 + VALUE)
        told = config.slots * config.slot_width
        self.summary = nn.Sequential(nn.Linear(told, config.slot_width), nn.GELU())
        known = history * self.state_width
        pointing = history * len(self.cameras) * KEYPOINTS * (2 + VALUE) + known
        self.pointer = nn.Sequential(
            nn.Linear(pointing, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, KEYPOINTS * 3)
        )
        for module in self.pointer:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.glance = nn.Linear(seen, GLANCE)  # narrow: a wide one learns scenes by heart
        self.gather = nn.Linear(
            GLANCE + config.slot_width + known + KEYPOINTS * 3 * len(NEARNESS), config.width
        )
        self.merge = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )
        nn.init.normal_(self.body.weight, std=0.02)  # what is the same at every tick must not drown the rest
        self.norm = nn.LayerNorm(config.width)  # the flow hears the observation as loud as its noise
        self.velocity = Velocity(config, self.action_width)

    def _projections(self) -> Float[Tensor, "body camera 3 4"]:
        """Projection of each camera of each body, zeros where it is unknown."""
        found = torch.zeros(len(self.embodiments), len(self.cameras), 3, 4)
        known: dict[tuple[int, int], tuple[float, ...]] = {}
        for spec in self.bodies.values():
            for camera in spec.cameras:
                place = self.embodiments.index(spec.embodiment), self.cameras.index(camera.name)
                if camera.projection is not None:
                    if known.setdefault(place, camera.projection) != camera.projection:
                        raise ValueError(
                            f"compact: data sets of {spec.embodiment!r} disagree about where camera "
                            f"{camera.name!r} stands. Rename a body, or drop the projections."
                        )
                    found[place] = torch.tensor(camera.projection).reshape(3, 4)
        return found

    @property
    def window(self) -> Window:
        """History and horizon of the config."""
        return Window(history=self.config.history, horizon=self.config.horizon)

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs: "minilm", or None for words learned from scratch."""
        return "minilm" if self.config.text == "minilm" else None

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """Encode the sentence, normalize states by their spread and actions by their limits, pad."""
        spec = self.check_key(key)
        text: Transform
        if self.config.text == "scratch":
            text = HashWords(buckets=self.config.buckets, max_tokens=self.config.max_tokens)
        elif sentences is None:
            raise ValueError(
                'compact: text="minilm" needs encoded sentences. Pass sentences=SentenceCache(...).'
            )
        else:
            text = EncodeSentence(sentences, max_tokens=self.config.max_tokens)
        return Pipeline(
            (
                text,
                Normalize(
                    state=stats["state"],
                    action=within_limits(stats["action"], spec.action),
                    action_mode="min_max",
                ),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
            )
        )

    def observe(
        self, batch: Batch, *, augment: bool = False, generator: torch.Generator | None = None
    ) -> Sight:
        """Everything that was observed."""
        slots = self.read(batch, self.heard(batch, generator) if augment else None)
        history = len(self.config.history)
        summary = self.summary(slots.flatten(1))
        views_seen, sights = [], {}
        for name in self.cameras:
            pixels = batch.images[name].flatten(0, 1)  # batch history -> frame
            views = unshifted(pixels)
            if augment:
                views = shifted(pixels, self.config.shift, self.config.photometric, generator)
            told = (slots.repeat_interleave(history, dim=0), summary.repeat_interleave(history, dim=0))
            sights[name] = self.eyes[name](views, *told)
            real = batch.image_mask[name].flatten()[:, None, None]
            views_seen.append((sights[name].slots * real).unflatten(0, (len(slots), history)))
        state = batch.state * batch.history_mask[:, :, None] * batch.state_mask[:, None, :]
        seen = torch.cat(views_seen, dim=-1)  # batch history slot (camera feature)
        ways = self.pointer(torch.cat([seen[:, :, :KEYPOINTS].flatten(1), state.flatten(1)], dim=-1))
        near = torch.cat([torch.tanh(ways * scale) for scale in NEARNESS], dim=-1)
        parts = [summary, self.glance(seen.flatten(1)), state.flatten(1), near]
        gathered = self.gather(torch.cat(parts, dim=-1)) + self.body(batch.embodiment)
        vector = self.norm(gathered + self.merge(gathered))
        return Sight(vector, sights, ways.unflatten(-1, (KEYPOINTS, 3)))

    def heard(self, batch: Batch, generator: torch.Generator | None) -> Bool[Tensor, "batch 1"]:
        """`False` for the share of samples that lose their sentence in training."""
        device = batch.state.device
        return torch.rand((len(batch), 1), generator=generator, device=device) >= self.config.blank

    def read(
        self, batch: Batch, heard: Bool[Tensor, "batch 1"] | None = None
    ) -> Float[Tensor, "batch slot width"]:
        """Slots of the sentence; without one they are what the queries are by themselves."""
        if self.words is None:
            if batch.sentence is None or batch.sentence_mask is None:
                raise ValueError("compact: the batch has no sentences. Run the policy's transforms first.")
            words, mask = batch.sentence, batch.sentence_mask
        else:
            if batch.tokens is None:
                raise ValueError("compact: the batch has no hashed words. Run the policy's transforms first.")
            words, mask = self.words(batch.tokens.ids, batch.tokens.attend), batch.tokens.attend
        return self.reader(words, mask if heard is None else mask & heard)

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Flow matching, `draws` noise samples for each encoded observation; looking; and pointing."""
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("compact: the batch has no actions to learn from.")
        sight = self.observe(batch, augment=True, generator=generator)
        mask = (
            batch.has_actions[:, None, None] & batch.horizon_mask[:, :, None] & batch.action_mask[:, None, :]
        )
        draws = self.config.draws
        clean, mask = (part.repeat(draws, 1, 1) for part in (batch.actions.masked_fill(~mask, 0), mask))
        noise = flow.sample_noise(clean.shape, generator=generator, device=clean.device)
        time = flow.sample_time(clean.shape[:1], generator=generator, device=clean.device)
        velocity = self.velocity.given(sight.vector, batch.action_mask.float())
        wrong = velocity(flow.interpolate(noise, clean, time), time) - flow.velocity_target(noise, clean)
        _, out, _ = precondition(time)  # in units of the network's output, every flow time counts alike
        error = (wrong.float() / out[:, None, None]).square().masked_fill(~mask, 0)
        total, count = error.sum(), mask.sum().to(error.dtype)
        terms = {"flow": Term(total, count)}
        if self.config.look > 0 and batch.keypoints is not None:
            terms["look"] = self.look(batch, sight.seen)
        if self.config.point > 0 and batch.keypoints is not None:
            terms["point"] = self.point(batch, sight.ways)
        return Loss(terms)

    def point(self, batch: Batch, ways: Float[Tensor, "batch 2 3"]) -> Term:
        """Absolute error of the ways from the hand to the keypoints, in units of `REACH`."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("compact: the batch has no keypoints.")
        true = (batch.keypoints[:, 1:] - batch.keypoints[:, :1]) / REACH
        real = (batch.keypoint_mask[:, 1:] & batch.keypoint_mask[:, :1])[..., None].expand_as(true)
        wrong = (ways.float() - true).abs().masked_fill(~real, 0)
        return Term(wrong.sum(), real.sum(), weight=self.config.point)

    def look(self, batch: Batch, sights: Mapping[str, Seen]) -> Term:
        """Cross-entropy of where the first slots look, given where the keypoints show in calibrated views."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("compact: the batch has no keypoints.")
        total, count = batch.state.new_zeros(()), batch.state.new_zeros(())
        places = F.pad(batch.keypoints[:, 1:], (0, 1), value=1.0)  # batch 2 (x y z 1)
        for number, name in enumerate(self.cameras):
            matrix = self.projection[batch.embodiment, number]  # batch 3 4
            shown = places @ matrix.transpose(1, 2)  # batch 2 (u w, v w, w)
            point = shown[..., :2] / shown[..., 2:].clamp(min=1e-6)
            real = batch.keypoint_mask[:, 1:] & batch.image_mask[name][:, -1:] & (shown[..., 2] > 1e-6)
            real = real & (point.abs() <= 1).all(-1)
            now = slice(len(self.config.history) - 1, None, len(self.config.history))  # last tick of each
            grid, matches = sights[name].grid[now], sights[name].matches[now, :KEYPOINTS]
            distance = (grid[:, None] - point[:, :, None]).square().sum(-1)  # batch 2 place
            target = (distance / (-2 * BLUR**2)).softmax(-1)
            wrong = -(target * matches.float().log_softmax(-1)).sum(-1)
            total, count = total + wrong.masked_fill(~real, 0).sum(), count + real.sum()
        return Term(total, count, weight=self.config.look)

    def act(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        context: Context | None = None,
        prefix: Tensor | None = None,
    ) -> Acted:
        """Integrate the flow from noise to a chunk in `steps` Euler steps."""
        if batch.action_mask is None:
            raise ValueError("compact: the batch has no action mask. Run the policy's transforms first.")
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        velocity = self.velocity.given(self.observe(batch).vector, batch.action_mask.float())
        if prefix is not None:
            velocity = flow.guide(velocity, prefix, prefix.new_ones(prefix.shape[-2]))
        return Acted(actions=flow.integrate(velocity, noise, steps=self.config.steps))
