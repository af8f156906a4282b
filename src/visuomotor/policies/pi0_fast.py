"""pi0-FAST: the vision-language model writes actions as tokens, one after the other.

Pertsch et al. (2025), "FAST: efficient action tokenization for vision-language-action models", sections V
and VI.

1. A chunk becomes a few tokens: cosine transform, rounding, pair encoding (`visuomotor.codecs.fast`).
2. There is no expert: the model that reads pictures and prompt writes the tokens behind them, each of which
   sees what was observed and the tokens before it. It is trained as any language model is.
3. The state is a part of the prompt. While acting, the likeliest token is taken each time, and what was
   computed for earlier ones is kept.

Differences from the paper and its released code:

- Only tokens that can still become a whole chunk may be written, so that decoding cannot fail half way and
  needs no mark of its end. What fails all the same is said (`Acted.failures`), where the released code
  answers with zeros.
- Consecutive tokens have consecutive positions while acting, too; the released code skips one.
- The codec is fitted to the data before training and is a part of the config.
- `SightTrunkConfig` gives the trunk a few tokens made of everything that was observed, and tokens of the
  state's bins. A regression teaches seeing (`visuomotor.perception.guess`); its guess is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from visuomotor.codecs.base import DecodeFailure
from visuomotor.codecs.fast import FAST
from visuomotor.errors import DataError
from visuomotor.losses import Loss, token_loss
from visuomotor.nn.mixture import Past, Segment, join, remember, run
from visuomotor.nn.weights import Names, load_named
from visuomotor.perception.openpi_names import trunk_names
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig, check_writing
from visuomotor.perception.trunk import Seen, SightTrunkConfig
from visuomotor.perception.trunks import TrunkConfig, build_trunk
from visuomotor.policies.base import Acted, Context, Policy, continued
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.action_tokens import ActionTokens, announced, behind, written_ids
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.relative import RelativeActions
from visuomotor.types import Batch, Diet, Spec, Stats, Window

__all__ = ["PI0FAST", "PI0FASTConfig", "load_released", "released_names"]


@dataclass(frozen=True, kw_only=True)
class PI0FASTConfig:
    """Everything about a `PI0FAST` policy that the data does not decide."""

    horizon: int = 10
    """Actions predicted by one call; as released for DROID, which has 15 of them a second."""
    trunk: TrunkConfig = field(default_factory=PaliGemmaTrunkConfig.pi0_fast)
    """What sees, reads and writes."""
    vocabulary: int = 1024
    """Most tokens of the codec; the paper's for one that is fitted to a data set."""
    scale: float = 10.0
    """What coefficients are multiplied by before they are rounded: larger is finer, and longer."""
    codec: Mapping[str, Any] | None = None
    """The fitted codec, as `FAST.to_json` writes it; fitted to the data before training if none."""

    def __post_init__(self) -> None:
        if min(self.horizon, self.vocabulary) < 1 or self.scale <= 0:
            raise ValueError(f"pi0-FAST: sizes and scale must be positive, got {self}.")
        if isinstance(self.trunk, PaliGemmaTrunkConfig):
            check_writing(self.trunk, self.vocabulary)
            if self.trunk.announces:
                raise ValueError(
                    "pi0-FAST: it writes what announces actions, in which this prompt ends already: expected "
                    f'trunk.prompt="before_tokens", got {self.trunk.prompt!r}.'
                )
        elif self.trunk.words != self.vocabulary + 1:
            raise ValueError(
                f"pi0-FAST: the trunk's words are the codec's tokens and one that begins a chunk: expected "
                f"{self.vocabulary + 1}, got {self.trunk.words}."
            )

    @classmethod
    def published(cls) -> PI0FASTConfig:
        """The released network and normalization: PaliGemma 3B alone, which writes 2048 tokens of FAST+."""
        return cls(trunk=PaliGemmaTrunkConfig.pi0_fast().released(), vocabulary=2048)

    @classmethod
    def small(cls) -> PI0FASTConfig:
        """What two CPU cores train in minutes."""
        return cls(horizon=8, trunk=SightTrunkConfig(bins=256, words=513), vocabulary=512)

    @classmethod
    def tiny(cls) -> PI0FASTConfig:
        """Seconds on a laptop: for tests."""
        trunk = replace(SightTrunkConfig.tiny(), bins=256, words=257)
        return cls(horizon=4, trunk=trunk, vocabulary=256)


