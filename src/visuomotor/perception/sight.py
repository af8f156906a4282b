"""Sight: everything that was observed, as one vector that learns to look within minutes.

What a policy does with an observation is its family's business; seeing is the same for all. Action
gradients alone hardly teach looking in minutes on two cores, so this does, made of published ideas:

1. Words steer the eyes. Learned slots read the token states of the sentence by attention and look for
   their place in each view; they modulate what they take from it (FiLM, Perez et al. 2018).
2. Hindsight teaches the eyes where to look: in a calibrated view the first two slots are trained, by
   cross-entropy over places, to find the thing that is moved and its goal, which the demonstration
   names itself later (keypoints, James and Davison 2022; per-pixel classification as in Zeng et al.
   2020). A scene holds few things to be confused with; so each sentence is also told apart from all
   others of the batch by its thing, and each thing by its sentence (contrast, Radford et al. 2021). For
   this the features of a picture must not know the sentence.
3. Geometry is computed and not learned: the ray through a place in a picture, of a camera on the base
   or on the hand, meets the level of the thing; cameras are averaged by learned trust. What is known
   of both places is the way there from the hand.
4. How to move, given where things are, is learned mostly from blind samples: without pictures, with
   the true places, a little off. They cost little, and actions trust the places from the first step on.

Each sample may lose its sentence, so that without one the policy picks a goal of its own. Bodies
without calibrated cameras, or that do not say where their hand is, lack points 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.losses import Term
from visuomotor.perception.bodies import BodyTable
from visuomotor.perception.eyes import VALUE, Eye, Glimpse, shifted, unshifted
from visuomotor.perception.geometry import (
    DESCRIBED,
    calibrated,
    calibration,
    described,
    every_camera,
    matrices_now,
    on_plane,
)
from visuomotor.perception.language import Language, LanguageConfig, SentenceReader
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.hand import LocateHand, find_hand
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.types import Batch, Diet, Spec, Stats

__all__ = ["Lesson", "Observed", "Sight", "SightConfig", "real_actions"]

HINT = 0.006  # meters; how wrong the places are that the actions are learned with
AROUND = 0.06  # meters; the same, of what hindsight does not tell exactly
BLIND = 3  # samples without pictures for each one with them
TELLING = 0.75  # share of pictures in which both keypoints are told
KEYPOINTS = 2  # the thing that is moved and its goal
GLANCE = 64  # width of everything that is seen beside the keypoints
REACH = 0.25  # meters; an error of a place is measured in it, and no error counts more
BLUR = 0.06  # of a keypoint in a view, in half pictures


@dataclass(frozen=True, kw_only=True)
class SightConfig:
    """How a policy sees."""

    channels: int = 32
    """Feature channels of the picture encoders."""
    blocks: int = 2
    """Blocks of an eye that look around at a quarter of the picture's resolution."""
    slots: int = 8
    """Queries that read the sentence and look for their place in each view."""
    slot_width: int = 128
    """Width of a slot."""
    width: int = 256
    """Width of what is known of an observation."""
    parts: int = 1
    """Most parts of a task with a thing and a goal of their own; the policy sees which is at work."""
    blank: float = 0.1
    """Share of training samples that lose their sentence, so that without one the policy picks a goal."""
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
        if min(self.channels, self.slots, self.slot_width, self.width) < 1:
            raise ValueError(f"sight: sizes must be at least 1, got {self}.")
        if self.parts < 1 or self.slots < KEYPOINTS * self.parts:
            raise ValueError(
                f"sight: at least {KEYPOINTS} slots for each part, one for each keypoint, "
                f"got {self.slots} slots and {self.parts} parts."
            )
        if min(self.look, self.contrast, self.point) < 0:
            raise ValueError("sight: the weights of look, contrast and point must be at least 0.")
        if not 0 <= self.blank <= 1:
            raise ValueError(f"sight: blank must be in [0, 1], got {self.blank}.")
        if self.shift < 0 or self.photometric < 0:
            raise ValueError("sight: shift and photometric must be at least 0.")

    @classmethod
    def tiny(cls) -> SightConfig:
        """Seconds on a laptop: for tests."""
        return cls(channels=8, blocks=1, slots=2, slot_width=16, width=32, shift=1)


class Observed(NamedTuple):
    """What was observed.

    `vector` is everything as one vector; `seen` what each camera saw, `places` where the keypoints are, in
    meters; `parts` which part seems to be at work; `heard` in which samples the sentence was heard, None
    if in all.
    """

    vector: Float[Tensor, "batch width"]
    seen: dict[str, Glimpse]
    places: Float[Tensor, "batch 2 3"]
    parts: Float[Tensor, "batch part"] | None
    heard: Bool[Tensor, "batch 1"] | None


