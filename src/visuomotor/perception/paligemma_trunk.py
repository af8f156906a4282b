"""PaliGemma as a trunk: each camera's picture as 256 tokens, then the prompt, in one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor, nn

from visuomotor.backbones.checkpoint import find_model
from visuomotor.backbones.paligemma import WORDS, PaliGemma, PaliGemmaConfig
from visuomotor.errors import unknown_name
from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.masks import needed
from visuomotor.nn.mixture import Segment
from visuomotor.nn.pictures import resize_with_pad, unit_pictures
from visuomotor.perception.augmentation import AugmentationConfig, augmented
from visuomotor.perception.geometry import every_camera
from visuomotor.perception.sight import real_actions
from visuomotor.perception.trunk import Seen, Writing, unread
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.tokenizer import FILES, Tokenizer, load_tokenizer
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Mode, Normalize
from visuomotor.transforms.pad import PadCameras, PadDimensions
from visuomotor.transforms.prompt import Prompt, cleaned
from visuomotor.transforms.relative import RELATIVE, RelativeActions, relative_joints
from visuomotor.transforms.written_text import Spelling
from visuomotor.types import Batch, Camera, Diet, Sample, Spec, Stats, Tokens

__all__ = ["PaliGemmaTrunk", "PaliGemmaTrunkConfig", "binned", "check_writing"]

Prompting = Literal["instruction", "instruction_and_state", "before_tokens"]

CODES = 128
"""Of shapes, at the end of PaliGemma's vocabulary; actions are counted down from before them."""
PACK = 32
"""Columns by which prompts of compiled calls grow."""
END = 1
"""Id of "<eos>" in PaliGemma's vocabulary."""
MARKS = {"<pad>": 0, "<eos>": END, "<bos>": 2}
"""Ids that every prompt relies on."""
PLACES = {"<loc0000>": 256_000, f"<seg{CODES - 1}>": WORDS - 1}
"""Ids at both ends of what PaliGemma has beyond Gemma; by them its tokenizer is told from Gemma's own."""


@dataclass(frozen=True, kw_only=True)
class PaliGemmaTrunkConfig:
    """PaliGemma with the paddings of a checkpoint; the defaults are those of pi0."""

    paligemma: PaliGemmaConfig = field(default_factory=PaliGemmaConfig)
    """Sizes of the tower and of the language model."""
    tokenizer: str = "google/paligemma-3b-pt-224"
    """A tokenizer.json, a folder with one, or a name on the hub; read when a pipeline is made.
    A checkpoint holds a copy, and needs the original no more."""
    max_tokens: int = 48
    """Ids of a prompt."""
    cameras: int = 3
    """Most cameras of a body."""
    state: int = 32
    """Padded numbers of a state."""
    action: int = 32
    """Padded numbers of an action."""
    normalize: Mode = "mean_std"
    """How states and actions are brought to numbers around 0; see `released` for weights of others."""
    relative_joints: bool = False
    """Whether commanded joints are measured from the current state, as most released policies have them;
    a gripper stays absolute."""
    prompt: Prompting = "instruction"
    """What the prompt says: the instruction alone, as in pi0; also the state, as in pi0.5; or, as in
    pi0-FAST, both in lower case and without what announces actions, which is then written. A question
    about a picture has no state."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How pictures change in training."""

    def __post_init__(self) -> None:
        if self.prompt not in get_args(Prompting):
            raise unknown_name("prompt of a trunk", self.prompt, get_args(Prompting))
        if min(self.max_tokens, self.cameras, self.state, self.action) < 1:
            raise ValueError(f"trunk: sizes must be at least 1, got {self}.")

    @classmethod
    def pi05(cls) -> PaliGemmaTrunkConfig:
        """That of pi0.5."""
        return cls(max_tokens=200, normalize="quantile", prompt="instruction_and_state")

    @classmethod
    def pi0_fast(cls) -> PaliGemmaTrunkConfig:
        """That of pi0-FAST; actions are as wide as the robot's in its released code, and padded here."""
        return cls(max_tokens=180, normalize="quantile", prompt="before_tokens")

    def released(self) -> PaliGemmaTrunkConfig:
        """The same with the normalization of the released code, which belongs to its weights.

        Raises:
            ValueError: The released code has no normalization of this kind.
        """
        modes: dict[Mode, Mode] = {"mean_std": "openpi_mean_std", "quantile": "openpi_quantile"}
        if self.normalize not in (*modes, *modes.values()):
            raise unknown_name("normalization that was released", self.normalize, modes)
        return replace(self, normalize=modes.get(self.normalize, self.normalize))

    @property
    def decoder(self) -> DecoderConfig:
        """Of the language model."""
        return self.paligemma.language.decoder

    @property
    def announces(self) -> bool:
        """Whether the prompt ends in "Action: ", so that actions as tokens follow it at once."""
        return self.prompt == "instruction_and_state"

    @property
    def words(self) -> int:
        """Tokens of its vocabulary; further rows of the table stand for none."""
        return min(self.paligemma.language.vocabulary, WORDS)


