# long: a policy family is one file, read downwards like the method section of a paper.
"""pi0.5: pi0 with the state in the prompt, and an action expert whose norms are steered by flow time.

Physical Intelligence (2025), "pi0.5: a vision-language-action model with open-world generalization".

1. As in pi0 a vision-language model and an expert for actions share one attention; the velocity of a flow
   from noise to the chunk is integrated in 10 steps.
2. The state is a part of the prompt: each number in one of 256 bins, written as text. The expert reads
   actions only.
3. Flow time enters every norm of the expert as scale, shift and gate (adaptive norm); gates are 0 at the
   start, so a fresh expert changes nothing. What depends on time alone is a table while acting.

Their time runs as ours (0 is noise), and the released code turned it round; see `pi0`. Differences from the
paper, and what is always saved without a change of the answer:

- Missing cameras and padding of the prompt take no place and no position; the last layer of the trunk
  computes keys and values alone.
- Padded dimensions are not seen, and padding does not count in the loss; `padding="learned"` feeds and learns
  padded dimensions, as released. Ticks behind the end of an episode, where the released code repeats the last
  action, are a lesson there and never here.
- `reads_state=False` is as released for LIBERO: the prompt of pi0, and no state at all.
- `max_delay` trains with clean prefixes (Black et al. 2025), for which each tick has a time of its own.
- `SightTrunkConfig` gives the trunk a few tokens made of everything that was observed, and tokens of the
  state's bins; it learns from blind samples, too, and the flow models what is left of a first guess.
- `insulated` is knowledge insulation (Driess et al. 2025, "Knowledge insulating vision-language-action
  models", section V): the trunk learns to write actions as tokens, and the gradients of the flow stop at its
  keys and values. Tokens and noisy actions do not see each other, and nothing is written while acting.
- `subtasks` (section IV, eq. 1): the trunk learns to write what is to be done now, `think` writes it, the
  likeliest token each time, and actions see it behind what was observed, as tokens that the trunk reads
  anew with each observation. In training they see the demonstrated one, but for a share `unsaid` of the
  samples. Boxes of things are not written before it.
- `answers` (section IV-C): the same words answer questions about pictures that are mixed in, without actions.
- `weight=0` is the first of the two phases of section IV: an insulated policy learns tokens and texts alone.
  No flow is computed, its expert stays as it was drawn, and it acts by the trunk's first guess, if any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.backbones.language_model import decoder_names
from visuomotor.codecs.fast import FAST
from visuomotor.data.collate import filled
from visuomotor.errors import unknown_name
from visuomotor.generative import flow
from visuomotor.losses import Loss, Term, token_loss
from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.embedding import embed_time
from visuomotor.nn.mixture import Past, Segment, join, remember, run
from visuomotor.nn.weights import Names, load_named
from visuomotor.perception.chunk_flow import Padding, draw_chunk, flow_error
from visuomotor.perception.openpi_names import expert_names, trunk_names
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig, check_writing
from visuomotor.perception.trunk import Seen, SightTrunkConfig
from visuomotor.perception.trunks import TrunkConfig, build_trunk
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.vocabulary import Vocabulary
from visuomotor.transforms.action_tokens import ActionTokens, behind
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import RelativeActions
from visuomotor.transforms.written_text import Spelling, Text, WrittenText, text_of, trimmed
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["PI05", "PI05Config", "load_released", "released_names"]


EXPERT = 1  # the trunk is expert 0
TEXT, ACTIONS = 1, 2  # blocks; what was observed is block 0
WRITTEN, DRAWN = 1, 2  # branches: actions as tokens, and as numbers
UNLEARNED = "pi0.5: its flow was not learned yet (weight 0); train on from it with a weight above 0"


@dataclass(frozen=True, kw_only=True)
class PI05Config:
    """Everything about a `PI05` policy that the data does not decide; the defaults are the paper's."""

    horizon: int = 50
    """Actions predicted by one call."""
    trunk: TrunkConfig = field(default_factory=PaliGemmaTrunkConfig.pi05)
    """What sees and reads."""
    reads_state: bool = True
    """Whether it is told the state; without, as the one that was released for LIBERO, its prompt is
    "instruction"."""
    expert_width: int = 1024
    """Width of the action expert; depth and heads are those of the trunk."""
    expert_mlp_width: int = 4096
    """Hidden size of the action expert's feed-forward layers."""
    draws: int = 1
    """Noise draws for each observation in training."""
    weight: float = 1.0
    """Of the flow beside the losses of seeing; 0 to learn none yet, which only an insulated policy may."""
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
    insulated: bool = False
    """Whether the trunk learns from actions as tokens, and gradients of the flow stop before it."""
    subtasks: bool = False
    """Whether it writes the subtask, as the data tell it at each tick, and acts on what it wrote."""
    answers: bool = False
    """Whether it learns to answer questions about pictures, which are mixed in (`--questions`)."""
    unsaid: float = 0.1
    """Share of training samples whose actions do not see the subtask; with 1 it is learned, never written."""
    text_tokens: int = 32
    """Most tokens of a text that it writes, with what announces and ends it."""
    vocabulary: int = 1024
    """Most tokens of the codec of an insulated policy."""
    codec: Mapping[str, Any] | None = None
    """Its fitted codec, as `FAST.to_json` writes it; fitted to the data before training if none."""

    def __post_init__(self) -> None:
        if min(self.horizon, self.draws, self.steps, self.text_tokens) < 1:
            raise ValueError(f"pi0.5: horizon, draws, steps and text_tokens must be at least 1, got {self}.")
        if not 0 <= self.unsaid <= 1:
            raise ValueError(f"pi0.5: unsaid is a share, expected a number in [0, 1], got {self.unsaid}.")
        if not 0 <= self.max_delay < self.horizon:
            raise ValueError(f"pi0.5: max_delay must be in [0, {self.horizon}), got {self.max_delay}.")
        if min(self.weight, self.temperature) < 0:
            raise ValueError(f"pi0.5: weight and temperature must be at least 0, got {self}.")
        if not (self.weight or self.insulated):
            raise ValueError(
                "pi0.5: without its flow (weight 0) nothing would learn actions. Set insulated, so that they "
                "are learned as tokens, or a weight above 0."
            )
        if self.padding not in get_args(Padding):
            raise unknown_name("padding of pi0.5", self.padding, get_args(Padding))
        if isinstance(self.trunk, PaliGemmaTrunkConfig):
            tokens = self.vocabulary if self.insulated else 0
            check_writing(self.trunk, tokens, reads_state=self.reads_state)
            if self.writes and self.trunk.prompt != "before_tokens":
                raise ValueError(
                    "pi0.5: texts are written between the prompt and the actions, which this prompt "
                    f'announces already: expected trunk.prompt="before_tokens", got {self.trunk.prompt!r}.'
                )
        elif not self.reads_state:
            raise ValueError("pi0.5: the shared sight always reads the state. Leave reads_state at True.")
        if (
            self.insulated
            and isinstance(self.trunk, SightTrunkConfig)
            and self.trunk.words <= self.vocabulary
        ):
            raise ValueError(
                "pi0.5: an insulated trunk writes the codec's tokens and one that begins a chunk: expected "
                f"{self.vocabulary + 1} words, got {self.trunk.words}."
            )
        if self.time_law not in get_args(flow.Law):
            raise unknown_name("law of flow times", self.time_law, get_args(flow.Law))

    @property
    def writes(self) -> bool:
        """Whether the trunk learns to write texts."""
        return self.subtasks or self.answers

    @property
    def scores(self) -> bool:
        """Whether it learns to score words: of texts, or of actions as tokens."""
        return self.insulated or self.writes

    @property
    def expert(self) -> DecoderConfig:
        """The action expert."""
        width = self.expert_width
        return replace(self.trunk.decoder, width=width, mlp_width=self.expert_mlp_width, condition=width)

    @classmethod
    def published(cls) -> PI05Config:
        """The released network and normalization, and the loss where all ticks are there: PaliGemma 3B and an
        expert of 300 million weights.
        """
        return cls(trunk=PaliGemmaTrunkConfig.pi05().released(), padding="learned")

    @classmethod
    def published_libero(cls) -> PI05Config:
        """The one that was released for LIBERO: chunks of 10 ticks, and no state."""
        trunk = replace(PaliGemmaTrunkConfig.pi05().released(), prompt="instruction")
        return cls(horizon=10, trunk=trunk, padding="learned", reads_state=False)

    @classmethod
    def small(cls) -> PI05Config:
        """What two CPU cores train in minutes."""
        return cls(
            horizon=8,
            trunk=SightTrunkConfig(bins=256),
            expert_width=96,
            expert_mlp_width=256,
            draws=4,
            temperature=0.2,
        )

    @classmethod
    def tiny(cls) -> PI05Config:
        """Seconds on a laptop: for tests."""
        return cls(
            horizon=4,
            trunk=replace(SightTrunkConfig.tiny(), bins=256),
            expert_width=24,
            expert_mlp_width=48,
            draws=16,
            steps=4,
            temperature=0.2,
        )


