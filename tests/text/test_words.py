from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.text.words import hash_words, split_words


def test_words_and_punctuation_are_split_in_lower_case() -> None:
    assert split_words("Put the Red-cube, please!") == ["put", "the", "red", "-", "cube", ",", "please", "!"]
    assert split_words("") == []


def test_ids_are_the_same_on_every_machine() -> None:
    assert hash_words("put the red cube", 1024).tolist() == [227, 775, 913, 118]


@given(st.text(), st.integers(2, 5000))
def test_ids_leave_zero_for_padding_and_keep_the_order(sentence: str, buckets: int) -> None:
    ids = hash_words(sentence, buckets)
    assert ids.dtype == np.int64
    assert ((ids >= 1) & (ids < buckets)).all()
    words = split_words(sentence)
    assert ids.tolist() == [hash_words(word, buckets)[0] for word in words]


def test_order_is_kept() -> None:
    one, other = hash_words("red on blue", 8192), hash_words("blue on red", 8192)
    assert one.tolist() == other[::-1].tolist()
    assert one.tolist() != other.tolist()


def test_one_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        hash_words("a", 1)
