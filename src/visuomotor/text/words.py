"""Words as numbers without a vocabulary: for policies that learn their words from scratch."""

from __future__ import annotations

import re
import zlib

import numpy as np
from jaxtyping import Int64

__all__ = ["hash_words", "split_words"]

_WORD = re.compile(r"\w+|[^\w\s]")


def split_words(sentence: str) -> list[str]:
    """Words and punctuation marks in order, in lower case."""
    return _WORD.findall(sentence.lower())


def hash_words(sentence: str, buckets: int) -> Int64[np.ndarray, " word"]:
    """One id in [1, buckets) a word, in order; 0 is left for padding.

    Equal words get equal ids on every machine (CRC-32). Two words share an id with a chance of
    1 / (buckets - 1): with 100 words, 8192 buckets expect 0.6 such pairs and 1024 buckets 4.8.
    """
    if buckets < 2:
        raise ValueError(f"hashed words: expected at least 2 buckets, got {buckets}.")
    ids = [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in split_words(sentence)]
    return np.array(ids, dtype=np.int64)
