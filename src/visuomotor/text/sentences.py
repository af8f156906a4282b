"""Encoded sentences, computed once: who encodes them, and where they are kept.

A frozen encoder gives the same states for the same sentence forever, so training and acting look
them up. The cache is an explicit object that is handed to a pipeline; it knows by the hash of the
weights whose states it holds, so states of two encoders never mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from visuomotor.errors import DataError

__all__ = ["SentenceCache", "SentenceEncoder"]


@runtime_checkable
class SentenceEncoder(Protocol):
    """A frozen encoder of sentences.

    Attributes:
        hash: Identifies the weights; equal hashes give equal states.
        width: Size of the state of one token.
    """

    hash: str
    width: int

    def encode(self, sentences: Sequence[str]) -> list[Float32[np.ndarray, "token width"]]:
        """The state of each token of each sentence; the order and the company do not matter."""
        ...


class SentenceCache:
    """Token states of every sentence met so far.

    Args:
        encoder: Is asked for a sentence the first time it is met.
    """

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        self._states: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is known, without the encoder: another process only looks sentences up."""
        return {"encoder": _Away(self.hash, self.width), "_states": self._states}

    @property
    def hash(self) -> str:
        """Hash of the weights whose states these are."""
        return self.encoder.hash

    @property
    def width(self) -> int:
        """Size of the state of one token."""
        return self.encoder.width

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, sentence: object) -> bool:
        return sentence in self._states

    def encode(self, sentence: str) -> Float32[np.ndarray, "token width"]:
        """Token states of a sentence; the array is shared and cannot be written to."""
        states = self._states.get(sentence)
        if states is None:
            self.warm([sentence])
            states = self._states[sentence]
        return states

    def warm(self, sentences: Iterable[str]) -> int:
        """Encode all sentences that are not known yet, together; returns how many there were."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._states]
        for sentence, states in zip(new, self.encoder.encode(new) if new else []):
            self._keep(sentence, states)
        return len(new)

    def save(self, path: str | Path) -> None:
        """Write everything known into one safetensors file, whole or not at all."""
        from safetensors.numpy import save_file

        path = Path(path)
        sentences = sorted(self._states)
        tensors: dict[str, np.ndarray] = {
            "sentences": np.frombuffer(json.dumps(sentences).encode(), dtype=np.uint8),
            "lengths": np.array([len(self._states[sentence]) for sentence in sentences], dtype=np.int64),
            "states": np.concatenate(
                [self._states[sentence] for sentence in sentences] or [np.zeros((0, self.width), np.float32)]
            ),
        }
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"hash": self.hash})
        os.replace(partial, path)

    def load(self, path: str | Path) -> int:
        """Take over what `save` wrote; returns how many sentences.

        Raises:
            DataError: Not such a file, or the states of other weights.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("hash")
                if found != self.hash:
                    raise DataError(
                        f"sentence cache {path}: expected states of the encoder {self.hash[:16]}, "
                        f"got {str(found)[:16]}. Delete the file; it will be written anew."
                    )
                sentences = json.loads(file.get_tensor("sentences").tobytes())
                parts = np.split(file.get_tensor("states"), np.cumsum(file.get_tensor("lengths"))[:-1])
        except (SafetensorError, FileNotFoundError) as error:
            raise DataError(
                f"sentence cache {path}: expected a file written by SentenceCache.save, got {error}."
            ) from error
        for sentence, states in zip(sentences, parts):
            self._keep(sentence, states)
        return len(sentences)

    def _keep(self, sentence: str, states: np.ndarray) -> None:
        if states.ndim != 2 or states.shape[1] != self.width:
            raise ValueError(
                f"sentence {sentence!r}: expected states (token, {self.width}), got {states.shape} "
                "from its encoder."
            )
        states = np.array(states, dtype=np.float32)  # a copy of its own
        states.setflags(write=False)
        self._states[sentence] = states


class _Away:
    """Stands for an encoder that stayed in another process."""

    def __init__(self, hash: str, width: int) -> None:
        self.hash, self.width = hash, width

    def encode(self, sentences: Sequence[str]) -> list[Float32[np.ndarray, "token width"]]:
        raise DataError(
            f"sentence {sentences[0]!r}: was not encoded before this process got the cache, and the encoder "
            "is elsewhere. Call `warm` with every sentence of the data first."
        )
