"""A trunk: a language model's decoder, and everything that was observed as the first block of its tokens.

Families with experts beside a trunk (`visuomotor.nn.mixture`) differ in what they add behind this block; how
pictures, instruction and state come to be tokens is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.backbones.gemma import gemma_2b
from visuomotor.backbones.language import load_smollm2
from visuomotor.backbones.llama import smollm2_135m
from visuomotor.errors import unknown_name
from visuomotor.losses import Term
from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.mixture import Past, Segment, run
from visuomotor.perception.guess import FARTHEST, Guess
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.sight import Sight, SightConfig
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.vocabulary import Vocabulary
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import (
    RELATIVE,
    RelativeActions,
    relative_joints,
    with_relative_joints,
)
from visuomotor.transforms.written_text import Spelling
from visuomotor.types import Batch, Diet, Spec, Stats

SPREADS = 3.0
"""A state's numbers, normalized by mean and spread, are told apart within so many spreads."""

__all__ = ["Seen", "SightTrunk", "SightTrunkConfig", "Writing", "gemma", "unread"]


def gemma(
    width: int, mlp_width: int, *, layers: int, head_width: int, heads: int, kv_heads: int = 1
) -> DecoderConfig:
    """A decoder of other sizes with Gemma's conventions."""
    return replace(
        gemma_2b().decoder,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        mlp_width=mlp_width,
    )


def unread(decoder: Decoder) -> tuple[nn.Module, ...]:
    """Parts behind the last keys and values: where only other experts listen, nothing ever reads them."""
    last = decoder.levels[-1]
    return last.query, last.out, last.mlp_norm, last.gate, last.up, last.down, decoder.norm


class Seen(NamedTuple):
    """What was observed, one row a sample; blind samples to learn from stand behind the others.

    `prefix` is the first block of the trunk and `state` the current one; `past` are parts of that block that
    were read already, and stand before it. Experts model chunks around `guess` in units of `doubt`, at most
    `farthest` of them; for trunks that guess nothing these are 0 and 1. While learning, `left` is what they
    are to model, `ran` what was executed instead, in the same units (None if the same), `mask` which of their
    numbers are real, and `losses` are those of seeing itself; `telling` is the prefix from which texts teach
    the eyes, if that is another one: it has no blind rows.
    """

    prefix: Segment
    state: Float[Tensor, "row state"]
    guess: Float[Tensor, "row horizon action"]
    doubt: Float[Tensor, "row horizon action"]
    left: Float[Tensor, "row horizon action"] | None = None
    mask: Bool[Tensor, "row horizon action"] | None = None
    losses: Mapping[str, Term] = {}
    farthest: float = math.inf
    telling: Segment | None = None
    past: tuple[Past, ...] = ()
    ran: Float[Tensor, "row horizon action"] | None = None


@dataclass(frozen=True)
class Writing:
    """How a trunk's language model writes a chunk behind its prompt.

    Attributes:
        before: Ids that announce it; none where the prompt ends in them.
        after: Ids that end it.
        last: Id of a codec's token 0, from which ids are counted down; None if ids are the tokens.
    """

    before: tuple[int, ...]
    after: tuple[int, ...] = ()
    last: int | None = None


def _small() -> DecoderConfig:
    return gemma(96, 256, layers=3, heads=4, head_width=24)


