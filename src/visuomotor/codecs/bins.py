"""One token a number: five rules that look alike and are not.

| class | cells | decoded to | bias over [-1, 1] | largest error |
|---|---|---|---|---|
| `UniformBins` | `bins` equal ones | their centers | 0 | 1 / bins |
| `RT1Bins` | 255 equal ones and the point 1 | their lower ends | -1/255 | 2/255 |
| `RT2Bins` | 256 equal ones | their centers | 0 | 1/256 |
| `OpenVLABins` | 255 equal ones and the point 1 | 255 centers | 0 | 1/255 |
| `OctoBins` | 256 equal or equally likely ones | the middle of their ends | 0 | 1/256, or by the cell |

In all of them tokens are ordered tick by tick, within a tick dimension by dimension; numbers outside
[-1, 1] go to the outermost cell, and for those alone the bound does not hold. What becomes -1 and 1 (fixed
bounds in RT-1 and RT-2, 1 % and 99 % in OpenVLA) is the normalization's choice, not the codec's.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int64

from visuomotor.codecs.base import DecodeFailure
from visuomotor.errors import unknown_name

__all__ = ["OctoBins", "OpenVLABins", "RT1Bins", "RT2Bins", "UniformBins"]

_ROUNDING = 2.0**-25
"""Largest error of a number below 1 when it becomes a float32."""

Spacing = Literal["uniform", "normal"]


class UniformBins:
    """Each number becomes the cell it lies in, and comes back as the center of that cell.

    Args:
        bins: Number of cells; also the size of the vocabulary.
        horizon: Ticks of a chunk.
        action: Numbers of one action.
    """

    def __init__(self, bins: int = 256, *, horizon: int, action: int) -> None:
        if bins < 1 or horizon < 1 or action < 1:
            raise ValueError(
                f"uniform bins: expected positive sizes, got bins {bins}, horizon {horizon}, action {action}."
            )
        self.bins = bins
        self.horizon = horizon
        self.action = action
        self.vocabulary = bins
        # half a cell, and the rounding of a number below 1 to float32
        self.error_bound: float | None = 1 / bins + _ROUNDING

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Cell numbers of normalized actions. Raises `ValueError` on a wrong shape or NaN."""
        numbers = _numbers("uniform bins", actions, (self.horizon, self.action))
        cells = np.floor((numbers + 1) / 2 * self.bins)
        return np.clip(cells, 0, self.bins - 1).astype(np.int64).reshape(-1)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Centers of the cells, or why these tokens are no chunk."""
        found = _tokens("uniform bins", tokens, self.horizon * self.action, self.bins)
        if isinstance(found, DecodeFailure):
            return found
        centers = (2 * found + 1) / self.bins - 1
        return centers.astype(np.float32).reshape(self.horizon, self.action)


class RT1Bins:
    """The rule of RT-1 and RT-1-X: `int((a + 1) / 2 * 255)`, and `token / 255 * 2 - 1` for the way back.

    The fraction is cut off, and what comes back is the lower end of the cell: never above what went in, on
    the average 1/255 below it, at most 2/255 (twice the error of centers). Token 255 stands for 1 alone. A
    decoded chunk that is encoded again may lose one more token a number, where float32 rounds downwards.

    Source: Brohan et al. 2022 (RT-1), section 5.1, and the tokenizer of the released code, whose
    terminate token, a choice of three, is none of the numbers here. Computed in float64, theirs in float32.

    Args:
        horizon: Ticks of a chunk.
        action: Numbers of one action.
        vocabulary: Number of tokens; 256 in the paper.
    """

    def __init__(self, *, horizon: int, action: int, vocabulary: int = 256) -> None:
        _check_sizes("RT-1 bins", horizon, action, vocabulary)
        self.horizon = horizon
        self.action = action
        self.vocabulary = vocabulary
        self.error_bound: float | None = 2 / (vocabulary - 1) + _ROUNDING

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Numbers of the lower ends. Raises `ValueError` on a wrong shape or NaN."""
        numbers = _numbers("RT-1 bins", actions, (self.horizon, self.action))
        share = (np.clip(numbers, -1, 1) + 1) / 2
        return (share * (self.vocabulary - 1)).astype(np.int64).reshape(-1)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Lower ends of the cells, or why these tokens are no chunk."""
        found = _tokens("RT-1 bins", tokens, self.horizon * self.action, self.vocabulary)
        if isinstance(found, DecodeFailure):
            return found
        ends = found / (self.vocabulary - 1) * 2 - 1
        return ends.astype(np.float32).reshape(self.horizon, self.action)


class RT2Bins:
    """The rule of RT-2: 256 equal cells, written as decimal numbers between spaces behind a terminate flag.

    "0 128 91 241 5 101 127 217" is one action of seven numbers that does not end the episode. The paper has
    cells of equal size, where RT-1's code has 255 and a point. How a cell becomes a number again it does not
    say; here it is the center.

    Source: Brohan et al. 2023 (RT-2), section 3.2. PaLI-X has a token of its own for each of these numbers,
    PaLM-E overwrites its 256 rarest ones, and only these may be decoded.

    Args:
        horizon: Ticks of a chunk; 1 in the paper.
        action: Numbers of one action.
    """

    def __init__(self, *, horizon: int, action: int) -> None:
        _check_sizes("RT-2 bins", horizon, action, 256)
        self.horizon = horizon
        self.action = action
        self.vocabulary = 256
        self._cells = UniformBins(256, horizon=horizon, action=action)
        self.error_bound: float | None = self._cells.error_bound

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Cell numbers of normalized actions. Raises `ValueError` on a wrong shape or NaN."""
        return self._cells.encode(actions)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Centers of the cells, or why these tokens are no chunk."""
        return self._cells.decode(tokens)

    def write(self, tokens: Int64[np.ndarray, " token"], *, terminate: bool = False) -> str:
        """The words that the language model learns to say."""
        return " ".join(str(number) for number in (int(terminate), *tokens.tolist()))

    def read(self, text: str) -> tuple[bool, Int64[np.ndarray, " token"]] | DecodeFailure:
        """Whether the episode ends, and the tokens of `text`; or why it is no action."""
        words = text.split()
        if not all(word.isascii() and word.isdigit() for word in words):
            return DecodeFailure(reason=f"expected numbers between spaces, got {text[:80]!r}", tokens=())
        numbers = [int(word) for word in words]
        if not numbers or numbers[0] not in (0, 1):
            return DecodeFailure(
                reason=f"expected 0 or 1 first (terminate), got {text[:80]!r}", tokens=tuple(numbers)
            )
        found = _tokens("RT-2 bins", np.array(numbers[1:], object), self.horizon * self.action, 256)
        return found if isinstance(found, DecodeFailure) else (bool(numbers[0]), found)


class OpenVLABins:
    """The rule of OpenVLA: 256 edges from -1 to 1, and the 255 centers between them.

    Tokens 254 and 255 decode alike: 255 stands for 1 alone, and comes back as the center 1/255 below it. A
    gripper in [0, 1], as in the released models, uses half of the tokens and never comes back as 1.

    Source: Kim et al. 2024 (OpenVLA), section 3.2, and the action tokenizer of the released code. Its token
    for a language model is `vocabulary of the model - 1 - token`, see `model_ids`; it decodes any other id to
    the nearest end, which here is a failure.

    Args:
        horizon: Ticks of a chunk; 1 in OpenVLA.
        action: Numbers of one action.
        vocabulary: Number of edges, and of tokens; 256 in the paper.
    """

    def __init__(self, *, horizon: int, action: int, vocabulary: int = 256) -> None:
        _check_sizes("OpenVLA bins", horizon, action, vocabulary)
        self.horizon = horizon
        self.action = action
        self.vocabulary = vocabulary
        self._edges = np.linspace(-1, 1, vocabulary)
        self._centers = (self._edges[:-1] + self._edges[1:]) / 2
        self.error_bound: float | None = 1 / (vocabulary - 1) + _ROUNDING

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """How many edges lie at or below each number, less one. `ValueError` on a wrong shape or NaN."""
        numbers = _numbers("OpenVLA bins", actions, (self.horizon, self.action))
        return np.digitize(np.clip(numbers, -1, 1), self._edges).astype(np.int64).reshape(-1) - 1

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Centers of the cells, or why these tokens are no chunk."""
        found = _tokens("OpenVLA bins", tokens, self.horizon * self.action, self.vocabulary)
        if isinstance(found, DecodeFailure):
            return found
        centers = self._centers[np.minimum(found, self.vocabulary - 2)]
        return centers.astype(np.float32).reshape(self.horizon, self.action)

    def model_ids(
        self, tokens: Int64[np.ndarray, " token"], *, model_vocabulary: int = 32_000
    ) -> Int64[np.ndarray, " token"]:
        """Ids at the end of a language model's vocabulary, in falling order; the same call takes them back.

        Args:
            tokens: Of this codec, or ids of the model.
            model_vocabulary: Of its tokenizer: 32000 for Llama 2, whose embedding is padded to 32064.
        """
        return model_vocabulary - 1 - tokens