class Condition(nn.Module):
    """Flow time to what steers the norms of the expert.

    Args:
        width: Of the expert.

    Source: appendix E of the paper, and its released code for the waves and the second nonlinearity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)

    def forward(self, time: Float[Tensor, "*time"]) -> Float[Tensor, "*time width"]:
        """One condition a time."""
        waves = embed_time(1 - time, self.width).to(self.enter.weight.dtype)
        return F.silu(self.leave(F.silu(self.enter(waves))))


class PI05(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    Config = PI05Config
    config: PI05Config
    released = (
        "openpi safetensors",
        "LeRobot safetensors",
        "orbax trees of openpi, through scripts/convert_openpi.py",
    )

    def __init__(self, config: PI05Config, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.trunk = build_trunk(config.trunk, self.bodies, horizon=config.horizon)
        self.expert = Decoder(config.expert)
        self.action_width = self.trunk.action_width
        self.condition = Condition(config.expert_width)
        self.enter = nn.Linear(self.action_width, config.expert_width)
        self.leave = nn.Linear(config.expert_width, self.action_width)
        self.codec = None if config.codec is None else FAST.from_json(config.codec)
        if self.codec is not None and config.insulated:
            sizes = {"horizon": config.horizon, "action": self.action_width, "vocabulary": config.vocabulary}
            self.codec.check("pi0.5", **sizes)
        if not config.scores:
            for part in self.trunk.unread():
                part.requires_grad_(False)  # kept for released weights
        if not config.weight:
            for part in (self.expert, self.condition, self.enter, self.leave):
                part.requires_grad_(False)  # kept for the phase that learns the flow

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

    @property
    def learns_subtasks(self) -> bool:
        """As the config says."""
        return self.config.subtasks

    @property
    def learns_answers(self) -> bool:
        """As the config says."""
        return self.config.answers

    @property
    def unfitted(self) -> bool:
        """Whether the codec of an insulated policy, or the words that it writes, have yet to be fitted."""
        return (self.config.insulated and self.codec is None) or self._wordless

    def fitted(
        self, chunks: Float[np.ndarray, "chunk horizon action"], texts: Collection[str] = ()
    ) -> PI05Config:
        """The config with a codec for normalized, padded chunks, and with the words of the texts."""
        config = self.config
        if config.insulated and self.codec is None:
            config = replace(config, codec=FAST.fit(chunks, vocabulary=config.vocabulary).to_json())
        if self._wordless and isinstance(config.trunk, SightTrunkConfig):
            config = replace(config, trunk=replace(config.trunk, text=Vocabulary.of(texts).words))
        return config

    def fitted_as(self, other: PI05Config) -> PI05Config:
        """The config with the codec and the words of another."""
        config = self.config
        if config.insulated and self.codec is None:
            config = replace(config, codec=other.codec)
        trunk, known = config.trunk, other.trunk
        if isinstance(trunk, SightTrunkConfig) and isinstance(known, SightTrunkConfig) and trunk.text is None:
            config = replace(config, trunk=replace(trunk, text=known.text))
        return config

    @property
    def _wordless(self) -> bool:
        trunk = self.config.trunk
        return self.config.writes and isinstance(trunk, SightTrunkConfig) and trunk.text is None

    @property
    def _says(self) -> bool:
        """Whether it writes while acting."""
        return self.config.subtasks and self.config.unsaid < 1

    @property
    def _texts(self) -> int:
        """Columns of a batch's tokens that hold texts, behind the prompt."""
        return self.config.text_tokens if self.config.writes else 0

    def relative(self, key: str) -> RelativeActions | None:
        """What its trunk measures from the state."""
        return self.trunk.relative(self.check_key(key))

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """The pipeline of its trunk; then texts and, of an insulated policy, chunks as tokens, if fitted."""
        steps = [*self.trunk.pipeline(self.check_key(key), stats, sentences).transforms]
        if self._texts and not self._wordless:
            steps.append(WrittenText(self.trunk.spelling(), self._texts, self.config.subtasks))
        if self.config.insulated and self.codec is not None:
            how = self.trunk.writing()
            steps.append(ActionTokens(self.codec, how.last, how.before, how.after))
        return Pipeline(tuple(steps))

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Flow matching of the chunk, cross-entropy of texts and tokens, and the losses of seeing.

        Source: eq. 1; the law of flow times is that of pi0.
        """
        config = self.config
        batch = filled(batch, config.horizon, self.action_width)
        seen = self.trunk.learn(batch, generator)
        terms = dict(seen.losses)
        past, last = self.remember(seen), None
        if config.insulated and self.trunk.announces:  # the prompt's last state predicts the first token
            (states,), kept = run(self.experts, [seen.prefix], seen.past)
            past, last = [*seen.past, *kept], last_real(states, seen.prefix.real)
        if config.writes:
            terms["text"], said = self.tell(batch, seen, past, generator)
            past = [*past, said]
        if config.insulated:
            terms["token"] = self.spell(batch, seen, past, last)
        if not config.weight:
            return Loss(terms)
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
        return Loss({"flow": Term(total, count, config.weight), **terms})

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

        They see the subtask that `think` wrote, or, without a context, that is written now.

        A promised prefix stands as it is if the policy was trained with clean prefixes; else, or if it is
        not held in full, the flow is guided towards it (`flow.guide`). A policy that learns no flow yet
        answers what its trunk guesses.
        """
        if batch.action_mask is None:
            raise ValueError("pi0.5: the batch has no action mask. Run the policy's transforms first.")
        if not self.config.weight:
            return self.guess(batch, prefix, held, context)
        if noise is None:
            shape = (len(batch), self.config.horizon, self.action_width)
            noise = torch.randn(shape, generator=generator, device=batch.state.device)
        seen = self.trunk.observe(batch)
        past, text = self.remember(seen), None
        if self._says and context is not None:
            given = trimmed(Text(*(context.tensors[name] for name in Text._fields)))
            past += remember(self.experts, [self.texted(given)], past)
        elif self._says:
            written, said = self.write(batch, past)
            past, text = [*past, said], self.spelled(written)
        real = batch.action_mask
        if self.config.padding == "learned":
            real = torch.ones_like(real)
        velocity = self.velocity(past, real, tabulated=True)
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
        return Acted(actions=actions, text=text)

    def guess(
        self, batch: Batch, prefix: Tensor | None, held: Tensor | None, context: Context | None
    ) -> Acted:
        """The trunk's first guess of the chunk, as promised where it was; a failure if it makes none."""
        seen = self.trunk.observe(batch)
        says = self._says and context is None
        text = self.spelled(self.write(batch, self.remember(seen))[0]) if says else None
        chunk = seen.guess.float()
        acted = Acted(actions=continued(chunk, prefix, held), text=text)
        if self.trunk.guesses:
            return acted
        mask = batch.state_mask.new_zeros(chunk.shape[:2])
        return replace(acted, mask=mask, failures=(UNLEARNED,) * len(chunk))

    def think(self, batch: Batch, *, generator: torch.Generator | None = None) -> Context | None:
        """The subtask in its likeliest words, one after the other; nothing is random."""
        if not self._says:
            return None
        text, _ = self.write(batch, self.remember(self.trunk.observe(batch)))
        room = self.config.text_tokens - text.ids.shape[1]  # one width, so that one compiled graph will do
        ids, real, learned = (F.pad(part, (0, room)) for part in text)
        return Context(
            tensors={"ids": ids, "real": real, "learned": learned},
            time=torch.zeros(len(batch), dtype=torch.float64),
            text=self.spelled(text),
        )

    def tell(
        self, batch: Batch, seen: Seen, past: Sequence[Past], generator: torch.Generator | None
    ) -> tuple[Term, Past]:
        """Cross-entropy of the text of each sample, and the past of it as actions are to see it.

        Blind samples show actions what is to be done; nobody could learn from them how it is called.
        """
        seeing, parts = len(batch), [batch]
        if batch.blind is not None and len(seen.state) > seeing:
            parts.append(batch.blind)
        text = text_of(parts, self.trunk.prompt_width, self._texts)
        first = Text(*(part[:seeing] for part in text))
        if seen.telling is None:
            end, said = self.read(text, past)
        else:
            (said,) = remember(self.experts, [self.texted(text)], past)
            end, _ = self.read(first, remember(self.experts, [seen.telling]))
        scores = self.trunk.score(end[:seeing, :-1])
        shown = torch.rand(len(text.ids), generator=generator, device=text.ids.device) >= self.config.unsaid
        shown = shown & text.learned.any(1)  # there is something to be said
        said = said._replace(real=text.real & shown[:, None])
        return token_loss(scores, first.ids[:, 1:], first.learned[:, 1:]), said

    def write(self, batch: Batch, past: Sequence[Past]) -> tuple[Text, Past]:
        """The likeliest text behind what was observed, and its past.

        A row that has ended waits for the others; a text that does not end in time is ended.
        """
        begun = text_of([batch], self.trunk.prompt_width, self._texts)
        count = max(int((begun.real & ~begun.learned).sum(1).max()), 1)
        written = Text(*(part[:, :count] for part in begun))
        given, end = written, self.trunk.end_of_text
        going = torch.ones_like(given.real[:, 0])
        grown: list[Past] = []
        while bool(going.any()):
            states, new = self.read(given, [*past, *grown])
            grown = [join(grown[0], new)] if grown else [new]
            scores = self.trunk.score(states[:, -1:])[:, 0]
            token = scores[:, end:].argmax(-1) + end
            if written.ids.shape[1] == self.config.text_tokens - 1:
                token = torch.full_like(token, end)
            given = Text(*(part[:, None] for part in (token.masked_fill(~going, 0), going, going)))
            written = Text(*(torch.cat(pair, dim=1) for pair in zip(written, given, strict=True)))
            going = going & (token != end)
        (new,) = remember(self.experts, [self.texted(given)], [*past, *grown])
        return written, join(grown[0], new)

    def read(self, text: Text, past: Sequence[Past]) -> tuple[Float[Tensor, "row token width"], Past]:
        """A text behind what was observed: states behind each token, and its past."""
        (end,), (said,) = run(self.experts, [self.texted(text)], past)
        return end, said

    def texted(self, text: Text) -> Segment:
        """A text as the trunk takes it."""
        return Segment(tokens=self.trunk.embed(text.ids), block=TEXT, causal=True, real=text.real)

    def spelled(self, text: Text) -> tuple[str, ...]:
        """What was written, as strings."""
        how, end = self._spelling, self.trunk.end_of_text
        rows = zip(text.ids.tolist(), text.learned.tolist(), strict=True)
        return tuple(
            how.decode([place for place, own in zip(*row, strict=True) if own and place != end])
            for row in rows
        )

    @cached_property
    def _spelling(self) -> Spelling:
        return self.trunk.spelling()

    def spell(self, batch: Batch, seen: Seen, past: Sequence[Past], last: Tensor | None = None) -> Term:
        """Cross-entropy of the chunk as tokens.

        Args:
            batch: With tokens.
            seen: What was observed.
            past: What the tokens see.
            last: States (row 1 width) that predict the first token, where what was observed announces it.
        """
        assert seen.mask is not None
        ids, real = behind(batch, self.trunk.prompt_width + self._texts)
        learned = real & seen.mask.flatten(1).any(1, keepdim=True)
        embedded = self.trunk.embed(ids[:, :-1])
        tokens = Segment(tokens=embedded, block=ACTIONS, branch=WRITTEN, causal=True)
        (end,), _ = run(self.experts, [tokens], past)
        if last is None:
            ids, learned = ids[:, 1:], learned[:, 1:]
        else:
            end = torch.cat([last, end], dim=1)
        return token_loss(self.trunk.score(end), ids, learned)

    def remember(self, seen: Seen) -> list[Past]:
        """Keys and values of what was observed, which no step of the flow changes."""
        return [*seen.past, *remember(self.experts, [seen.prefix], seen.past)]

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
        table = self.expert.steer(self.condition(every)) if tabulated else None

        def velocity(chunk: Tensor, time: Tensor) -> Tensor:
            time = time[:, None] if time.ndim == 1 else time  # row -> row 1
            if table is None:
                steering = self.expert.steer(self.condition(time))
            else:
                steering = table[:, (time * steps).round().long()]  # norm row 1|horizon steering
            chunk = (chunk * real[:, None]).to(self.enter.weight.dtype)  # the flow itself stays in float32
            tokens = self.enter(chunk)
            actions = Segment(
                tokens=tokens,
                expert=EXPERT,
                block=ACTIONS,
                branch=DRAWN,
                steering=steering,
                insulated=self.config.insulated,
            )
            (end,), _ = run(self.experts, [actions], past)
            return self.leave(end)

        return velocity