@dataclass(frozen=True, kw_only=True)
class SightTrunkConfig:
    """A small trunk with the eyes that learn to look within minutes."""

    decoder: DecoderConfig = field(default_factory=_small)
    """Sizes of the language model."""
    sight: SightConfig = field(default_factory=SightConfig)
    """The eyes."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """How the instruction is read."""
    tokens: int = 4
    """Tokens made of everything that was observed."""
    words: int = 0
    """Rows of its table of words, for families that let it write; 0 for a trunk that writes nothing."""
    hears: bool = False
    """Whether the words of the instruction are tokens of their own, too, from which a text can be copied."""
    text: tuple[str, ...] | None = None
    """Words of the texts that it writes, in rows of the table behind the others; None if it writes none."""
    bins: int = 0
    """Cells of a state's numbers, each of which is then a token of its own, too; 0 for no such tokens."""
    guess: float = 10.0
    """Weight of a first guess of the chunk by regression, of which experts model what is left; 0 for none."""
    relative_joints: bool = False
    """Whether commanded joints are measured from the current state; a gripper stays absolute."""
    pretrained: Literal["smollm2"] | None = None
    """Published language model whose first layers the decoder begins with; None for new weights."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or min(self.guess, self.bins, self.words) < 0:
            raise ValueError(
                f"trunk: expected at least 1 token, guess, bins and words at least 0, got {self}."
            )
        if self.text is not None:
            Vocabulary(self.text)  # refuses a word that is there twice
        if self.reads and self.language.width != self.decoder.width:
            raise ValueError(
                f"trunk: a decoder of width {self.decoder.width} reads words as wide as itself, got "
                f"{self.language.width}. Set language.width."
            )
        if self.pretrained not in (None, "smollm2"):
            raise unknown_name("pretrained decoder", str(self.pretrained), ["smollm2"])
        if self.reads and (self.hears or self.text is not None):
            raise ValueError("trunk: a decoder that reads by itself neither hears words nor writes texts.")

    @property
    def rows(self) -> int:
        """Of the table of words: with those of texts, and three marks before them."""
        return self.words + (0 if self.text is None else 3 + len(self.text))

    @property
    def reads(self) -> bool:
        """Whether the decoder reads the instruction itself, before the eyes look: `language` gives rows of a
        table alone.
        """
        return self.language.reader == "smollm2"

    @classmethod
    def smollm2(cls, layers: int = 2) -> SightTrunkConfig:
        """The first layers of SmolLM2 135M, which read the instruction and what was seen.

        Their weights come with the extra `[smollm2]`.
        """
        return cls(
            decoder=smollm2_135m().first(layers).decoder,
            language=LanguageConfig(reader="smollm2", width=576),
            pretrained="smollm2",
        )

    @classmethod
    def tiny(cls) -> SightTrunkConfig:
        """Seconds on a laptop: for tests."""
        return cls(
            decoder=gemma(32, 64, layers=2, heads=2, head_width=8),
            sight=SightConfig.tiny(),
            language=LanguageConfig.tiny(),
            tokens=2,
        )


class SightTrunk(nn.Module):
    """The shared sight, whose vector is spread over a few tokens.

    A decoder that reads takes the words first, each of which looks back, as it was trained to. What it makes
    of them steers the eyes, and the tokens of what these see stand behind the words: so words cost no
    gradient where its weights are frozen. With a first guess the gradients of decoder and experts stop before
    the vector, which the guess teaches.

    Args:
        config: Sizes.
        bodies: Data-set key to body.
        horizon: Ticks of a chunk.

    Raises:
        ValueError: Joints are to be relative, and a body has none, or does not tell them in its state.
    """

    def __init__(self, config: SightTrunkConfig, bodies: Mapping[str, Spec], *, horizon: int) -> None:
        super().__init__()
        self.config = config
        self.horizon = horizon
        for spec in bodies.values():
            self.relative(spec)  # refuses a body without joints
        self._narrow = len({len(spec.state) for spec in bodies.values()}) > 1  # some states are padded
        self.sight = Sight(config.sight, bodies, language=config.language)
        self.enter = nn.Linear(self.sight.width, config.tokens * config.decoder.width)
        self.numbers = nn.Embedding(config.bins, config.decoder.width) if config.bins else None
        self.dimensions = nn.Embedding(self.sight.state_width, config.decoder.width) if config.bins else None
        self.words = nn.Embedding(config.rows, config.decoder.width) if config.rows else None
        if self.words is not None:
            nn.init.normal_(self.words.weight, std=config.decoder.width**-0.5)  # scores of size 1
        self.hear = nn.Linear(config.language.width, config.decoder.width) if config.hears else None
        self.decoder = Decoder(config.decoder)
        self.guess = Guess(self.sight.width, horizon, self.action_width) if config.guess else None

    def load_pretrained(self) -> None:
        """Give the decoder the published weights that the config names, if any.

        Raises:
            CheckpointError: They are not installed.
            ValueError: They are of other sizes.
        """
        if self.config.pretrained is None:
            return
        published = load_smollm2(layers=self.config.decoder.layers)[0].decoder
        if published.config != self.config.decoder:
            raise ValueError(
                f"trunk: the first layers of SmolLM2 are {published.config}, the decoder is "
                f"{self.config.decoder}. Begin with SightTrunkConfig.smollm2()."
            )
        self.decoder.load_state_dict(published.state_dict())

    @property
    def guesses(self) -> bool:
        """Whether it guesses the chunk by itself."""
        return self.guess is not None

    def unread(self) -> tuple[nn.Module, ...]:
        """Parts of the decoder that nothing reads where no answer of its own is asked for."""
        return () if self.config.reads else unread(self.decoder)

    @property
    def state_width(self) -> int:
        """Numbers of the widest state."""
        return self.sight.state_width

    @property
    def action_width(self) -> int:
        """Numbers of the widest action."""
        return self.sight.action_width

    @property
    def prompt_width(self) -> int:
        """Columns of a batch's tokens that are read; what a family writes stands behind them."""
        return self.sight.language.tokens_width

    @property
    def diet(self) -> Diet:
        """What the shared sight asks for."""
        return self.sight.diet

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs, if any."""
        return self.sight.language.encoder

    def relative(self, spec: Spec) -> RelativeActions | None:
        """What its pipeline measures from the state; None if actions stay absolute."""
        return relative_joints(spec) if self.config.relative_joints else None

    def pipeline(self, spec: Spec, stats: Stats, sentences: SentenceCache | None) -> Pipeline:
        """That of the shared sight, behind relative joints if they are asked for."""
        relative = self.relative(spec)
        if relative is None:
            return self.sight.pipeline(spec, stats, sentences)
        measured = replace(stats, features={**stats.features, "action": stats[RELATIVE]})
        seen = self.sight.pipeline(with_relative_joints(spec), measured, sentences)
        return Pipeline((relative, *seen.transforms))

    def writing(self) -> Writing:
        """The last word of its table begins a chunk; the others are the tokens of a codec."""
        return Writing(before=(self.config.words - 1,))

    @property
    def announces(self) -> bool:
        """Whether what was observed ends in what announces a chunk: never, it is a token of its own."""
        return False

    def spelling(self) -> Spelling:
        """Word by word, behind the rows of actions: two marks that announce, one that ends, and the words."""
        if self.config.text is None:
            raise ValueError("trunk: it has no words for texts. Fit the policy to data, or set trunk.text.")
        words = Vocabulary(self.config.text, first=self.end_of_text + 1)
        return Spelling(
            subtask=(self.config.words,),
            answer=(self.config.words + 1,),
            end=self.end_of_text,
            encode=words.encode,
            decode=words.decode,
        )

    @property
    def end_of_text(self) -> int:
        """Id that ends a text."""
        return self.config.words + 2

    @property
    def last_action(self) -> int | None:
        """None: ids are the codec's tokens."""
        return None

    def embed(self, ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token width"]:
        """Words as the decoder takes them."""
        return self._table(ids)

    def score(self, states: Float[Tensor, "row token width"]) -> Float[Tensor, "row token word"]:
        """Scores of every word as the next one, from states behind the last norm."""
        return states @ self._table.weight.T

    @property
    def _table(self) -> nn.Embedding:
        if self.words is None:
            raise ValueError("trunk: it writes nothing. Build it with words=... or text=... in its config.")
        return self.words

    def packed(self, batch: Batch) -> Batch:
        """The batch: its tokens are few, and all there."""
        return batch

    def observe(self, batch: Batch) -> Seen:
        """What is observed while acting."""
        batch, past = self._read(batch)
        vector = self.sight(batch).vector
        state = batch.state[:, -1] * batch.history_mask[:, -1:] * batch.state_mask
        prefix = self._prefix(vector, state, batch.state_mask, [batch])
        return Seen(prefix, state, *self._around(vector), farthest=self._farthest, past=past)

    def learn(self, batch: Batch, generator: torch.Generator | None) -> Seen:
        """What a batch with actions teaches."""
        batch, past = self._read(batch)
        lesson = self.sight.learn(batch, generator)
        vector, left, losses = lesson.vector, lesson.actions, dict(lesson.losses)
        state, parts = lesson.state[:, -1], [batch]
        if len(state) > len(batch) and batch.blind is not None:
            parts.append(batch.blind)
        real = torch.cat([part.state_mask for part in parts])
        telling = None
        if self.guess:
            left, terms = self.guess.learn(vector, left, lesson.mask, self.config.guess)
            if self.config.text is not None:
                seeing = len(batch)  # nobody could tell from blind samples what things are called
                telling = self._prefix(vector[:seeing], state[:seeing], batch.state_mask, [batch])
            vector, losses = vector.detach(), losses | terms
        with torch.no_grad():
            guess, doubt = self._around(vector)
            far = self._farthest
            ran = ((lesson.executed - guess) / doubt).clamp(-far, far)
        prefix = self._prefix(vector, state, real, parts)
        past = tuple(_lost(part, lesson.heard) for part in past)
        return Seen(prefix, state, guess, doubt, left, lesson.mask, losses, far, telling, past, ran)

    def _read(self, batch: Batch) -> tuple[Batch, tuple[Past, ...]]:
        """The batch with what the decoder makes of its sentences, and what later tokens need of them.

        Sentences of blind samples stand behind the others, as their rows will.
        """
        if not self.config.reads:
            return batch, ()
        blind = batch.blind if batch.blind is not None and batch.blind.actions is not None else None
        pairs = [self.sight.language(part) for part in (batch, blind) if part is not None]
        words, real = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if not torch.compiler.is_compiling():  # exact: what is masked takes no place and no position
            longest = max(1, int(real.sum(1).max()))
            words, real = words[:, :longest], real[:, :longest]
        (states,), past = run([self.decoder], [Segment(tokens=words, causal=True, real=real)])
        count = len(batch)
        if blind is not None:
            blind = replace(blind, sentence=states[count:], sentence_mask=real[count:])
        read = replace(batch, sentence=states[:count], sentence_mask=real[:count], blind=blind)
        return read, tuple(past)

    @property
    def _farthest(self) -> float:
        return FARTHEST if self.guess else math.inf

    def _prefix(
        self,
        vector: Float[Tensor, "row seen"],
        state: Float[Tensor, "row state"],
        real: Bool[Tensor, "row state"],
        parts: Sequence[Batch],
    ) -> Segment:
        """Tokens of everything, of the state's cells, and of the words of each part of the rows."""
        tokens = [self.enter(vector).unflatten(-1, (self.config.tokens, -1))]
        there = [real.new_ones(tokens[0].shape[:2])]
        if self.numbers is not None and self.dimensions is not None:
            share = (state.clamp(-SPREADS, SPREADS) / SPREADS + 1) / 2
            cells = (share * self.config.bins).long().clamp(max=self.config.bins - 1)
            tokens.append(self.numbers(cells) + self.dimensions.weight)
            there.append(real)
        if self.hear is not None:
            heard = [self.sight.language(part) for part in parts]
            words, mask = (torch.cat(side) for side in zip(*heard, strict=True))
            tokens.append(self.hear(words.masked_fill(~mask[:, :, None], 0)))
            there.append(mask)
        padded = self.hear is not None or (len(tokens) > 1 and self._narrow)
        return Segment(tokens=torch.cat(tokens, dim=1), real=torch.cat(there, dim=1) if padded else None)

    def _around(
        self, vector: Float[Tensor, "row seen"]
    ) -> tuple[Float[Tensor, "row horizon action"], Float[Tensor, "row horizon action"]]:
        if self.guess:
            return self.guess(vector)
        shape = (len(vector), self.horizon, self.action_width)
        return vector.new_zeros(shape), vector.new_ones(shape)


def _lost(past: Past, heard: Bool[Tensor, "row 1"]) -> Past:
    """Words of which nothing is there where the eyes did not hear them either."""
    assert past.real is not None  # sentences are padded
    return past._replace(real=past.real & heard)