class OctoBins:
    """The rule of Octo's discrete head: cells between `bins` + 1 thresholds, back as the middle of each.

    With spacing "normal" the thresholds are quantiles of the normal distribution from 1e-6 to 1 - 1e-6, so
    that cells of numbers with mean 0 and standard deviation 1 are equally likely; then numbers may lie up to
    4.75 away from 0, and the bound, which holds for [-1, 1], is that of the widest cell there. A number
    beyond the last threshold goes to the outermost cell; in the released code it belongs to no cell, and
    with this spacing becomes token 0.

    Source: Octo Model Team 2024, `BinTokenizer` of the released code. The released models do not use it.

    Args:
        bins: Number of cells; also the size of the vocabulary.
        horizon: Ticks of a chunk.
        action: Numbers of one action.
        spacing: "uniform" over [-1, 1], or "normal".
    """

    def __init__(self, bins: int = 256, *, horizon: int, action: int, spacing: Spacing = "uniform") -> None:
        _check_sizes("Octo bins", horizon, action, bins)
        if spacing not in get_args(Spacing):
            raise unknown_name("spacing of Octo bins", spacing, get_args(Spacing))
        self.horizon = horizon
        self.action = action
        self.vocabulary = bins
        self._edges = np.linspace(-1, 1, bins + 1)
        if spacing == "normal":
            quantile = NormalDist().inv_cdf
            self._edges = np.array([quantile(share) for share in np.linspace(1e-6, 1 - 1e-6, bins + 1)])
        low, high = self._edges[:-1], self._edges[1:]
        self._centers = (low + high) / 2
        seen = (high > -1) & (low < 1)
        halves = np.maximum(np.minimum(high, 1) - self._centers, self._centers - np.maximum(low, -1))
        self.error_bound: float | None = float(halves[seen].max()) + 4 * _ROUNDING

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Cell numbers of normalized actions. Raises `ValueError` on a wrong shape or NaN."""
        numbers = _numbers("Octo bins", actions, (self.horizon, self.action))
        cells = np.searchsorted(self._edges, numbers, side="right") - 1
        return np.clip(cells, 0, self.vocabulary - 1).astype(np.int64).reshape(-1)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Middles of the cells, or why these tokens are no chunk."""
        found = _tokens("Octo bins", tokens, self.horizon * self.action, self.vocabulary)
        if isinstance(found, DecodeFailure):
            return found
        return self._centers[found].astype(np.float32).reshape(self.horizon, self.action)


