"""Whole numbers from 0 to `top` in tokens: two ways to spell what FAST has to say.

`NumberSpelling` is ours: symbols are the numbers themselves, so every token stands for whole numbers and any
tokens in a row can be read. `ByteSpelling` is that of the published tokenizers, token for token: a number
is the character of that code point, its UTF-8 bytes are the symbols, and a regular expression for English
text cuts the sequence into words, over whose ends no pair reaches. There a token may end within a number,
so some sequences of tokens stand for nothing.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from visuomotor.codecs.completion import Completion
from visuomotor.codecs.pairs import PairEncoding
from visuomotor.errors import DataError

__all__ = ["BYTES", "ByteSpelling", "NumberSpelling", "Spelling", "spelling_from_json"]


@runtime_checkable
class Spelling(Protocol):
    """Numbers in [0, top] to tokens in [0, len(pairs)) and back."""

    top: int
    pairs: PairEncoding

    def write(self, numbers: Sequence[int]) -> list[int]:
        """Tokens of numbers."""
        ...

    def read(self, tokens: Sequence[int]) -> list[int] | str:
        """Numbers of tokens, or why these tokens stand for none."""
        ...

    def completion(self, most: int) -> Completion:
        """Which tokens lead to chunks of `most` numbers."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        ...


class NumberSpelling:
    """Each number is a symbol; tokens 0 to `top` are the numbers.

    Args:
        top: Largest number.
        merges: Pairs of tokens that become one, first ones first.
    """

    def __init__(self, top: int, merges: Sequence[tuple[int, int]]) -> None:
        self.top = top
        self.pairs = PairEncoding.from_merges(top + 1, merges)

    def write(self, numbers: Sequence[int]) -> list[int]:
        """Tokens of numbers."""
        return self.pairs.merge(numbers)

    def read(self, tokens: Sequence[int]) -> list[int] | str:
        """Numbers of tokens; every sequence of tokens has some."""
        return self.pairs.expand(tokens)

    def completion(self, most: int) -> Completion:
        """One state: a token of n numbers may come while n are missing."""
        counts = np.array([[len(piece) for piece in self.pairs.pieces]], np.int64)
        return Completion.build(counts, np.zeros_like(counts), most)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            "kind": "numbers",
            "top": self.top,
            "merges": [[left, right] for left, right, _ in self.pairs.merges],
        }