def check_writing(config: PaliGemmaTrunkConfig, vocabulary: int, *, reads_state: bool = True) -> None:
    """Refuse a trunk that cannot write so many tokens of actions (0 for none), or reads the state unasked.

    Args:
        config: Of a family that reads the state in its prompt alone.
        vocabulary: Tokens of actions.
        reads_state: Whether it is to read the state.

    Raises:
        ValueError: With what to change.
    """
    if reads_state and config.prompt == "instruction":
        raise ValueError(
            'trunk: with prompt="instruction" this family never reads the state. Choose '
            "PaliGemmaTrunkConfig.pi05() or .pi0_fast(), or, for pi0.5 trained without, reads_state=False."
        )
    if not reads_state and config.prompt != "instruction":
        raise ValueError(
            f"trunk: prompt={config.prompt!r} tells the state, which this policy is not to read. Choose "
            'prompt="instruction", or reads_state=True.'
        )
    words = config.words
    if vocabulary and vocabulary + CODES > words:
        raise ValueError(
            f"trunk: {vocabulary} tokens of actions and {CODES} codes do not fit into {words} words. "
            "Choose a codec with fewer tokens."
        )


def written(sample: Sample) -> tuple[str, ...]:
    """The prompt of pi0: the instruction, and a line break that becomes a token by itself."""
    return cleaned(sample.instruction), "\n"


def written_with_state(sample: Sample) -> tuple[str, ...]:
    """The prompt of pi0.5: instruction and the bins of the current state, as in its released code."""
    numbers = " ".join(str(number) for number in binned(sample.state[-1]))
    return (f"Task: {cleaned(sample.instruction)}, State: {numbers};\nAction: ",)


def written_before_tokens(sample: Sample) -> tuple[str, ...]:
    """The prompt of pi0-FAST, as in its released code; "Action: " begins what is written."""
    words = cleaned(sample.instruction).lower()
    if not sample.state_mask.any():  # a question about a picture
        return (f"Task: {words};\n",)
    numbers = " ".join(str(number) for number in binned(sample.state[-1]))
    return (f"Task: {words}, State: {numbers};\n",)


PROMPTS: dict[str, Callable[[Sample], tuple[str, ...]]] = {
    "instruction": written,
    "instruction_and_state": written_with_state,
    "before_tokens": written_before_tokens,
}


def binned(state: Float[np.ndarray, "*batch"]) -> Int64[np.ndarray, "*batch"]:
    """The bin of each number among 256 between -1 and 1: its left edge counts; -1 below, 255 above.

    Source: the released code of pi0.5, where a number below the range has a bin of its own.
    """
    return np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1