def _check_sizes(name: str, horizon: int, action: int, vocabulary: int) -> None:
    if horizon < 1 or action < 1 or vocabulary < 2:
        raise ValueError(
            f"{name}: expected positive sizes and at least two tokens, got horizon {horizon}, "
            f"action {action}, {vocabulary} tokens."
        )


def _numbers(name: str, actions: np.ndarray, shape: tuple[int, int]) -> Float[np.ndarray, "horizon action"]:
    """`actions` as float64, if they are a chunk of numbers."""
    if actions.shape != shape:
        raise ValueError(f"{name}: expected actions {shape}, got {actions.shape}.")
    if np.isnan(actions).any():
        raise ValueError(
            f"{name}: expected numbers, got NaN. Check the statistics that normalize the actions."
        )
    return actions.astype(np.float64)


def _tokens(
    name: str, tokens: np.ndarray, expected: int, vocabulary: int
) -> Int64[np.ndarray, " token"] | DecodeFailure:
    """`tokens` as int64, or why they are none of a chunk."""
    tokens = np.asarray(tokens)
    if tokens.size and tokens.dtype != object and not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"{name}: expected integer tokens, got {tokens.dtype}.")
    given = tuple(tokens.reshape(-1).tolist())
    if len(given) != expected:
        return DecodeFailure(reason=f"expected {expected} tokens, got {len(given)}", tokens=given)
    outside = [token for token in given if not 0 <= token < vocabulary]
    if outside:
        return DecodeFailure(reason=f"expected tokens in [0, {vocabulary}), got {outside[0]}", tokens=given)
    return np.array(given, np.int64)
