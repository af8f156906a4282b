from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visuomotor.errors import DataError
from visuomotor.testing import RandomSentenceEncoder
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.words import hash_words
from visuomotor.transforms.base import Transform
from visuomotor.transforms.sentence import EncodeSentence, HashWords

STATE = np.zeros((1, 2), np.float32)
SENTENCES = st.lists(st.sampled_from(["put", "the", "Red", "cube", ",", "in", "bowl!"]), max_size=6).map(
    " ".join
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sentence=SENTENCES)
def test_the_encoded_sentence_stands_in_front_of_zeros(make_sample, sentence: str) -> None:
    cache = SentenceCache(RandomSentenceEncoder(width=5))
    sample = EncodeSentence(cache, 12).apply(make_sample(STATE, None, sentence))
    assert sample.sentence.shape == (12, 5)
    assert sample.sentence.dtype == np.float32
    expected = cache.encode(sentence) if sentence else np.zeros((0, 5))
    np.testing.assert_array_equal(sample.sentence[sample.sentence_mask], expected)
    assert (sample.sentence[~sample.sentence_mask] == 0).all()
    count = sample.sentence_mask.sum()
    assert sample.sentence_mask[:count].all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sentence=SENTENCES)
def test_hashed_words_stand_in_front_of_zeros(make_sample, sentence: str) -> None:
    tokens = HashWords(100, 12).apply(make_sample(STATE, None, sentence)).tokens
    np.testing.assert_array_equal(tokens.ids[tokens.attend], hash_words(sentence, 100))
    assert (tokens.ids[~tokens.attend] == 0).all()
    assert not tokens.loss.any()
    assert {tokens.ids.shape, tokens.attend.shape, tokens.loss.shape, tokens.segment.shape} == {(12,)}


def test_a_sentence_that_is_too_long_is_refused_not_cut(make_sample) -> None:
    sample = make_sample(STATE, None, "put the red cube in the bowl")
    for transform in (EncodeSentence(SentenceCache(RandomSentenceEncoder(width=5)), 3), HashWords(100, 3)):
        with pytest.raises(DataError, match="at most 3"):
            transform.apply(sample)


def test_actions_pass_unchanged_and_the_sample_is_not_touched(make_sample, observation) -> None:
    actions = np.ones((3, 2), np.float32)
    for transform in (EncodeSentence(SentenceCache(RandomSentenceEncoder(width=5)), 9), HashWords(100, 9)):
        assert isinstance(transform, Transform)
        sample = make_sample(STATE, actions)
        found = transform.apply(sample)
        assert sample.sentence is None
        assert sample.tokens is None
        assert found.actions is actions
        assert transform.invert(actions, observation) is actions
