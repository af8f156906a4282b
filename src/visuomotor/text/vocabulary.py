"""Words as numbers with a vocabulary: for policies that write their words themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visuomotor.errors import DataError, unknown_name
from visuomotor.text.words import split_words

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """The words of some texts, numbered in their order.

    Attributes:
        words: Lower-case words and punctuation marks, each once.
        first: Number of the first one.
    """

    words: tuple[str, ...]
    first: int = 0

    def __post_init__(self) -> None:
        if len(set(self.words)) < len(self.words):
            raise ValueError(f"vocabulary: expected each of its {len(self.words)} words once.")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """Every word of the texts, in alphabetical order.

        Raises:
            DataError: There is no word at all.
        """
        words = sorted({word for text in texts for word in split_words(text)})
        if not words:
            raise DataError(
                "vocabulary: the data hold no text to be written. Collect with an environment that tells "
                "subtasks (or with --annotate, for questions), or train a policy that writes nothing."
            )
        return cls(tuple(words))

    def encode(self, text: str) -> list[int]:
        """The numbers of the words in order.

        Raises:
            DataError: One is not in the list; with the closest that is.
        """
        numbers = {word: number for number, word in enumerate(self.words, self.first)}
        for word in split_words(text):
            if word not in numbers:
                raise DataError(
                    f"vocabulary: text {text!r}: {unknown_name('word', word, self.words)} The words were "
                    "fixed when the policy was fitted to its first data: train a new policy on all texts, "
                    "or leave this data set out."
                )
        return [numbers[word] for word in split_words(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The words with spaces between them; a punctuation mark follows its word at once."""
        text = ""
        for number in numbers:
            word = self.words[number - self.first]
            text += f" {word}" if text and word[0].isalnum() else word
        return text
