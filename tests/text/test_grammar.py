from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.text.grammar import Lexicon, Words, count, expand, sample, slots

LEXICON = Lexicon(
    words={
        "put": Words(seen=("put", "place", "lay"), held_out=("stash",)),
        "thing": Words(seen=("{color} cube", "cube")),
        "color": Words(seen=("red", "ruby"), held_out=("scarlet", "cherry")),
    }
)
TEMPLATE = "please {put} the {thing} on the {thing}"
SEED = st.integers(0, 10**9)


def test_slots_are_found_in_order() -> None:
    assert slots(TEMPLATE) == ("put", "thing", "thing")
    assert slots("no slot") == ()


@pytest.mark.parametrize("held_out", [False, True])
def test_count_is_the_number_of_expansions(held_out: bool) -> None:
    sentences = list(expand(TEMPLATE, LEXICON, held_out=held_out))
    assert len(sentences) == len(set(sentences)) == count(TEMPLATE, LEXICON, held_out=held_out)
    assert len(sentences) == (4 * 5 * 5 if held_out else 3 * 3 * 3)


@given(seed=SEED, held_out=st.sampled_from([0.0, 0.5, 1.0]))
def test_samples_are_expansions(seed: int, held_out: float) -> None:
    sentence, new = sample(TEMPLATE, LEXICON, np.random.default_rng(seed), held_out=held_out)
    assert sentence in set(expand(TEMPLATE, LEXICON, held_out=True))
    assert new == sum(word in sentence for word in ("stash",)) + sum(
        sentence.count(word) for word in ("scarlet", "cherry")
    )
    assert (sentence in set(expand(TEMPLATE, LEXICON))) == (new == 0)


@given(seed=SEED)
def test_equal_seeds_give_equal_sentences(seed: int) -> None:
    first, second = (sample(TEMPLATE, LEXICON, np.random.default_rng(seed), held_out=0.3) for _ in range(2))
    assert first == second


def test_every_expansion_is_drawn_sooner_or_later() -> None:
    generator = np.random.default_rng(0)
    drawn = {sample(TEMPLATE, LEXICON, generator)[0] for _ in range(400)}
    assert drawn == set(expand(TEMPLATE, LEXICON))


def test_the_plain_word_comes_as_often_as_asked() -> None:
    for plain in (0.0, 0.7, 1.0):
        lexicon = Lexicon(words=LEXICON.words, plain=plain)
        generator = np.random.default_rng(0)
        share = np.mean([sample("{put}", lexicon, generator)[0] == "put" for _ in range(400)])
        assert abs(share - plain) < 0.07  # three standard deviations


def test_wrong_slots_and_words_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'color'"):
        sample("{colour}", LEXICON, np.random.default_rng(0))
    with pytest.raises(ValueError, match="none twice"):
        Words(seen=("a", "b"), held_out=("a",))
    with pytest.raises(ValueError, match="at least one"):
        Words(seen=())
    with pytest.raises(ValueError, match="plain"):
        Lexicon(plain=1.5)