class PaliGemmaTrunk(nn.Module):
    """Pictures and prompt to the first block of Gemma's tokens.

    Args:
        config: Sizes.
        bodies: Data-set key to body.
        horizon: Ticks of a chunk.

    Raises:
        ValueError: A body has more cameras, state or action numbers than the config has room for, or joints
            that are to be relative and are not in its state.
    """

    def __init__(self, config: PaliGemmaTrunkConfig, bodies: Mapping[str, Spec], *, horizon: int) -> None:
        super().__init__()
        self.config, self.horizon = config, horizon
        self.tokenizer = config.tokenizer  # a checkpoint puts its own copy here
        self.views = every_camera(bodies.values())
        if len(self.views) > config.cameras:
            raise ValueError(
                f"trunk: {len(self.views)} cameras ({', '.join(view.name for view in self.views)}), room for "
                f"{config.cameras}. Leave some out of the spec, or train with more `cameras`."
            )
        for spec in bodies.values():
            PadDimensions(spec, state=config.state, action=config.action)  # refuses what does not fit
            self.relative(spec)
        self.paligemma = PaliGemma(config.paligemma)

    @property
    def decoder(self) -> Decoder:
        """Of the language model."""
        return self.paligemma.language.decoder

    @property
    def guesses(self) -> bool:
        """It guesses no chunk."""
        return False

    def load_pretrained(self) -> None:
        """Nothing: released weights belong to a whole policy, and its family loads them."""

    def unread(self) -> tuple[nn.Module, ...]:
        """Parts of the decoder that nothing reads where no answer of its own is asked for."""
        return unread(self.decoder)

    @property
    def state_width(self) -> int:
        """Padded numbers of a state."""
        return self.config.state

    @property
    def action_width(self) -> int:
        """Padded numbers of an action."""
        return self.config.action

    @property
    def prompt_width(self) -> int:
        """Columns of a batch's tokens that are read; what a family writes stands behind them."""
        return self.config.max_tokens

    def writing(self) -> Writing:
        """As in the released code of pi0-FAST: "Action: ", tokens counted down, "|", an end of text.

        The first is left to a prompt that ends in it.
        """
        tokenizer = self._tokenizer()
        before = [] if self.announces else tokenizer.encode("Action: ")
        return Writing(tuple(before), tuple(tokenizer.encode("|", eos=True)), self.last_action)

    @property
    def announces(self) -> bool:
        """Whether the prompt itself ends in what announces a chunk."""
        return self.config.announces

    def spelling(self) -> Spelling:
        """In the words of its tokenizer: "Subtask: " or "Answer: ", the text, an end of text."""
        tokenizer = self._tokenizer()
        return Spelling(
            subtask=tuple(tokenizer.encode("Subtask: ")),
            answer=tuple(tokenizer.encode("Answer: ")),
            end=END,
            encode=tokenizer.encode,
            decode=tokenizer.decode,
        )

    @property
    def end_of_text(self) -> int:
        """Id that ends a text."""
        return END

    @property
    def last_action(self) -> int:
        """Id of a codec's token 0."""
        return self.config.words - 1 - CODES

    def embed(self, ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token width"]:
        """Words as the decoder takes them."""
        return self.paligemma.language.embed(ids)

    def score(self, states: Float[Tensor, "row token width"]) -> Float[Tensor, "row token word"]:
        """Scores of every word as the next one, from states behind the last norm."""
        return self.paligemma.language.score(states)

    def _tokenizer(self) -> Tokenizer:
        """The model's own, whose marks have their names whatever the files beside it say.

        Raises:
            CheckpointError: It is that of another model.
        """
        tokenizer = load_tokenizer(find_model(self.tokenizer, FILES))
        vocabulary = self.config.paligemma.language.vocabulary
        tokenizer.check(vocabulary, MARKS | (PLACES if vocabulary >= WORDS else {}))
        pad, eos, bos = MARKS
        return Tokenizer(tokenizer.engine, bos=bos, eos=eos, pad=pad, where=tokenizer.where)

    @property
    def diet(self) -> Diet:
        """Every tick with its pictures."""
        return Diet()

    @property
    def sentence_encoder(self) -> str | None:
        """None: it reads the instruction itself."""
        return None

    def relative(self, spec: Spec) -> RelativeActions | None:
        """What its pipeline measures from the state; None if actions stay absolute."""
        return relative_joints(spec) if self.config.relative_joints else None

    def pipeline(self, spec: Spec, stats: Stats, sentences: SentenceCache | None) -> Pipeline:
        """Relative joints, normalization, prompt, padding."""
        config = self.config
        tokenizer = self._tokenizer()
        relative = self.relative(spec)
        action = stats["action" if relative is None else RELATIVE]
        return Pipeline(
            (
                *(() if relative is None else (relative,)),
                Normalize(state=stats["state"], action=action, mode=config.normalize),
                Prompt(
                    tokenizer, PROMPTS[config.prompt], config.max_tokens
                ),  # of the real numbers, so before padding
                PadDimensions(spec, state=config.state, action=config.action),
                PadCameras(self.views),
            )
        )

    def packed(self, batch: Batch) -> Batch:
        """Without cameras that no sample has, and with a prompt of the next multiple of `PACK` columns."""
        if batch.tokens is None:
            return batch
        longest = int(batch.tokens.attend[:, : self.config.max_tokens].sum(1).max())
        columns = min(-(-longest // PACK) * PACK, self.config.max_tokens)
        seen = [view.name for view in self.views if bool(batch.image_mask[view.name][:, -1].any())]
        return replace(
            batch,
            images={name: batch.images[name] for name in seen},
            image_mask={name: batch.image_mask[name] for name in seen},
            tokens=Tokens(**{name: part[:, :columns] for name, part in vars(batch.tokens).items()}),
        )

    def observe(self, batch: Batch) -> Seen:
        """What is observed while acting."""
        return self._known(batch, self._prefix(batch, lambda _, pictures: pictures))

    def learn(self, batch: Batch, generator: torch.Generator | None) -> Seen:
        """What a batch with actions teaches; its pictures are augmented."""
        if batch.actions is None:
            raise ValueError("trunk: the batch has no actions to learn from.")
        how = self.config.augmentation

        def change(camera: Camera, pictures: Tensor) -> Tensor:
            return augmented(pictures, how, moves=how.moves(camera), generator=generator)

        seen = self._known(batch, self._prefix(batch, change))
        return seen._replace(left=batch.actions, mask=real_actions(batch), ran=batch.executed)

    def _known(self, batch: Batch, prefix: Segment) -> Seen:
        """What is observed, with nothing guessed."""
        state = batch.state[:, -1] * batch.history_mask[:, -1:] * batch.state_mask
        shape = (len(state), self.horizon, self.config.action)
        return Seen(prefix, state, state.new_zeros(shape), state.new_ones(shape))

    def _prefix(self, batch: Batch, change: Callable[[Camera, Tensor], Tensor]) -> Segment:
        """Pictures and prompt; cameras and padding that no sample of the batch has are dropped."""
        if batch.tokens is None:
            raise ValueError("trunk: the batch has no prompt. Run the policy's transforms first.")
        most = self.config.max_tokens  # what a family writes behind the prompt is its own
        ids, attend = batch.tokens.ids[:, :most], batch.tokens.attend[:, :most]
        views = self.views
        if torch.compiler.is_compiling():
            views = tuple(view for view in views if view.name in batch.image_mask)  # see `packed`
        else:  # exact: what is masked takes no place and no position
            views = tuple(view for view in views if bool(batch.image_mask[view.name][:, -1].any()))
            longest = int(attend.sum(1).max())
            ids, attend = ids[:, :longest], attend[:, :longest]
        parts, real = [], []
        for view in views:
            parts.append(self.paligemma.see(change(view, self._pictures(batch.images[view.name][:, -1]))))
            real.append(batch.image_mask[view.name][:, -1:].expand(parts[-1].shape[:2]))
        tokens = torch.cat([*parts, self.paligemma.language.embed(ids)], dim=1)
        return Segment(tokens=tokens, real=needed(torch.cat([*real, attend], dim=1)))

    def _pictures(self, pixels: UInt8[Tensor, "row height width 3"]) -> Float[Tensor, "row 3 tall wide"]:
        size = self.config.paligemma.vision.image
        return unit_pictures(resize_with_pad(pixels, size, size))
