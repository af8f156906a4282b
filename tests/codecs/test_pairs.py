from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from visuomotor.codecs.pairs import PairEncoding, learn_pairs


def naive_learn(sequences: np.ndarray, alphabet: int, vocabulary: int) -> list[tuple[int, int]]:
    """Count, take the most frequent, replace; as slowly and plainly as possible."""
    texts, merges = [list(row) for row in sequences.tolist()], []
    for made in range(alphabet, vocabulary):
        counts: dict[tuple[int, int], int] = {}
        for text in texts:
            for pair in pairwise(text):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        texts = [naive_replace(text, best, made) for text in texts]
    return merges


def naive_replace(text: list[int], pair: tuple[int, int], made: int) -> list[int]:
    out: list[int] = []
    for symbol in text:
        # what `out` ends with was made by this very pass only if it is `made`, which is no part of the pair
        if out and (out[-1], symbol) == pair:
            out[-1] = made
        else:
            out.append(symbol)
    return out


def texts(seed: int, count: int = 40, length: int = 30, alphabet: int = 6) -> np.ndarray:
    """Symbols of which some are frequent and come in runs, like coefficients."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(alphabet, (count, length), p=np.array([8, 4, 2, 1, 1, 1][:alphabet]) / 17)
    return np.where(generator.random((count, length)) < 0.3, 0, drawn)


@pytest.mark.parametrize("seed", range(2))
def test_learning_agrees_with_counting_plainly(seed: int) -> None:
    sequences = texts(seed)
    assert learn_pairs(sequences, alphabet=6, vocabulary=40) == naive_learn(sequences, 6, 40)


@pytest.mark.parametrize("seed", range(2))
def test_learning_and_merging_agree_with_the_tokenizers_library(seed: int) -> None:
    sequences = texts(seed, count=100)
    merges = learn_pairs(sequences, alphabet=6, vocabulary=60)
    pairs = PairEncoding.from_merges(6, merges)
    letters = [chr(ord("a") + symbol) for symbol in range(6)]
    theirs = Tokenizer(models.BPE())
    written = ["".join(letters[symbol] for symbol in row) for row in sequences]
    theirs.train_from_iterator(
        written,
        trainers.BpeTrainer(
            vocab_size=60, min_frequency=2, show_progress=False, special_tokens=[], initial_alphabet=letters
        ),
    )
    spelled = ["".join(letters[symbol] for symbol in piece) for piece in pairs.pieces]
    assert theirs.get_vocab() == {text: token for token, text in enumerate(spelled)}
    for row, text in zip(texts(seed + 100), ["".join(letters[s] for s in row) for row in texts(seed + 100)]):
        assert pairs.merge(row.tolist()) == theirs.encode(text).ids


LEARNED = PairEncoding.from_merges(4, [(0, 0), (4, 4), (5, 1), (1, 2), (7, 0), (0, 3), (4, 0)])


@given(st.lists(st.integers(0, 3), max_size=60))
def test_what_is_merged_expands_to_itself(symbols: list[int]) -> None:
    pairs = LEARNED
    assert pairs.expand(pairs.merge(symbols)) == symbols


def test_no_pair_reaches_over_the_end_of_a_sequence() -> None:
    sequences = np.array([[0, 1], [0, 1], [0, 1]])  # 1 0 would come twice if they were joined
    assert learn_pairs(sequences, alphabet=2, vocabulary=10) == [(0, 1)]


def test_runs_are_replaced_from_left_to_right() -> None:
    pairs = PairEncoding.from_merges(1, [(0, 0)])
    assert pairs.merge([0] * 5) == [1, 1, 0]
    assert learn_pairs(np.zeros((2, 5), np.int64), alphabet=1, vocabulary=4) == naive_learn(
        np.zeros((2, 5), np.int64), 1, 4
    )


def test_two_ways_to_the_same_symbols_are_one_token() -> None:
    pairs = PairEncoding.from_merges(3, [(0, 1), (1, 2), (3, 2), (0, 4)])
    assert pairs.pieces[-1] == (0, 1, 2)
    assert len(pairs) == 6


def test_progress_is_told_and_learning_stops_when_nothing_repeats() -> None:
    told: list[tuple[int, int]] = []
    merges = learn_pairs(
        np.array([[0, 1, 2, 0, 1]]), alphabet=3, vocabulary=10, progress=lambda *parts: told.append(parts)
    )
    assert merges == [(0, 1)]
    assert told == [(4, 10)]


def test_merges_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="only 2 exist"):
        PairEncoding.from_merges(2, [(0, 2)])
    with pytest.raises(ValueError, match="twice"):
        PairEncoding.from_merges(2, [(0, 1), (0, 1)])
