# long: a policy family is one file, read downwards like the method section of a paper.
"""Compact: a small policy made to follow sentences after minutes of training on two CPU cores.

Our own family, made of published ideas:

1. Words steer the eyes. Learned slots read the token states of the sentence by attention and look for
   their place in each view; they modulate what they take from it (FiLM, Perez et al. 2018).
2. A slot sees by spatial soft-argmax (Levine et al. 2016, sec. 5.1) around its best place: it returns
   where (expected coordinates) and what (mean feature).
3. Hindsight teaches the eyes where to look: in a calibrated view the first two slots are trained, by
   cross-entropy over places, to find the thing that is moved and its goal, which the demonstration
   names itself later (keypoints, James and Davison 2022; per-pixel classification as in Zeng et al.
   2020). Action gradients alone hardly taught looking in minutes. A scene holds few things to be
   confused with; so each sentence is also told apart from all others of the batch by its thing, and
   each thing by its sentence (contrast, Radford et al. 2021). For this the features of a picture must
   not know the sentence.
4. Geometry is computed and not learned: the ray through a place in a picture, of a camera on the base
   or on the hand, meets the level of the thing; cameras are averaged by learned trust. What the policy
   knows of both places is the way there from the hand.
5. How to move, given where things are, is learned mostly from blind samples: without pictures, with
   the true places, a little off. They cost little, and actions trust the places from the first step on.
6. Flow matching (Lipman et al. 2023, eq. 23) over the whole action chunk (Zhao et al. 2023), in a
   residual MLP modulated by the observation (adaLN, Peebles & Xie 2023, but not starting at zero),
   preconditioned as in Karras et al. (2022). It begins at a first guess, by regression, and models what
   is left in units of a learned doubt; its gradients stop before the observation (as in Driess et al.
   2025), and each encoded picture serves several noise draws.

Pictures are shifted in training and the coordinates are shifted back, so that convolutions learn from
every pixel phase while geometry stays exact; each sample may lose its sentence, so that without one
the policy picks a goal of its own. Bodies without calibrated cameras, or that do not say where their
hand is, lack points 3 to 5. How far it comes stands in docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from visuomotor.transforms.hand import LocateHand, find_hand
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.transforms.sentence import EncodeSentence, HashWords
from visuomotor.types import Batch, Camera, Diet, Spec, Stats, Window

__all__ = ["Compact", "CompactConfig"]

TextChoice = Literal["minilm", "scratch"]
WINDOW = 0.15  # around the best place, in half pictures
HINT = 0.006  # meters; how wrong the places are that the actions are learned with
AROUND = 0.06  # meters; the same, of what hindsight does not tell exactly
BLIND = 3  # samples without pictures for each one with them
TELLING = 0.75  # share of pictures in which both keypoints are told
KEYPOINTS = 2  # the thing that is moved and its goal
GLANCE = 64  # width of everything that is seen beside the keypoints
REACH = 0.25  # meters; an error of a place is measured in it, and no error counts more
NEARNESS = (0.015, 0.05, 0.2)  # meters; distances at which a way is near, nearer, far
DESCRIBED = len(NEARNESS) * 9  # numbers that describe a way
BLUR = 0.06  # of a keypoint in a view, in half pictures
GROUPS = 4  # of channels that are normalized together
FLAT = 0.05  # least determinant of a ray and a plane; the camera's own, looking down, is about 1 to 25
SHARPNESS = 1.5  # of a fresh eye; a soft one would place everything in the middle and learn slowly
KEY = 32  # width in which slots and places are matched
VALUE = 24  # what a slot takes from the place it looks at
SPREAD = 1.0  # of what is left of actions after the first guess, in units of its doubt
DOUBT = 0.1  # about a guess before all learning, in model space, where limits are -1 and 1
SURE = 0.01  # least doubt
FARTHEST = 6.0  # units of doubt; farther outliers count as this far
TIME = 64  # width of the embedded flow time


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Everything about a `Compact` policy that the data does not decide."""

    horizon: int = 8
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
    channels: int = 32
    """Feature channels of the picture encoders."""
    blocks_eye: int = 2
    """Blocks that look around at a quarter of the picture's resolution."""
    slots: int = 8
    """Queries that read the sentence and look for their place in each view."""
    slot_width: int = 128
    """Width of a slot."""
    width: int = 256
    """Width of what is known of an observation, and of the flow network."""
    blocks: int = 3
    """Residual blocks of the flow network."""
    parts: int = 1
    """Most parts of a task with a thing and a goal of their own; the policy sees which is at work."""
    blank: float = 0.1
    """Share of training samples that lose their sentence, so that without one the policy picks a goal."""
    draws: int = 2
    """Noise draws for each encoded picture in training; blind samples have one."""
    steps: int = 4
    """Euler steps of one call."""
    temperature: float = 0.2
    """Scale of the noise from which a call starts; near 0 it stays close to the likeliest chunk."""
    guess: float = 10.0
    """Weight of the loss of the first guess of the actions."""
    look: float = 1.0
    """Weight of the loss that teaches two slots to find the thing and its goal; 0 for none."""
    contrast: float = 1.0
    """Weight of the loss that tells sentences apart by their things, and things by their sentences."""
    point: float = 3.0
    """Weight of the loss of both places in space; 0 for none."""
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
        if self.parts < 1 or self.slots < KEYPOINTS * self.parts:
            raise ValueError(
                f"compact: at least {KEYPOINTS} slots for each part, one for each keypoint, "
                f"got {self.slots} slots and {self.parts} parts."
            )
        if min(self.look, self.contrast, self.point, self.guess, self.temperature) < 0:
            raise ValueError("compact: all weights and the temperature must be at least 0.")
        if not 0 <= self.blank <= 1:
            raise ValueError(f"compact: blank must be in [0, 1], got {self.blank}.")
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
    """What the slots saw: where and what; how well each place matched each slot, and by which features."""

    slots: Float[Tensor, "frame slot feature"]
    matches: Float[Tensor, "frame slot place"]
    grid: Float[Tensor, "frame place 2"]
    queries: Float[Tensor, "frame slot key"]
    keys: Float[Tensor, "frame key place"]


