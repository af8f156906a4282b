"""FAST: a chunk as the pair-encoded coefficients of its cosine transform.

Pertsch et al. 2025, "FAST: Efficient Action Tokenization for Vision-Language-Action Models", section V and
algorithm 1. Neighboring ticks are alike, so one token a number tells little and a model learns to repeat.
The cosine transform along time makes few large numbers of many similar ones; they are multiplied by `scale`
and rounded, which is all that is lost; written low frequencies first, all dimensions of one frequency after
another; and what often comes side by side, runs of zeros above all, becomes one token.

Differences: symbols are the coefficients themselves, not the bytes of characters (`spelling.py`), so that no
tokens are unreadable; coefficients and actions are clamped to the range of the fitted data; and tokens that
stand for no chunk are a `DecodeFailure`, where the published code answers with zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from visuomotor.codecs.base import DecodeFailure
from visuomotor.codecs.completion import Completion
from visuomotor.codecs.pairs import learn_pairs
from visuomotor.codecs.spelling import NumberSpelling, Spelling, spelling_from_json
from visuomotor.errors import DataError

__all__ = ["FAST", "cosine_matrix"]

_FORMAT = "visuomotor.fast"
_VERSION = 1


def cosine_matrix(horizon: int) -> Float64[np.ndarray, "frequency horizon"]:
    """The orthonormal cosine transform of type II: its transpose is its inverse.

    Source: Ahmed, Natarajan and Rao 1974, IEEE Transactions on Computers C-23, 90-93.
    """
    frequency, tick = np.arange(horizon)[:, None], np.arange(horizon)[None]
    matrix = np.sqrt(2 / horizon) * np.cos(np.pi * frequency * (2 * tick + 1) / (2 * horizon))
    matrix[0] = np.sqrt(1 / horizon)
    return matrix


class FAST:
    """Chunks of normalized actions to a few tokens and back; made by `FAST.fit`, `load` or `read_fast`.

    Args:
        horizon: Ticks of a chunk, one second in the paper.
        action: Numbers of one action.
        scale: What coefficients are multiplied by before rounding; larger is finer and longer.
        lowest: Smallest rounded coefficient of the fitted data; the largest is `lowest + spelling.top`.
        spelling: Coefficients, counted from `lowest`, to tokens.
        limits: Smallest and largest action of the fitted data, a number each or one a dimension; what is
            beyond is clamped on both ways. Infinite for published tokenizers, which do not know.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action: int,
        scale: float,
        lowest: int,
        spelling: Spelling,
        limits: tuple[np.ndarray | float, np.ndarray | float] = (-np.inf, np.inf),
    ) -> None:
        if horizon < 1 or action < 1 or not 0 < scale < np.inf:
            raise ValueError(
                f"FAST: expected positive sizes and scale, got horizon {horizon}, action {action}, "
                f"scale {scale}."
            )
        self.horizon = horizon
        self.action = action
        self.scale = float(scale)
        self.lowest = lowest
        self.highest = lowest + spelling.top
        self.spelling = spelling
        low, high = (np.broadcast_to(np.asarray(limit, np.float64), (action,)) for limit in limits)
        if not (low <= high).all() or np.isfinite(low).all() != np.isfinite(high).all():
            raise ValueError(
                f"FAST: expected limits with low <= high, all or none finite, got {low} and {high}."
            )
        self.limits = (low, high)
        self.vocabulary = len(spelling.pairs)
        self._cosines = cosine_matrix(horizon)

    @classmethod
    def fit(
        cls,
        chunks: Float[np.ndarray, "chunk horizon action"],
        *,
        scale: float = 10.0,
        vocabulary: int = 1024,
        progress: Callable[[int, int], None] | None = None,
    ) -> FAST:
        """The codec whose tokens are what often comes in `chunks`; equal chunks give an equal codec.

        Args:
            chunks: Normalized actions, the 1 % and 99 % of the data at about -1 and 1.
            scale: See the class; 10 everywhere in the paper.
            vocabulary: Most tokens to make; 1024 in the paper. Fewer, if no pair is left that comes twice.
            progress: Called with the number of tokens so far and the number wanted.

        Raises:
            ValueError: No chunks, or numbers that are not finite; or a range of coefficients that leaves no
                token for a pair.
        """
        if not chunks.size:
            raise ValueError("FAST.fit: expected chunks, got none.")
        if not np.isfinite(chunks).all():
            raise ValueError(
                "FAST.fit: expected finite numbers. Check the statistics that normalize the actions."
            )
        count, horizon, action = chunks.shape
        coefficients = np.rint(cosine_matrix(horizon) @ chunks.astype(np.float64) * scale).astype(np.int64)
        lowest, highest = int(coefficients.min()), int(coefficients.max())
        alphabet = highest - lowest + 1
        if alphabet >= vocabulary:
            raise ValueError(
                f"FAST.fit: coefficients from {lowest} to {highest} leave none of {vocabulary} tokens for "
                "pairs. Is an action far outside [-1, 1]? Else take a smaller scale or a larger vocabulary."
            )
        merges = learn_pairs(
            coefficients.reshape(count, -1) - lowest,
            alphabet=alphabet,
            vocabulary=vocabulary,
            progress=progress,
        )
        return cls(
            horizon=horizon,
            action=action,
            scale=scale,
            lowest=lowest,
            spelling=NumberSpelling(highest - lowest, merges),
            limits=(chunks.min(axis=(0, 1)), chunks.max(axis=(0, 1))),
        )

    def check(self, family: str, *, horizon: int, action: int, vocabulary: int) -> None:
        """Refuse to be used by a policy of other chunks, or with room for fewer tokens.

        Args:
            family: Of the policy, for messages.
            horizon: Ticks of its chunks.
            action: Numbers of its actions, padded.
            vocabulary: Most tokens that it can write.

        Raises:
            ValueError: With what to do.
        """
        if (self.horizon, self.action) != (horizon, action):
            raise ValueError(
                f"{family}: the codec was fitted to chunks of {self.horizon} x {self.action}, the policy's "
                f"are {horizon} x {action}. Fit it anew: codec=None."
            )
        if self.vocabulary > vocabulary:
            raise ValueError(
                f"{family}: the codec has {self.vocabulary} tokens, the policy writes at most {vocabulary}. "
                f"Set vocabulary={self.vocabulary}, or fit the codec anew: codec=None."
            )

    @property
    def rounding_bound(self) -> float:
        """Largest error of a number of a chunk in which nothing is clamped.

        Rounding moves a coefficient by at most half a unit, and a tick adds them up with the weights of its
        column of the cosine matrix.
        """
        half = 0.5 / self.scale
        return float(half * np.abs(self._cosines).sum(axis=0).max()) + 1e-6

    @property
    def error_bound(self) -> float | None:
        """`rounding_bound` if the fitted range takes in every chunk in [-1, 1]; else None: it depends."""
        most = np.rint(np.abs(self._cosines).sum(axis=1).max() * self.scale + 1e-9)
        low, high = self.limits
        whole = (low <= -1).all() and (high >= 1).all() and self.lowest <= -most and self.highest >= most
        return self.rounding_bound if whole else None

    def coefficients(
        self, actions: Float[np.ndarray, "horizon action"]
    ) -> Int64[np.ndarray, "frequency action"]:
        """Rounded coefficients of a chunk, clamped to the fitted range.

        Raises:
            ValueError: A wrong shape, or numbers that are not finite.
        """
        if actions.shape != (self.horizon, self.action):
            raise ValueError(f"FAST: expected actions {(self.horizon, self.action)}, got {actions.shape}.")
        if not np.isfinite(actions).all():
            raise ValueError(
                "FAST: expected finite numbers. Check the statistics that normalize the actions."
            )
        clamped = np.clip(actions.astype(np.float64), *self.limits)
        rounded = np.rint(self._cosines @ clamped * self.scale)
        return np.clip(rounded, self.lowest, self.highest).astype(np.int64)

    def actions(
        self, coefficients: Int64[np.ndarray, "frequency action"]
    ) -> Float32[np.ndarray, "horizon action"]:
        """The chunk of rounded coefficients, clamped to the fitted range."""
        chunk = self._cosines.T @ (coefficients / self.scale)
        return np.clip(chunk, *self.limits).astype(np.float32)

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Tokens of normalized actions; `ValueError` on a wrong shape or numbers that are not finite."""
        flat = self.coefficients(actions).reshape(-1)  # frequency action -> frequency x action
        return np.array(self.spelling.write((flat - self.lowest).tolist()), np.int64)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Actions within the fitted range, or why these tokens are no chunk."""
        tokens = np.asarray(tokens)
        if tokens.size and not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"FAST: expected integer tokens, got {tokens.dtype}.")
        given = tokens.reshape(-1).tolist()
        outside = [token for token in given if not 0 <= token < self.vocabulary]
        if outside:
            return self._fail(f"expected tokens in [0, {self.vocabulary}), got {outside[0]}", given)
        numbers = self.spelling.read(given)
        if isinstance(numbers, str):
            return self._fail(numbers, given)
        expected = self.horizon * self.action
        if len(numbers) != expected:
            return self._fail(f"expected tokens of {expected} coefficients, got {len(numbers)}", given)
        # frequency x action -> frequency action
        return self.actions(np.array(numbers, np.int64).reshape(self.horizon, self.action) + self.lowest)

    @staticmethod
    def _fail(reason: str, tokens: list[int]) -> DecodeFailure:
        return DecodeFailure(reason=reason, tokens=tuple(tokens))

    @cached_property
    def completion(self) -> Completion:
        """Which tokens can still lead to a whole chunk, for many sequences at once."""
        return self.spelling.completion(self.horizon * self.action)

    def allowed(self, tokens: np.ndarray) -> Bool[np.ndarray, " token"]:
        """True for each token after which `tokens` can still become a whole chunk; none once they are one."""
        return self.completion.after(np.asarray(tokens).reshape(-1).tolist())

    # ---- on disk -----------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, with a hash of itself; limits that are infinite are left out."""
        low, high = self.limits
        limits = {"limits": [low.tolist(), high.tolist()]} if np.isfinite([low, high]).all() else {}
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "horizon": self.horizon,
            "action": self.action,
            "scale": self.scale,
            "lowest": self.lowest,
            **limits,
            "spelling": self.spelling.to_json(),
        }
        return {**data, "sha256": _hash(data)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FAST:
        """Inverse of `to_json`. Raises `DataError` when it is something else, too new, or damaged."""
        if data.get("format") != _FORMAT:
            raise DataError(
                f"FAST: expected data of format {_FORMAT!r}, got {data.get('format')!r}. "
                "A published tokenizer is read by `visuomotor.codecs.fast_hub.read_fast`."
            )
        if data.get("version") != _VERSION:
            raise DataError(
                f"FAST: version {data.get('version')!r} cannot be read, only {_VERSION}. Update visuomotor."
            )
        content = {key: value for key, value in data.items() if key != "sha256"}
        if data.get("sha256") != _hash(content):
            raise DataError(
                "FAST: the content does not belong to its hash. It was damaged or edited; fit anew."
            )
        unbounded = (-np.inf, np.inf)
        low, high = content.pop("limits", unbounded)
        try:
            return cls(
                horizon=content["horizon"],
                action=content["action"],
                scale=content["scale"],
                lowest=content["lowest"],
                spelling=spelling_from_json(content["spelling"]),
                limits=(np.asarray(low, np.float64), np.asarray(high, np.float64)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"FAST: expected the keys that FAST.to_json writes, got a problem with {error}."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write it as one JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> FAST:
        """Read what `save` wrote. Raises `DataError`, with the path, if it is no such file."""
        try:
            data = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a FAST file ({error}).") from error
        if not isinstance(data, dict):
            raise DataError(f"{path}: expected what FAST.save writes, got JSON of another kind.")
        try:
            return cls.from_json(data)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
