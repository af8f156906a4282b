"""Instructions as the ids of a published tokenizer, in the words that a family was trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from visuomotor.errors import DataError
from visuomotor.text.tokenizer import Tokenizer
from visuomotor.types import Observation, Sample, Tokens

__all__ = ["Prompt", "cleaned"]


def cleaned(instruction: str) -> str:
    """An instruction in one line, words apart.

    Source: the released code of pi0 (Black et al. 2024): underscores and line breaks become spaces.
    """
    return instruction.strip().replace("_", " ").replace("\n", " ")


@dataclass(frozen=True)
class Prompt:
    """Adds `tokens`: the ids of a prompt, padded on the right; none of them is trained on.

    Attributes:
        tokenizer: Of the language model.
        write: The parts of a sample's prompt, each of which becomes ids by itself.
        max_tokens: Ids in a row; a longer prompt is an error, never cut.
    """

    tokenizer: Tokenizer
    write: Callable[[Sample], tuple[str, ...]]
    max_tokens: int

    def apply(self, sample: Sample) -> Sample:
        """The sample with its prompt.

        Raises:
            DataError: The prompt is too long.
        """
        parts = self.write(sample)
        found = [place for n, part in enumerate(parts) for place in self.tokenizer.encode(part, bos=n == 0)]
        if len(found) > self.max_tokens:
            raise DataError(
                f"instruction {sample.instruction!r}: the prompt has {len(found)} tokens, and this policy "
                f"reads at most {self.max_tokens}. Use a shorter sentence, or train with more max_tokens."
            )
        ids = np.full(self.max_tokens, self.tokenizer.pad, dtype=np.int64)
        ids[: len(found)] = found
        attend = np.arange(self.max_tokens) < len(found)
        tokens = Tokens(ids=ids, attend=attend, loss=np.zeros_like(attend), segment=np.zeros_like(ids))
        return replace(sample, tokens=tokens)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions as they are."""
        return actions