class Sight(NamedTuple):
    """Everything that was observed as one vector, what each camera saw, where it saw the keypoints, which
    part seems to be at work, and in which samples the sentence was heard; None if in all."""

    vector: Float[Tensor, "batch width"]
    seen: dict[str, Seen]
    places: Float[Tensor, "batch 2 3"]
    parts: Float[Tensor, "batch part"] | None
    heard: Bool[Tensor, "batch 1"] | None


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
    """Residual block of an eye; normalized, and not depthwise, it learns shapes several times sooner."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.around = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame channel y x"]:
        return features + F.relu(self.around(self.norm(features)))


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
        self.blocks = nn.Sequential(*(LookAround(channels) for _ in range(config.blocks_eye)))
        self.settle = nn.GroupNorm(GROUPS, channels)
        self.keys = nn.Conv2d(channels, KEY, kernel_size=1)
        self.film = FiLM(channels, config.slot_width)
        self.values = nn.Linear(channels, VALUE)
        self.queries = nn.Linear(config.slot_width, KEY)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, views: Views, slots: Float[Tensor, "frame slot width"]) -> Seen:
        features = self.features(views)
        height, width = features.shape[-2:]
        keys = self.keys(features).flatten(2)  # frame key place
        queries = self.queries(slots) * (SHARPNESS * KEY**-0.5)
        matches = queries @ keys  # frame slot place
        places = pixel_grid(height, width, features)
        attention = near_the_best(matches, places)
        what = attention @ features.flatten(2).transpose(1, 2)  # frame slot channel
        steered = self.film(what.flatten(0, 1), slots.flatten(0, 1)).view_as(what)
        grid = places + views.offset[:, None]  # in the picture before its shift
        taken = torch.cat([attention @ grid, self.values(F.relu(steered))], dim=-1)
        return Seen(taken, matches, grid, queries, keys)

    def features(self, views: Views) -> Float[Tensor, "frame channel y x"]:
        """Feature map at a quarter of the resolution."""
        pixels = views.pixels.permute(0, 3, 1, 2).float()  # frame y x channel -> frame channel y x
        scale, bias = views.gain / 127.5, views.bias - views.gain
        pixels = torch.addcmul(bias[:, :, None, None], pixels, scale[:, :, None, None])  # now in [-1, 1]
        return self.settle(self.blocks(F.relu(self.contrast(self.stem(pixels)))))


def near_the_best(
    matches: Float[Tensor, "frame slot place"], places: Float[Tensor, "place 2"]
) -> Float[Tensor, "frame slot place"]:
    """Softmax of the matches around the best place: doubt about places far away must not pull it there.

    The best match finds the best place, as exactly as the cells are wide, and one of two where both are
    right; within a window around it the softmax is exact to a fraction of a cell.
    """
    best = places[matches.argmax(dim=-1)]
    away = (places - best[..., None, :]).square().sum(-1)  # frame slot place
    return (matches - away / (2 * WINDOW**2)).softmax(dim=-1)


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
    """Flow velocity of a noisy chunk, given what was observed."""

    def __init__(self, config: CompactConfig, action: int) -> None:
        super().__init__()
        chunk = config.horizon * action
        self.enter = nn.Linear(chunk, config.width)
        self.blocks = nn.ModuleList(FlowBlock(config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, chunk)

    def given(
        self, observation: Float[Tensor, "row width"], real: Float[Tensor, "row action"]
    ) -> flow.Velocity:
        """The velocity as a function of chunk and flow time; what the observation says is computed once.

        Padded actions are not read.
        """
        blocks = cast(Sequence[FlowBlock], self.blocks)
        said = [block.from_observation(observation) for block in blocks]

        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            skip, out, enter = (part[:, None, None] for part in precondition(time))
            hidden = self.enter((enter * chunk * real[:, None]).flatten(1)) + observation
            waves = embed_time(time, TIME)
            for block, part in zip(blocks, said, strict=True):
                hidden = block(hidden, part + block.from_time(waves))
            return skip * chunk + out * self.leave(self.norm(hidden)).reshape(chunk.shape)

        return velocity


class Guess(nn.Module):
    """A first guess of the chunk, and for each of its numbers how far off it is on average."""

    def __init__(self, config: CompactConfig, action: int) -> None:
        super().__init__()
        width, self.shape = config.width, (config.horizon, action)
        chunk = config.horizon * action
        self.mean = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, chunk)
        )
        self.doubt = nn.Linear(width, chunk)
        nn.init.zeros_(self.doubt.weight)
        nn.init.constant_(self.doubt.bias, math.log(DOUBT))

    def forward(
        self, observation: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch horizon action"], Float[Tensor, "batch horizon action"]]:
        """Guess and doubt, both in model space."""
        doubt = self.doubt(observation.detach()).clamp(math.log(SURE), 0.0).exp()
        return self.mean(observation).unflatten(1, self.shape), doubt.unflatten(1, self.shape)


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


def matrices_now(
    projection: Float[Tensor, "batch camera 3 4"],
    on_hand: Bool[Tensor, "batch camera"],
    hand: Float[Tensor, "batch 3 4"],
) -> Float[Tensor, "batch camera 3 4"]:
    """Projections from the frame of the body, wherever the hand has carried its cameras."""
    turn, place = hand[:, None, :, :3], hand[:, None, :, 3:]
    turned = projection[..., :3] @ turn.transpose(-1, -2)
    moved = torch.cat([turned, projection[..., 3:] - turned @ place], dim=-1)
    return torch.where(on_hand[..., None, None], moved, projection)


def described(ways: Float[Tensor, "batch keypoint 3"]) -> Float[Tensor, "batch keypoint feature"]:
    """Ways in meters as numbers in [-1, 1] from which motion is nearly linear, at three scales.

    A hand moves straight, at full speed when far and slower when near: so the direction, which fades
    within a distance, in space and on the level; and how far it is, on the level and in each axis.
    """
    level = ways[..., :2]
    space_length, level_length = (
        part.square().sum(-1, keepdim=True).add(1e-12).sqrt() for part in (ways, level)
    )
    parts = []
    for scale in NEARNESS:
        parts += [ways / (space_length + scale), level / (level_length + scale)]
        parts += [torch.tanh(level_length / scale), torch.tanh(ways / scale)]
    return torch.cat(parts, dim=-1)


def on_plane(
    matrices: Float[Tensor, "batch camera 3 4"],
    points: Float[Tensor, "batch camera keypoint 2"],
    heights: Float[Tensor, "batch keypoint"],
) -> Float[Tensor, "batch camera keypoint 2"]:
    """Where, in x and y, the ray through a point of a picture meets the plane at a height; all meters.

    From (u w, v w, w) = matrix (x, y, z, 1): two linear equations, solved by Cramer's rule. A ray along
    the plane ends somewhere far away instead of nowhere.
    """
    matrices = matrices[:, :, None]
    rows = matrices[..., :2, :] - points[..., None] * matrices[..., 2:, :]  # times (x, y, z, 1) is 0
    right = -(rows[..., 2] * heights[:, None, :, None] + rows[..., 3])
    (a, b), (c, d) = (rows[..., row, :2].unbind(-1) for row in range(2))
    area = a * d - b * c
    area = torch.where(area < 0, area.clamp(max=-FLAT), area.clamp(min=FLAT))
    first, second = right.unbind(-1)
    return torch.stack([first * d - b * second, a * second - c * first], dim=-1) / area[..., None]


def taken(
    slots: Float[Tensor, "batch slot feature"], chosen: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch 2 feature"]:
    """Two slots of each sample."""
    return slots.gather(1, chosen[:, :, None].expand(-1, -1, slots.shape[-1]))


class Compact(Policy):
    """The policy: sentence, views and state to one vector, and a flow over chunks beside it.

    Cameras are the union over all bodies; state and action are as wide as the widest body.
    """

    Config = CompactConfig
    config: CompactConfig

    def __init__(self, config: CompactConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        specs = self.bodies.values()
        self._views = _every_camera(specs)
        self.cameras = tuple(camera.name for camera in self._views)
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        self.words = WordTable(config) if config.text == "scratch" else None
        self.reader = SentenceReader(config)
        self.eyes = nn.ModuleDict({name: Eye(config) for name in self.cameras})
        self.projection: Tensor
        self.on_hand: Tensor
        projection, on_hand = self._calibration()
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("on_hand", on_hand, persistent=False)
        self.body = nn.Embedding(len(self.embodiments), config.width)
        history = len(config.history)
        seen = history * len(self.cameras) * config.slots * (2 + VALUE)
        told = config.slots * config.slot_width
        self.summary = nn.Sequential(nn.Linear(told, config.slot_width), nn.GELU())
        known = history * self.state_width
        self.height = nn.Linear(len(self.cameras) * VALUE, 1)
        self.trust = nn.Linear(VALUE + 1, 1)
        for part in (self.height, self.trust):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        # Meters, of both keypoints of each part before all learning.
        self.level = nn.Parameter(torch.tensor([0.02, 0.08]).repeat(config.parts))
        self.part: nn.Module | None = None
        if config.parts > 1:
            self.part = nn.Sequential(
                nn.Linear(seen + told + known, GLANCE), nn.GELU(), nn.Linear(GLANCE, config.parts)
            )
        self.glance = nn.Linear(seen, GLANCE)  # narrow: a wide one learns scenes by heart
        held = len(self.cameras) * KEYPOINTS * VALUE
        self.looks = GLANCE + held  # numbers that only eyes can tell
        self.gather = nn.Linear(known + KEYPOINTS * DESCRIBED, config.width)
        # Begins with nothing: few numbers say where to go, and many would drown them.
        self.beside = nn.Linear(self.looks + config.slot_width, config.width, bias=False)
        nn.init.zeros_(self.beside.weight)
        self.merge = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )
        nn.init.normal_(self.body.weight, std=0.02)  # what is the same at every tick must not drown the rest
        self.norm = nn.LayerNorm(config.width)  # the flow hears the observation as loud as its noise
        self.guess = Guess(config, self.action_width)
        self.velocity = Velocity(config, self.action_width)

    def _calibration(self) -> tuple[Float[Tensor, "body camera 3 4"], Bool[Tensor, "body camera"]]:
        """Projection of each camera of each body, zeros if unknown, and whether the hand carries it."""
        found = torch.zeros(len(self.embodiments), len(self.cameras), 3, 4)
        on_hand = torch.zeros(len(self.embodiments), len(self.cameras), dtype=torch.bool)
        known: dict[tuple[int, int], tuple[float, ...]] = {}
        for spec in self.bodies.values():
            for camera in spec.cameras:
                place = self.embodiments.index(spec.embodiment), self.cameras.index(camera.name)
                if camera.projection is not None and camera.mount in ("base", "hand"):
                    if known.setdefault(place, camera.projection) != camera.projection:
                        raise ValueError(
                            f"compact: data sets of {spec.embodiment!r} disagree about where camera "
                            f"{camera.name!r} stands. Rename a body, or drop the projections."
                        )
                    found[place] = torch.tensor(camera.projection).reshape(3, 4)
                    on_hand[place] = camera.mount == "hand"
        return found, on_hand

    @property
    def window(self) -> Window:
        """History and horizon of the config."""
        return Window(history=self.config.history, horizon=self.config.horizon)

    @property
    def diet(self) -> Diet:
        """Blind samples and telling ticks, if a body tells where its hand is and where a camera stands."""
        if not any(find_hand(spec) and _calibrated(spec) for spec in self.bodies.values()):
            return Diet()
        return Diet(blind=BLIND, telling=TELLING)

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
                LocateHand(spec),
                Normalize(
                    state=stats["state"],
                    action=within_limits(stats["action"], spec.action),
                    action_mode="min_max",
                ),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self._views),
            )
        )

    def observe(
        self, batch: Batch, *, augment: bool = False, generator: torch.Generator | None = None
    ) -> Sight:
        """Everything that was observed."""
        heard = self.heard(batch, generator) if augment else None
        slots = self.read(batch, heard)
        history = len(self.config.history)
        summary = self.summary(slots.flatten(1))
        views_seen, sights = [], {}
        for name in self.cameras:
            pixels = batch.images[name].flatten(0, 1)  # batch history -> frame
            views = unshifted(pixels)
            if augment:
                views = shifted(pixels, self.config.shift, self.config.photometric, generator)
            sights[name] = self.eyes[name](views, slots.repeat_interleave(history, dim=0))
            real = batch.image_mask[name].flatten()[:, None, None]
            views_seen.append((sights[name].slots * real).unflatten(0, (len(slots), history)))
        seen = torch.cat(views_seen, dim=-1)  # batch history slot (camera feature)
        parts = None
        if self.part is not None:
            parts = self.part(torch.cat([seen.flatten(1), slots.flatten(1), self.felt(batch)], dim=-1))
        chosen = self.chosen(batch, None if augment else parts)
        places, known, held = self.locate(batch, sights, chosen)
        looks = torch.cat([self.glance(seen.flatten(1)), held.flatten(1)], dim=-1)
        ways = self.ways(batch, places) * known[:, None, None]
        vector = self.gathered(batch, summary, ways, looks)
        return Sight(vector, sights, places, parts, heard)

    def chosen(
        self, batch: Batch, parts: Float[Tensor, "batch part"] | None = None
    ) -> Int[Tensor, "batch 2"]:
        """Slots of thing and goal: of the likeliest part, or in training of the one that hindsight tells."""
        part = torch.zeros_like(batch.embodiment)
        if parts is not None:
            part = parts.argmax(-1)
        elif batch.part is not None:
            part = batch.part.clamp(max=self.config.parts - 1)
        return part[:, None] * KEYPOINTS + torch.arange(KEYPOINTS, device=part.device)

    def imagine(
        self, batch: Batch, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, " batch"]]:
        """What would be observed if the keypoints were seen where they are, nearly; and where one is told."""
        if batch.keypoints is None or batch.keypoint_mask is None or batch.hand is None:
            width = self.config.width
            return batch.state.new_zeros(len(batch), width), batch.has_actions & False
        with torch.no_grad():  # reading is learned from samples with pictures
            told = self.summary(self.read(batch, self.heard(batch, generator)).flatten(1))
        noise = torch.randn(batch.keypoints.shape, generator=generator, device=batch.state.device)
        wrong = noise * torch.where(batch.keypoint_mask, HINT, AROUND)[..., None]
        places = batch.keypoints + wrong
        looks = batch.state.new_zeros(len(batch), self.looks)
        vector = self.gathered(batch, told, self.ways(batch, places), looks)
        could_see = self.projection[batch.embodiment].flatten(1).any(-1)
        return vector, batch.keypoint_mask.any(-1) & could_see

    def ways(self, batch: Batch, places: Float[Tensor, "batch 2 3"]) -> Float[Tensor, "batch 2 3"]:
        """From the hand to the keypoints, in meters."""
        hand = torch.zeros_like(places[:, 0]) if batch.hand is None else batch.hand[:, :, 3]
        return (places - hand[:, None]).clamp(-2.0, 2.0)

    def gathered(
        self,
        batch: Batch,
        summary: Float[Tensor, "batch told"],
        ways: Float[Tensor, "batch 2 3"],
        looks: Float[Tensor, "batch look"],
    ) -> Float[Tensor, "batch width"]:
        """State, sentence, ways and looks as one vector."""
        gathered = self.gather(torch.cat([self.felt(batch), described(ways).flatten(1)], dim=-1))
        gathered = gathered + self.beside(torch.cat([looks, summary], dim=-1)) + self.body(batch.embodiment)
        return self.norm(gathered + self.merge(gathered))

    def felt(self, batch: Batch) -> Float[Tensor, "batch known"]:
        """The state, as far as it is there."""
        state = batch.state * batch.history_mask[:, :, None] * batch.state_mask[:, None, :]
        return state.flatten(1)

    def calibration(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch camera 3 4"], Bool[Tensor, "batch camera"]]:
        """Projections from the frame of the body at the current tick, and which of them are known."""
        projection, on_hand = self.projection[batch.embodiment], self.on_hand[batch.embodiment]
        there = torch.stack([batch.image_mask[name][:, -1] for name in self.cameras], dim=1)
        known = there & projection.flatten(2).any(-1)
        if batch.hand is None:
            return projection, known & ~on_hand
        known = known & (batch.hand[:, :, :3].flatten(1).any(-1)[:, None] | ~on_hand)
        return matrices_now(projection, on_hand, batch.hand), known

    def locate(
        self, batch: Batch, sights: Mapping[str, Seen], chosen: Int[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch 2 3"], Bool[Tensor, " batch"], Float[Tensor, "batch 2 values"]]:
        """Where two slots see their things, whether any camera could tell, and how they look."""
        last = slice(len(self.config.history) - 1, None, len(self.config.history))
        views = [sights[name] for name in self.cameras]
        there = torch.stack([batch.image_mask[name][:, -1] for name in self.cameras], dim=1)
        slots = torch.stack([taken(view.slots[last], chosen) for view in views], dim=1)
        slots = slots * there[:, :, None, None]
        matches = torch.stack(
            [taken(view.matches[last], chosen).log_softmax(-1).amax(-1) for view in views], 1
        )
        matrices, known = self.calibration(batch)
        points, values = slots[..., :2], slots[..., 2:]  # batch camera keypoint ...
        held = values.transpose(1, 2).flatten(2)  # batch keypoint (camera value)
        heights = self.level[chosen] + 0.1 * self.height(held).squeeze(-1)
        flat = on_plane(matrices, points, heights)
        trust = self.trust(torch.cat([values, matches[..., None]], dim=-1)).squeeze(-1) + 2 * matches
        trust = trust.masked_fill(~known[..., None], -1e4).softmax(dim=1)
        place = torch.cat([(trust[..., None] * flat).sum(1), heights[..., None]], dim=-1)
        return place, known.any(1), held

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
        """First guess and its doubt; flow matching of what is left; looking; and places in space."""
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("compact: the batch has no actions to learn from.")
        sight = self.observe(batch, augment=True, generator=generator)
        vector, actions, mask = sight.vector, batch.actions, _real_actions(batch)
        rows = torch.arange(len(batch), device=vector.device).repeat(self.config.draws)
        if batch.blind is not None and batch.blind.actions is not None:
            imagined, known = self.imagine(batch.blind, generator)
            rows = torch.cat([rows, len(batch) + torch.arange(len(imagined), device=vector.device)])
            vector, actions = torch.cat([vector, imagined]), torch.cat([actions, batch.blind.actions])
            mask = torch.cat([mask, _real_actions(batch.blind) & known[:, None, None]])
        guess, doubt = self.guess(vector)
        off = (actions.masked_fill(~mask, 0) - guess.float()).masked_fill(~mask, 0)
        count = mask.sum().to(off.dtype)
        likely = (off.detach().abs() / doubt + doubt.log()).masked_fill(~mask, 0)
        terms = {
            "guess": Term(off.abs().sum(), count, weight=self.config.guess),
            "doubt": Term(likely.sum(), count, weight=0.1),  # log-likelihood of a Laplace distribution
            "flow": self.flow(vector[rows].detach(), (off / doubt).detach()[rows], mask[rows], generator),
        }
        if batch.keypoints is not None:
            if self.config.look > 0:
                terms["look"] = self.look(batch, sight.seen)
            if self.config.contrast > 0:
                terms["contrast"] = self.contrast(batch, sight.seen, sight.heard)
            if self.config.point > 0:
                terms["point"] = self.point(batch, sight.places)
            if sight.parts is not None:
                terms["part"] = self.which(batch, sight.parts)
        return Loss(terms)

    def flow(
        self,
        vector: Float[Tensor, "row width"],
        off: Float[Tensor, "row horizon action"],
        mask: Bool[Tensor, "row horizon action"],
        generator: torch.Generator | None,
    ) -> Term:
        """Flow matching of what is left after the first guess, in units of its doubt."""
        clean = off.clamp(-FARTHEST, FARTHEST)
        noise = flow.sample_noise(clean.shape, generator=generator, device=clean.device)
        time = flow.sample_time(clean.shape[:1], generator=generator, device=clean.device)
        velocity = self.velocity.given(vector, mask.any(1).float())
        wrong = velocity(flow.interpolate(noise, clean, time), time) - flow.velocity_target(noise, clean)
        _, out, _ = precondition(time)  # in units of the network's output, every flow time counts alike
        error = (wrong.float() / out[:, None, None]).square().masked_fill(~mask, 0)
        return Term(error.sum(), mask.sum().to(error.dtype))

    def point(self, batch: Batch, places: Float[Tensor, "batch 2 3"]) -> Term:
        """Distance of the keypoints from where they are seen, in units of `REACH`, at most 1."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("compact: the batch has no keypoints.")
        real = batch.keypoint_mask & self.calibration(batch)[1].any(1)[:, None]
        wrong = (places.float() - batch.keypoints) / REACH
        wrong = wrong.abs().clamp(max=1.0).sum(-1).masked_fill(~real, 0)
        return Term(wrong.sum(), real.sum(), weight=self.config.point)

    def which(self, batch: Batch, parts: Float[Tensor, "batch part"]) -> Term:
        """Cross-entropy of the part that is at work."""
        if batch.part is None:
            raise ValueError("compact: the batch has no keypoints.")
        told = batch.part.clamp(max=self.config.parts - 1)
        wrong = F.cross_entropy(parts.float(), told, reduction="none").masked_fill(~batch.has_actions, 0)
        return Term(wrong.sum(), batch.has_actions.sum(), weight=self.config.look)

    def look(self, batch: Batch, sights: Mapping[str, Seen]) -> Term:
        """Cross-entropy of where the first slots look, given where the keypoints show in calibrated views."""
        total, count = batch.state.new_zeros(()), batch.state.new_zeros(())
        for seen, target, real in self.shown(batch, sights):
            wrong = -(target * seen.matches.float().log_softmax(-1)).sum(-1)
            total, count = total + wrong.masked_fill(~real, 0).sum(), count + real.sum()
        return Term(total, count, weight=self.config.look)

    def contrast(
        self, batch: Batch, sights: Mapping[str, Seen], heard: Bool[Tensor, "batch 1"] | None = None
    ) -> Term:
        """Which of the batch's things a sentence means, and which of its sentences means a thing.

        Cross-entropy both ways, for each keypoint and view; what shows in no view is nobody's thing, and
        what was not heard means none. The others are those of one part of an accumulated batch. Equal
        descriptions in a batch limit how low it can get.

        Source: Radford et al. (2021), figure 3; features are not normalized and no scale is learned, as
        the same products find the place in the picture.
        """
        total, count = batch.state.new_zeros(()), batch.state.new_zeros(())
        for seen, target, real in self.shown(batch, sights):
            things = target @ seen.keys.transpose(1, 2)  # batch 2 key
            alike = seen.queries.transpose(0, 1) @ things.permute(1, 2, 0)
            there = (real if heard is None else real & heard).T  # keypoint batch
            alike = alike.float()  # keypoint sentence thing
            by_sentence = alike.masked_fill(~there[:, None, :], -1e4).log_softmax(2)
            by_thing = alike.masked_fill(~there[:, :, None], -1e4).log_softmax(1)
            wrong = -(by_sentence + by_thing).diagonal(dim1=1, dim2=2) / 2
            total, count = total + wrong.masked_fill(~there, 0).sum(), count + there.sum()
        return Term(total, count, weight=self.config.contrast)

    def shown(
        self, batch: Batch, sights: Mapping[str, Seen]
    ) -> Iterator[tuple[Seen, Float[Tensor, "batch 2 place"], Bool[Tensor, "batch 2"]]]:
        """What each camera sees now with the slots of the keypoints, where they show, and whether they do."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("compact: the batch has no keypoints.")
        places = F.pad(batch.keypoints, (0, 1), value=1.0)  # batch 2 (x y z 1)
        matrices, known = self.calibration(batch)
        now = slice(len(self.config.history) - 1, None, len(self.config.history))  # last tick of each
        chosen = self.chosen(batch)
        for number, name in enumerate(self.cameras):
            shown = places @ matrices[:, number].transpose(1, 2)  # batch 2 (u w, v w, w)
            point = shown[..., :2] / shown[..., 2:].clamp(min=1e-6)
            real = batch.keypoint_mask & known[:, number, None] & (shown[..., 2] > 1e-6)
            seen = Seen(*(part[now] for part in sights[name]))
            seen = seen._replace(matches=taken(seen.matches, chosen), queries=taken(seen.queries, chosen))
            distance = (seen.grid[:, None] - point[:, :, None]).square().sum(-1)  # batch 2 place
            target = (distance / (-2 * BLUR**2)).softmax(-1)
            yield seen, target, real & (point.abs() <= 1).all(-1)

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
        vector = self.observe(batch).vector
        guess, doubt = self.guess(vector)
        velocity = self.velocity.given(vector, batch.action_mask.float())
        if prefix is not None:
            length = prefix.shape[-2]
            promised = (prefix - guess[:, :length]) / doubt[:, :length]
            velocity = flow.guide(velocity, promised, prefix.new_ones(length))
        off = flow.integrate(velocity, self.config.temperature * noise, steps=self.config.steps)
        return Acted(actions=guess + doubt * off)


def _every_camera(specs: Iterable[Spec]) -> tuple[Camera, ...]:
    """The cameras of all bodies; those of one name are of one size."""
    found: dict[str, Camera] = {}
    for spec in specs:
        for camera in spec.cameras:
            other = found.setdefault(camera.name, camera)
            if (other.height, other.width) != (camera.height, camera.width):
                raise ValueError(
                    f"compact: camera {camera.name!r} has {camera.height} x {camera.width} pixels at "
                    f"{spec.embodiment!r}, and {other.height} x {other.width} elsewhere. Rename one of them, "
                    "or record both in one size."
                )
    return tuple(found.values())


def _calibrated(spec: Spec) -> bool:
    """Whether it is known where any camera of a body stands, or that its one hand carries it."""
    return any(camera.projection is not None and camera.mount in ("base", "hand") for camera in spec.cameras)


def _real_actions(batch: Batch) -> Bool[Tensor, "batch horizon action"]:
    """Which numbers of the chunks are there to be learned."""
    assert batch.horizon_mask is not None  # comes with the actions
    assert batch.action_mask is not None
    has, ticks, dimensions = batch.has_actions, batch.horizon_mask, batch.action_mask
    return has[:, None, None] & ticks[:, :, None] & dimensions[:, None, :]
