"""Instructions reach a policy in the form that it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calibrated import body

from visuomotor.data.collate import collate
from visuomotor.perception.language import Language, LanguageConfig
from visuomotor.testing.samples import random_sample
from visuomotor.types import Batch, Window


def words(language: Language, *instructions: str) -> Batch:
    sample = random_sample(body("arm"), Window(horizon=2), "one", 0)
    (transform,) = language.transform(None)
    return collate([transform.apply(replace(sample, instruction=said)) for said in instructions], ["arm"])


def test_unknown_reader_names_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'minilm'"):
        LanguageConfig(reader="minilmm")  # type: ignore[arg-type]


def test_minilm_without_sentences_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match="SentenceCache"):
        Language(LanguageConfig()).transform(None)


def test_words_have_states_and_padding_has_none() -> None:
    torch.manual_seed(0)
    language = Language(LanguageConfig.tiny())
    states, mask = language(words(language, "lift it", "lift it now"))
    assert mask.sum(1).tolist() == [2, 3]
    assert not torch.equal(states[0, 1], states[1, 1])  # a neighbor is heard


def test_no_language_is_no_word_and_no_transform() -> None:
    language = Language(LanguageConfig.none())
    assert language.transform(None) == ()
    assert language.encoder is None
    states, mask = language(words(Language(LanguageConfig.tiny()), "lift it"))
    assert states.shape == (1, 1, 384)
    assert not mask.any()


def test_a_batch_without_words_says_what_to_run() -> None:
    batch = replace(words(Language(LanguageConfig.tiny()), "lift"), tokens=None)
    for language in (Language(LanguageConfig.tiny()), Language(LanguageConfig())):
        with pytest.raises(ValueError, match="transforms"):
            language(batch)