def _byte_characters() -> tuple[str, ...]:
    """The character under which each byte stands in files of byte-level pair encodings.

    Printable characters of Latin-1 stand for themselves, the 68 others for U+0100 and on, in order.
    Source: Radford et al. 2019 (GPT-2), whose encoder introduced it.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(spare)) for byte in range(256))


BYTES = _byte_characters()
"""Of each byte, the character that stands for it in a vocabulary."""
_BYTE_OF = {character: byte for byte, character in enumerate(BYTES)}


class ByteSpelling:
    """Each number is a character, its UTF-8 bytes are symbols; as the published tokenizers spell.

    A character that is itself in the vocabulary, as those of the whole range are, and does not stand for a
    byte there, is a token of its own: the published encoder never says it but its decoder reads it. Here it
    is also said where a byte of the number has no token; there the published encoder leaves the number out,
    and what it says has no reading.

    Args:
        top: Largest number.
        texts: Of each token, its text in the vocabulary file.
        merges: Pairs of texts that become one, first ones first.
        words: Whether the sequence is cut into words.

    Raises:
        DataError: A number that can't be spelled, or a merge of texts that are no tokens.
    """

    def __init__(
        self, top: int, texts: Sequence[str], merges: Sequence[tuple[str, str]], *, words: bool = True
    ) -> None:
        if not 0 <= top < 0xD800:
            raise DataError(f"FAST vocabulary: expected numbers up to at most {0xD800 - 1}, got {top}.")
        self.top = top
        self.texts = tuple(texts)
        self.words = words
        number = {text: token for token, text in enumerate(self.texts)}
        for left, right in merges:
            missing = [text for text in (left, right, left + right) if text not in number]
            if missing:
                raise DataError(f"FAST vocabulary: a merge needs {missing[0]!r}, which is no token.")
        self.pairs = PairEncoding(
            [tuple(_bytes_of(text)) for text in self.texts],
            [(number[left], number[right], number[left + right]) for left, right in merges],
        )
        self._spelled = tuple(_spell(chr(value), number) for value in range(top + 1))
        self._word = _word_pattern(top)

    def write(self, numbers: Sequence[int]) -> list[int]:
        """Tokens of numbers, word by word."""
        tokens: list[int] = []
        for word in (
            self._word.findall("".join(map(chr, numbers))) if self.words else ["".join(map(chr, numbers))]
        ):
            tokens += self.pairs.merge(
                [token for character in word for token in self._spelled[ord(character)]]
            )
        return tokens

    def read(self, tokens: Sequence[int]) -> list[int] | str:
        """Numbers of tokens, or why these tokens stand for none."""
        try:
            text = bytes(self.pairs.expand(tokens)).decode("utf-8")
        except UnicodeDecodeError as error:
            return f"these tokens are no characters: {error.reason} at byte {error.start}"
        numbers = list(map(ord, text))
        if numbers and max(numbers) > self.top:
            return f"expected numbers up to {self.top}, got {max(numbers)}"
        return numbers

    def completion(self, most: int) -> Completion:
        """A state for each beginning of a character that tokens can leave behind."""
        number, waiting, counts, following = {b"": 0}, [b""], [], []
        for before in waiting:  # grows while it is walked over
            added, to = [], []
            for piece in self._pieces:
                count, rest = self._count(before + piece)
                if rest is not None and rest not in number:
                    number[rest] = len(number)
                    waiting.append(rest)
                added.append(count)
                to.append(-1 if rest is None else number[rest])
            counts.append(added)
            following.append(to)
        return Completion.build(np.array(counts, np.int64), np.array(following, np.int64), most)

    @cached_property
    def _beginnings(self) -> frozenset[bytes]:
        """What the bytes of a number in the range can begin with, itself left out."""
        spelled = [chr(value).encode("utf-8") for value in range(self.top + 1)]
        return frozenset(data[:length] for data in spelled for length in range(len(data)))

    @cached_property
    def _pieces(self) -> list[bytes]:
        return [bytes(piece) for piece in self.pairs.pieces]

    def _count(self, data: bytes) -> tuple[int, bytes | None]:
        """Numbers in `data` and the beginning of one that it leaves; None if it is no such thing."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(data)
        except UnicodeDecodeError:
            return 0, None
        rest = decoder.getstate()[0]
        if rest not in self._beginnings or any(ord(character) > self.top for character in text):
            return 0, None
        return len(text), rest

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            "kind": "bytes",
            "top": self.top,
            "texts": list(self.texts),
            "merges": [[self.texts[left], self.texts[right]] for left, right, _ in self.pairs.merges],
            "words": self.words,
        }


def _bytes_of(text: str) -> bytes:
    """What a token of a byte-level vocabulary is read as: bytes, or itself where a character is none."""
    if all(character in _BYTE_OF for character in text):
        return bytes(_BYTE_OF[character] for character in text)
    return text.encode("utf-8")


def _spell(character: str, number: Mapping[str, int]) -> tuple[int, ...]:
    """Tokens of the bytes of a character, before any merge."""
    spelled = [number.get(BYTES[byte]) for byte in character.encode("utf-8")]
    if None not in spelled:
        return tuple(token for token in spelled if token is not None)
    if character in number and character not in _BYTE_OF:
        return (number[character],)
    raise DataError(f"FAST vocabulary: no tokens for the number {ord(character)}. Is the file complete?")


def _word_pattern(top: int) -> re.Pattern[str]:
    """The words of GPT-2 for characters up to `top`: letters, digits or others, perhaps behind one space.

    Python's `re` has no classes for letters and numbers of all scripts, so they are listed.
    Source: Radford et al. 2019 (GPT-2), the pattern of its encoder.
    """
    everything = [chr(value) for value in range(top + 1)]
    letters, numbers = (
        "".join(re.escape(c) for c in everything if unicodedata.category(c)[0] == kind) for kind in "LN"
    )
    space = "\\t\\n\\x0b\\x0c\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
    others = f" ?[^{space}{letters}{numbers}]+"
    groups = "".join(f" ?[{group}]+|" for group in (letters, numbers) if group)
    return re.compile(f"'(?:[stmd]|re|ve|ll)|{groups}{others}|[{space}]+(?![^{space}])|[{space}]+")


def spelling_from_json(data: Mapping[str, Any]) -> Spelling:
    """Inverse of `to_json` of both. Raises `DataError` on an unknown kind, `KeyError` on a missing key."""
    if data["kind"] == "numbers":
        return NumberSpelling(data["top"], [(left, right) for left, right in data["merges"]])
    if data["kind"] == "bytes":
        merges = [(left, right) for left, right in data["merges"]]
        return ByteSpelling(data["top"], data["texts"], merges, words=data["words"])
    raise DataError(f"FAST: expected a spelling of kind 'numbers' or 'bytes', got {data['kind']!r}.")