def last_real(
    states: Float[Tensor, "row token width"], real: Bool[Tensor, "row token"] | None
) -> Float[Tensor, "row 1 width"]:
    """The state of the last token of each row that is no padding."""
    if real is None:
        return states[:, -1:]
    places = (real * torch.arange(real.shape[1], device=real.device)).argmax(1)
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1]))


# Weight loading

UNUSED = ("*paligemma_with_expert.gemma_expert.lm_head.weight",)
"""Never trained and never computed, but saved: the expert predicts no words."""
SCORES = ("*paligemma_with_expert.paligemma.lm_head.weight",)
"""LeRobot keeps this table apart from that of words, and pi0.5 without text never trains it."""
PROJECTIONS = {
    "enter": "action_in_proj",
    "condition.enter": "time_mlp_in",
    "condition.leave": "time_mlp_out",
}


def steered_names(config: DecoderConfig) -> dict[str, str]:
    """The table of names of an expert: as of any decoder, but for its norms, which are steered."""
    names = {}
    for ours, theirs in decoder_names(config).items():
        if ours.endswith("norm.weight"):
            for part in ("weight", "bias"):
                steer = ours.replace("norm.weight", f"norm.steer.{part}")
                names[steer] = theirs.removesuffix("weight") + f"dense.{part}"
        else:
            names[ours] = theirs
    return names


def released_names(config: PI05Config) -> Names:
    """Each weight of a policy -> its spellings in released files; of one with PaliGemma as its trunk.

    Raises:
        ValueError: A policy with the shared sight, of which nothing was released.
    """
    return {
        **trunk_names(config.trunk, "pi0.5"),
        **expert_names(steered_names(config.expert), PROJECTIONS),
    }


def load_released(policy: PI05, weights: Mapping[str, Tensor], *, where: str = "pi0.5") -> None:
    """Copy released weights into a policy of the same configuration.

    Args:
        policy: See `PI05Config.published`; with the horizon that the weights were trained with.
        weights: What safetensors files hold; orbax trees go through `scripts/convert_openpi.py` first.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape; with the closest names.
    """
    config = policy.config
    unused = UNUSED if config.scores else (*UNUSED, *SCORES)
    load_named(policy, weights, where=where, names=released_names(config), unused=unused)