class Lesson(NamedTuple):
    """What a batch teaches: rows of observations with actions, the `seen` ones first, then the blind ones.

    `state` and `history_mask` are those of the rows, `mask` tells which numbers of the actions are there to
    be learned, and `losses` are those of seeing itself; `heard` tells in which rows the sentence was heard.
    `executed` is what ran at these ticks: the actions themselves where nothing else is told.
    """

    vector: Float[Tensor, "row width"]
    state: Float[Tensor, "row history state"]
    actions: Float[Tensor, "row horizon action"]
    mask: Bool[Tensor, "row horizon action"]
    seen: int
    losses: dict[str, Term]
    heard: Bool[Tensor, "row 1"]
    executed: Float[Tensor, "row horizon action"]


class Sight(nn.Module):
    """Sentence, views and state to one vector; cameras, states and actions are those of all bodies.

    Args:
        config: Sizes and weights.
        bodies: Data-set key to `Spec`, as in a policy.
        language: How the instruction is read.
        history: Ticks seen.

    Attributes:
        specs: The bodies.
        views: The cameras of all bodies.
        state_width: Numbers of the widest state; narrower ones are padded.
        action_width: Numbers of the widest action.
        width: Of the vector.
    """

    def __init__(
        self,
        config: SightConfig,
        bodies: Mapping[str, Spec],
        *,
        language: LanguageConfig,
        history: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.history = config, history
        specs = [spec for _, spec in sorted(bodies.items())]
        self.specs = specs
        self.embodiments = tuple(sorted({spec.embodiment for spec in specs}))
        self.views = every_camera(specs)
        if not self.views:
            raise ValueError(
                'sight: expected at least one camera, got none. Use vision="none" or state only.'
            )
        self.cameras = tuple(camera.name for camera in self.views)
        self.state_width = max(len(spec.state) for spec in specs)
        self.action_width = max(len(spec.action) for spec in specs)
        self.width = config.width
        self.language = Language(language)
        self.reader = SentenceReader(language.width, slots=config.slots, width=config.slot_width)
        self.eyes = nn.ModuleDict(
            {
                name: Eye(config.channels, blocks=config.blocks, slot_width=config.slot_width)
                for name in self.cameras
            }
        )
        self.projection: Tensor
        self.on_hand: Tensor
        projection, on_hand = calibration(specs, self.embodiments, self.cameras)
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("on_hand", on_hand, persistent=False)
        self.body = BodyTable(len(self.embodiments), config.width)
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
        self.norm = nn.LayerNorm(config.width)  # a head hears the observation as loud as its noise

    @property
    def diet(self) -> Diet:
        """Blind samples and telling ticks, if a body tells where its hand is and where a camera stands."""
        if not any(find_hand(spec) and calibrated(spec) for spec in self.specs):
            return Diet()
        return Diet(blind=BLIND, telling=TELLING)

    def pipeline(self, spec: Spec, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """Encode the sentence, normalize states by their spread and actions by their limits, pad."""
        return Pipeline(
            (
                *self.language.transform(sentences),
                LocateHand(spec),
                Normalize(
                    state=stats["state"],
                    action=within_limits(stats["action"], spec.action),
                    action_mode="min_max",
                ),
                PadDimensions(spec, state=self.state_width, action=self.action_width),
                PadCameras(self.views),
            )
        )

    def forward(
        self, batch: Batch, *, augment: bool = False, generator: torch.Generator | None = None
    ) -> Observed:
        """Everything that was observed; pictures are augmented, and sentences lost, if asked for."""
        heard = self.heard(batch, generator) if augment else None
        slots = self.read(batch, heard)
        summary = self.summary(slots.flatten(1))
        views_seen, seen_by = [], {}
        for name in self.cameras:
            pixels = batch.images[name].flatten(0, 1)  # batch history -> frame
            views = unshifted(pixels)
            if augment:
                views = shifted(pixels, self.config.shift, self.config.photometric, generator)
            seen_by[name] = self.eyes[name](views, slots.repeat_interleave(self.history, dim=0))
            real = batch.image_mask[name].flatten()[:, None, None]
            views_seen.append((seen_by[name].slots * real).unflatten(0, (len(slots), self.history)))
        seen = torch.cat(views_seen, dim=-1)  # batch history slot (camera feature)
        parts = None
        if self.part is not None:
            parts = self.part(torch.cat([seen.flatten(1), slots.flatten(1), self.felt(batch)], dim=-1))
        chosen = self.chosen(batch, None if augment else parts)
        places, known, held = self.locate(batch, seen_by, chosen)
        looks = torch.cat([self.glance(seen.flatten(1)), held.flatten(1)], dim=-1)
        ways = self.ways(batch, places) * known[:, None, None]
        vector = self.gathered(batch, summary, ways, looks)
        return Observed(vector, seen_by, places, parts, heard)

    def learn(self, batch: Batch, generator: torch.Generator | None) -> Lesson:
        """What a batch with actions teaches: its samples, and its blind ones behind them."""
        if batch.actions is None or batch.horizon_mask is None or batch.action_mask is None:
            raise ValueError("sight: the batch has no actions to learn from.")
        observed = self(batch, augment=True, generator=generator)
        vector, heard, actions, mask = observed.vector, observed.heard, batch.actions, real_actions(batch)
        assert heard is not None  # whoever is augmented may lose it
        state = batch.state * batch.history_mask[:, :, None] * batch.state_mask[:, None, :]
        executed, blind = actions if batch.executed is None else batch.executed, batch.blind
        if blind is not None and blind.actions is not None:
            imagined, known, told = self.imagine(blind, generator)
            felt = blind.state * blind.history_mask[:, :, None] * blind.state_mask[:, None, :]
            vector, state, heard = (torch.cat(p) for p in ((vector, imagined), (state, felt), (heard, told)))
            ran = blind.actions if blind.executed is None else blind.executed
            actions, executed = torch.cat([actions, blind.actions]), torch.cat([executed, ran])
            mask = torch.cat([mask, real_actions(blind) & known[:, None, None]])
        return Lesson(vector, state, actions, mask, len(batch), self.losses(batch, observed), heard, executed)

    def losses(self, batch: Batch, observed: Observed) -> dict[str, Term]:
        """Losses of seeing itself, where hindsight tells something: looking, contrast, places, parts."""
        if batch.keypoints is None:
            return {}
        found = {}
        if self.config.look > 0:
            found["look"] = self.look(batch, observed.seen)
        if self.config.contrast > 0:
            found["contrast"] = self.contrast(batch, observed.seen, observed.heard)
        if self.config.point > 0:
            found["point"] = self.point(batch, observed.places)
        if observed.parts is not None:
            found["part"] = self.which(batch, observed.parts)
        return found

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
    ) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, " batch"], Bool[Tensor, "batch 1"]]:
        """What would be observed if the keypoints were seen where they are, nearly; where one is told; and
        where the sentence was heard.
        """
        if batch.keypoints is None or batch.keypoint_mask is None or batch.hand is None:
            width = self.config.width
            nothing = batch.has_actions & False
            return batch.state.new_zeros(len(batch), width), nothing, nothing[:, None]
        heard = self.heard(batch, generator)
        with torch.no_grad():  # reading is learned from samples with pictures
            told = self.summary(self.read(batch, heard).flatten(1))
        noise = torch.randn(batch.keypoints.shape, generator=generator, device=batch.state.device)
        wrong = noise * torch.where(batch.keypoint_mask, HINT, AROUND)[..., None]
        places = batch.keypoints + wrong
        looks = batch.state.new_zeros(len(batch), self.looks)
        vector = self.gathered(batch, told, self.ways(batch, places), looks)
        could_see = self.projection[batch.embodiment].flatten(1).any(-1)
        return vector, batch.keypoint_mask.any(-1) & could_see, heard

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
        self, batch: Batch, seen_by: Mapping[str, Glimpse], chosen: Int[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch 2 3"], Bool[Tensor, " batch"], Float[Tensor, "batch 2 values"]]:
        """Where two slots see their things, whether any camera could tell, and how they look."""
        last = slice(self.history - 1, None, self.history)
        views = [seen_by[name] for name in self.cameras]
        there = torch.stack([batch.image_mask[name][:, -1] for name in self.cameras], dim=1)
        slots = torch.stack([_taken(view.slots[last], chosen) for view in views], dim=1)
        slots = slots * there[:, :, None, None]
        matches = torch.stack(
            [_taken(view.matches[last], chosen).log_softmax(-1).amax(-1) for view in views], 1
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
        words, mask = self.language(batch)
        return self.reader(words, mask if heard is None else mask & heard)

    def point(self, batch: Batch, places: Float[Tensor, "batch 2 3"]) -> Term:
        """Distance of the keypoints from where they are seen, in units of `REACH`, at most 1."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("sight: the batch has no keypoints.")
        real = batch.keypoint_mask & self.calibration(batch)[1].any(1)[:, None]
        wrong = (places.float() - batch.keypoints) / REACH
        wrong = wrong.abs().clamp(max=1.0).sum(-1).masked_fill(~real, 0)
        return Term(wrong.sum(), real.sum(), self.config.point)

    def which(self, batch: Batch, parts: Float[Tensor, "batch part"]) -> Term:
        """Cross-entropy of the part that is at work."""
        if batch.part is None:
            raise ValueError("sight: the batch has no keypoints.")
        told = batch.part.clamp(max=self.config.parts - 1)
        wrong = F.cross_entropy(parts.float(), told, reduction="none").masked_fill(~batch.has_actions, 0)
        return Term(wrong.sum(), batch.has_actions.sum(), self.config.look)

    def look(self, batch: Batch, seen_by: Mapping[str, Glimpse]) -> Term:
        """Cross-entropy of where the first slots look, given where the keypoints show in calibrated views."""
        total, count = batch.state.new_zeros(()), batch.state.new_zeros(())
        for seen, target, real in self.shown(batch, seen_by):
            wrong = -(target * seen.matches.float().log_softmax(-1)).sum(-1)
            total, count = total + wrong.masked_fill(~real, 0).sum(), count + real.sum()
        return Term(total, count, self.config.look)

    def contrast(
        self, batch: Batch, seen_by: Mapping[str, Glimpse], heard: Bool[Tensor, "batch 1"] | None = None
    ) -> Term:
        """Which of the batch's things a sentence means, and which of its sentences means a thing.

        Cross-entropy both ways, for each keypoint and view; what shows in no view is nobody's thing, and
        what was not heard means none. The others are those of one part of an accumulated batch. Equal
        descriptions in a batch limit how low it can get.

        Source: Radford et al. (2021), figure 3; features are not normalized and no scale is learned, as
        the same products find the place in the picture.
        """
        total, count = batch.state.new_zeros(()), batch.state.new_zeros(())
        for seen, target, real in self.shown(batch, seen_by):
            things = target @ seen.keys.transpose(1, 2)  # batch 2 key
            alike = seen.queries.transpose(0, 1) @ things.permute(1, 2, 0)
            there = (real if heard is None else real & heard).T  # keypoint batch
            alike = alike.float()  # keypoint sentence thing
            by_sentence = alike.masked_fill(~there[:, None, :], -1e4).log_softmax(2)
            by_thing = alike.masked_fill(~there[:, :, None], -1e4).log_softmax(1)
            wrong = -(by_sentence + by_thing).diagonal(dim1=1, dim2=2) / 2
            total, count = total + wrong.masked_fill(~there, 0).sum(), count + there.sum()
        return Term(total, count, self.config.contrast)

    def shown(
        self, batch: Batch, seen_by: Mapping[str, Glimpse]
    ) -> Iterator[tuple[Glimpse, Float[Tensor, "batch 2 place"], Bool[Tensor, "batch 2"]]]:
        """What each camera sees now with the slots of the keypoints, where they show, and whether they do."""
        if batch.keypoints is None or batch.keypoint_mask is None:
            raise ValueError("sight: the batch has no keypoints.")
        places = F.pad(batch.keypoints, (0, 1), value=1.0)  # batch 2 (x y z 1)
        matrices, known = self.calibration(batch)
        now = slice(self.history - 1, None, self.history)  # last tick of each
        chosen = self.chosen(batch)
        for number, name in enumerate(self.cameras):
            shown = places @ matrices[:, number].transpose(1, 2)  # batch 2 (u w, v w, w)
            point = shown[..., :2] / shown[..., 2:].clamp(min=1e-6)
            real = batch.keypoint_mask & known[:, number, None] & (shown[..., 2] > 1e-6)
            seen = Glimpse(*(part[now] for part in seen_by[name]))
            seen = seen._replace(matches=_taken(seen.matches, chosen), queries=_taken(seen.queries, chosen))
            distance = (seen.grid[:, None] - point[:, :, None]).square().sum(-1)  # batch 2 place
            target = (distance / (-2 * BLUR**2)).softmax(-1)
            yield seen, target, real & (point.abs() <= 1).all(-1)


def _taken(
    slots: Float[Tensor, "batch slot feature"], chosen: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch 2 feature"]:
    """Two slots of each sample."""
    return slots.gather(1, chosen[:, :, None].expand(-1, -1, slots.shape[-1]))


def real_actions(batch: Batch) -> Bool[Tensor, "batch horizon action"]:
    """Which numbers of the chunks are there to be learned."""
    assert batch.horizon_mask is not None  # comes with the actions
    assert batch.action_mask is not None
    has, ticks, dimensions = batch.has_actions, batch.horizon_mask, batch.action_mask
    return has[:, None, None] & ticks[:, :, None] & dimensions[:, None, :]
