"""Instructions as arrays: encoded by a frozen language model, or as hashed words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from visuomotor.errors import DataError
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.words import hash_words
from visuomotor.types import Observation, Sample, Tokens

__all__ = ["EncodeSentence", "HashWords"]


@dataclass(frozen=True)
class EncodeSentence:
    """Adds `sentence` (max_tokens, width), zeros behind its end, and `sentence_mask`.

    An empty instruction has no tokens at all, not even the encoder's marks of begin and end.

    Attributes:
        cache: Knows or computes the token states.
        max_tokens: Longest sentence in tokens of the encoder; a longer one is an error, never cut.
    """

    cache: SentenceCache
    max_tokens: int

    def apply(self, sample: Sample) -> Sample:
        """The sample with its encoded instruction."""
        states = self.cache.encode(sample.instruction)
        count = len(states) if sample.instruction.strip() else 0
        if count > self.max_tokens:
            raise _too_long(sample.instruction, count, self.max_tokens)
        sentence = np.zeros((self.max_tokens, states.shape[1]), dtype=np.float32)
        sentence[:count] = states[:count]
        mask = np.zeros(self.max_tokens, dtype=bool)
        mask[:count] = True
        return replace(sample, sentence=sentence, sentence_mask=mask)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions as they are."""
        return actions


@dataclass(frozen=True)
class HashWords:
    """Adds `tokens`: one hashed id a word (see `hash_words`), 0 behind the end of the sentence.

    Attributes:
        buckets: Number of ids.
        max_tokens: Longest sentence in words and punctuation marks; a longer one is an error, never cut.
    """

    buckets: int
    max_tokens: int

    def apply(self, sample: Sample) -> Sample:
        """The sample with the words of its instruction; none of them is trained on."""
        words = hash_words(sample.instruction, self.buckets)
        count = len(words)
        if count > self.max_tokens:
            raise _too_long(sample.instruction, count, self.max_tokens)
        ids = np.zeros(self.max_tokens, dtype=np.int64)
        ids[:count] = words
        attend = np.zeros(self.max_tokens, dtype=bool)
        attend[:count] = True
        tokens = Tokens(ids=ids, attend=attend, loss=np.zeros_like(attend), segment=np.zeros_like(ids))
        return replace(sample, tokens=tokens)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions as they are."""
        return actions


def _too_long(instruction: str, count: int, most: int) -> DataError:
    return DataError(
        f"instruction {instruction!r}: {count} tokens, but this policy reads at most {most}. "
        "Use a shorter sentence, or train with a larger max_tokens."
    )
