"""The contract of every codec."""

from __future__ import annotations

import numpy as np

from visuomotor.codecs.base import Codec, DecodeFailure

__all__ = ["check_codec"]


def check_codec(codec: Codec, *, horizon: int, action: int, trials: int = 100, seed: int = 0) -> None:
    """Raise `AssertionError` at the first rule of the codec contract that does not hold.

    The rules: tokens are int64 (token,) within the vocabulary; decoded actions are float32, of the
    right shape, finite and within the stated error bound; the same actions give the same tokens and
    are not written to; tokens that stand for nothing are a `DecodeFailure` with a reason, not actions.

    Args:
        codec: For chunks of this shape.
        horizon: Ticks of a chunk.
        action: Numbers of one action.
        trials: How many random chunks are tried: noise, smooth paths, corners, constants.
        seed: Of these chunks.
    """
    generator = np.random.default_rng(seed)
    for trial in range(trials):
        _check_round_trip(codec, _chunk(trial, horizon, action, generator))
    _check_failures(codec, _chunk(1, horizon, action, generator))


def _chunk(trial: int, horizon: int, action: int, generator: np.random.Generator) -> np.ndarray:
    """float32 (horizon, action) in [-1, 1], of one of several kinds."""
    kinds = (
        lambda: generator.uniform(-1, 1, (horizon, action)),
        lambda: np.clip(np.cumsum(generator.normal(0, 0.1, (horizon, action)), axis=0), -1, 1),
        lambda: generator.choice([-1.0, 0.0, 1.0], (horizon, action)),
        lambda: np.broadcast_to(generator.uniform(-1, 1, (1, action)), (horizon, action)),
    )
    return np.ascontiguousarray(kinds[trial % len(kinds)](), dtype=np.float32)


def _require(codec: Codec, condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"codec {type(codec).__name__}: {message}")


def _check_round_trip(codec: Codec, actions: np.ndarray) -> None:
    before = actions.copy()
    tokens = codec.encode(actions)
    _require(codec, np.array_equal(actions, before), "encode() writes into the actions that it is given.")
    _require(
        codec,
        tokens.dtype == np.int64 and tokens.ndim == 1,
        f"encode() gives {tokens.dtype} {tokens.shape}, expected int64 (token,).",
    )
    outside = [int(token) for token in tokens if not 0 <= token < codec.vocabulary]
    _require(
        codec, not outside, f"encode() gives tokens {outside[:3]}, its vocabulary is {codec.vocabulary}."
    )
    _require(
        codec, np.array_equal(tokens, codec.encode(actions)), "encode() gives two results for equal actions."
    )
    kept = tokens.copy()
    back = codec.decode(tokens)
    _require(codec, np.array_equal(tokens, kept), "decode() writes into the tokens that it is given.")
    if isinstance(back, DecodeFailure):
        raise AssertionError(f"codec {type(codec).__name__}: it cannot decode its own tokens: {back.reason}.")
    _require(
        codec,
        back.dtype == np.float32 and back.shape == actions.shape,
        f"decode() gives {back.dtype} {back.shape}, expected float32 {actions.shape}.",
    )
    _require(codec, bool(np.isfinite(back).all()), "decode() gives NaN or infinity.")
    error = float(np.abs(back.astype(np.float64) - actions).max())
    _require(
        codec,
        codec.error_bound is None or error <= codec.error_bound,
        f"a round trip is off by {error:.6g}, its stated bound is {codec.error_bound}.",
    )


def _check_failures(codec: Codec, actions: np.ndarray) -> None:
    tokens = codec.encode(actions)
    wrong = {
        "a token below 0": np.concatenate([[-1], tokens[1:]]),
        "a token beyond the vocabulary": np.concatenate([[codec.vocabulary], tokens[1:]]),
        "no token at all": tokens[:0],
        "half of the tokens": tokens[: len(tokens) // 2],
    }
    for what, bad in wrong.items():
        answer = codec.decode(bad.astype(np.int64))
        _require(
            codec,
            isinstance(answer, DecodeFailure),
            f"decode() turns {what} into actions; expected a DecodeFailure.",
        )
        assert isinstance(answer, DecodeFailure)
        _require(codec, bool(answer.reason), f"decode() fails on {what} without a reason.")