class PI0FAST(Policy):
    """The policy; cameras are the union over all bodies, state and action as wide as the widest body."""

    compiles = False  # how many tokens are written is decided by them
    Config = PI0FASTConfig
    config: PI0FASTConfig
    released = ("LeRobot safetensors",)

    def __init__(self, config: PI0FASTConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        self.trunk = build_trunk(config.trunk, self.bodies, horizon=config.horizon)
        self.action_width = self.trunk.action_width
        self.codec = None if config.codec is None else FAST.from_json(config.codec)
        if self.codec is not None:
            sizes = {"horizon": config.horizon, "action": self.action_width, "vocabulary": config.vocabulary}
            self.codec.check("pi0-FAST", **sizes)

    @property
    def window(self) -> Window:
        """The current tick, and the horizon of the config."""
        return Window(horizon=self.config.horizon)

    @property
    def diet(self) -> Diet:
        """What its trunk asks for."""
        return self.trunk.diet

    def load_pretrained(self) -> None:
        """What its trunk begins with."""
        self.trunk.load_pretrained()

    @property
    def sentence_encoder(self) -> str | None:
        """Which frozen encoder the pipeline needs, if any."""
        return self.trunk.sentence_encoder

    @property
    def unfitted(self) -> bool:
        """Whether the codec has yet to be fitted."""
        return self.codec is None

    def fitted(
        self, chunks: Float[np.ndarray, "chunk horizon action"], texts: Collection[str] = ()
    ) -> PI0FASTConfig:
        """The config with a codec for normalized, padded chunks."""
        config = self.config
        codec = FAST.fit(chunks, scale=config.scale, vocabulary=config.vocabulary)
        return replace(config, codec=codec.to_json())

    def relative(self, key: str) -> RelativeActions | None:
        """What its trunk measures from the state."""
        return self.trunk.relative(self.check_key(key))

    def fitted_as(self, other: PI0FASTConfig) -> PI0FASTConfig:
        """The config with the codec of another."""
        return self.config if self.codec is not None else replace(self.config, codec=other.codec)

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """The pipeline of its trunk, and chunks as tokens once there is a codec."""
        pipeline = self.trunk.pipeline(self.check_key(key), stats, sentences)
        if self.codec is None:
            return pipeline
        how = self.trunk.writing()
        return Pipeline((*pipeline.transforms, ActionTokens(self.codec, how.last, how.before, how.after)))

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """Cross-entropy of each token of the chunk, and the losses of seeing.

        Source: section III, with the tokens of section V.
        """
        seen = self.trunk.learn(batch, generator)
        assert seen.mask is not None
        ids, real = behind(batch, self.trunk.prompt_width)
        tokens = Segment(tokens=self.trunk.embed(ids[:, :-1]), block=1, causal=True)
        (_, end), _ = run([self.trunk.decoder], [seen.prefix, tokens], seen.past)
        learned = real[:, 1:] & seen.mask.flatten(1).any(1, keepdim=True)
        return Loss({"token": token_loss(self.trunk.score(end), ids[:, 1:], learned), **seen.losses})

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
        """The likeliest tokens one by one, decoded; nothing is random. Promised actions stand as they are."""
        seen = self.trunk.observe(batch)
        begun = announced(batch, self.trunk.prompt_width)
        chunks = [self.required.decode(row) for row in self.write(seen, begun)]
        failures = tuple(chunk.reason if isinstance(chunk, DecodeFailure) else None for chunk in chunks)
        shape = (self.config.horizon, self.action_width)
        found = [np.zeros(shape, np.float32) if isinstance(c, DecodeFailure) else c for c in chunks]
        actions = torch.from_numpy(np.stack(found)).to(seen.state.device)
        mask = None
        if any(failures):
            kept = torch.tensor([failure is None for failure in failures], device=actions.device)
            mask = kept[:, None].expand(-1, self.config.horizon)
        return Acted(
            actions=continued(actions, prefix, held), mask=mask, failures=failures if any(failures) else None
        )

    @property
    def required(self) -> FAST:
        """The codec; `DataError` if it was never fitted."""
        if self.codec is None:
            raise DataError("pi0-FAST: the codec was not fitted. Train the policy, or set config.codec.")
        return self.codec

    def write(self, seen: Seen, begun: Int[Tensor, "row token"]) -> list[np.ndarray]:
        """The codec's likeliest tokens for each row, of those that can still become a whole chunk.

        Args:
            seen: What was observed.
            begun: Ids from which the model goes on.
        """
        codec, rows = self.required, len(seen.state)
        state, missing = codec.completion.start(rows)
        ids = torch.from_numpy(written_ids(np.arange(codec.vocabulary), self.trunk.last_action)).to(
            begun.device
        )
        kept = [*seen.past, *remember([self.trunk.decoder], [seen.prefix], seen.past)]
        grown: Past | None = None
        given, written, lengths = begun, np.zeros((rows, 0), np.int64), np.zeros(rows, np.int64)
        while (missing > 0).any():
            segment = Segment(tokens=self.trunk.embed(given), block=1, causal=given.shape[1] > 1)
            pasts = kept if grown is None else [*kept, grown]
            (end,), (new,) = run([self.trunk.decoder], [segment], pasts)
            grown = new if grown is None else join(grown, new)
            scores = self.trunk.score(end[:, -1:])[:, 0, ids].float().cpu().numpy()
            allowed = codec.completion.mask(state, missing)
            whole = np.logical_not(allowed.any(1))  # what it would still say is not read
            token: np.ndarray = np.where(allowed | whole[:, None], scores, -np.inf).argmax(1)
            after, left = codec.completion.step(state, missing, np.where(whole, 0, token))
            state, missing = np.where(whole, state, after), np.where(whole, missing, left)
            lengths += ~whole
            written = np.concatenate([written, token[:, None]], axis=1)
            given = ids[torch.from_numpy(token).to(ids.device)][:, None]
        return [row[:length] for row, length in zip(written, lengths, strict=True)]


# Weight loading


def released_names(config: PI0FASTConfig) -> Names:
    """Each weight of a policy -> its spellings in LeRobot's files; of one with PaliGemma as its trunk.

    Raises:
        ValueError: A policy with the shared sight, of which nothing was released.
    """
    return trunk_names(config.trunk, "pi0-FAST")


def load_released(policy: PI0FAST, weights: Mapping[str, Tensor], *, where: str = "pi0-FAST") -> None:
    """Copy released weights into a policy of the same configuration.

    LeRobot trains a table of scores of its own, apart from that of words: where both are in a file and not
    equal, the policy needs a language model that is not `tied`. The codec is not among these weights.

    Args:
        policy: See `PI0FASTConfig.published`.
        weights: What safetensors files hold.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape; with the closest names.
    """
    load_named(policy, weights, where=where, names=released_names(policy.config))
