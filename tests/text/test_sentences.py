from __future__ import annotations

import numpy as np
import pytest

from visuomotor.errors import DataError
from visuomotor.text.sentences import SentenceCache, SentenceEncoder


class Counting:
    """Encodes a sentence as the lengths of its words and remembers what it was asked."""

    def __init__(self, hash: str = "abc") -> None:
        self.hash = hash
        self.width = 2
        self.asked: list[list[str]] = []

    def encode(self, sentences):
        self.asked.append(list(sentences))
        return [
            np.array([[len(word), 1] for word in s.split()], np.float32).reshape(-1, 2) for s in sentences
        ]


def test_each_sentence_is_encoded_once() -> None:
    encoder = Counting()
    cache = SentenceCache(encoder)
    assert isinstance(encoder, SentenceEncoder)
    for _ in range(3):
        np.testing.assert_array_equal(cache.encode("lift it"), [[4, 1], [2, 1]])
    assert encoder.asked == [["lift it"]]
    assert "lift it" in cache
    assert "put it" not in cache


def test_warming_asks_once_for_all_that_is_new() -> None:
    encoder = Counting()
    cache = SentenceCache(encoder)
    cache.encode("a")
    assert cache.warm(["b c", "a", "b c", "d"]) == 2
    assert encoder.asked == [["a"], ["b c", "d"]]
    assert cache.warm(["a", "d"]) == 0
    assert len(encoder.asked) == 2
    assert len(cache) == 3


def test_states_cannot_be_written_to() -> None:
    states = SentenceCache(Counting()).encode("lift it")
    with pytest.raises(ValueError, match="read-only"):
        states[0] = 0


def test_saved_states_come_back_without_asking_the_encoder(tmp_path) -> None:
    first = SentenceCache(Counting())
    first.warm(["lift it", "", "nimm den würfel"])
    first.save(tmp_path / "cache.safetensors")
    encoder = Counting()
    second = SentenceCache(encoder)
    assert second.load(tmp_path / "cache.safetensors") == 3
    for sentence in ("lift it", "", "nimm den würfel"):
        np.testing.assert_array_equal(second.encode(sentence), first.encode(sentence))
    assert encoder.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["cache.safetensors"]


def test_an_empty_cache_can_be_saved(tmp_path) -> None:
    SentenceCache(Counting()).save(tmp_path / "cache")
    assert SentenceCache(Counting()).load(tmp_path / "cache") == 0


def test_states_of_other_weights_are_refused(tmp_path) -> None:
    SentenceCache(Counting("abc")).save(tmp_path / "cache")
    with pytest.raises(DataError, match="expected states of the encoder xyz, got abc"):
        SentenceCache(Counting("xyz")).load(tmp_path / "cache")


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_missing_or_foreign_file_is_refused(tmp_path, content) -> None:
    path = tmp_path / "cache"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"written by SentenceCache\.save"):
        SentenceCache(Counting()).load(path)


def test_an_encoder_with_another_width_than_it_says_is_refused() -> None:
    encoder = Counting()
    encoder.width = 3
    with pytest.raises(ValueError, match="expected states"):
        SentenceCache(encoder).encode("a")
