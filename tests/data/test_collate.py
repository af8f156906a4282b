from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from visuomotor.data.collate import collate
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.types import Sample, Tokens, Window


@pytest.fixture
def samples(reader, store) -> list[Sample]:
    windows = Windows(reader, store, Window(history=(-1, 0), horizon=4), "moves")
    return [windows[row] for row in (0, 5, 11)]


def test_values_arrive_unchanged(samples):
    batch = collate(samples, ["cursor"])
    assert len(batch) == 3
    for row, sample in enumerate(samples):
        for camera in sample.images:
            assert batch.images[camera].dtype == torch.uint8
            np.testing.assert_array_equal(batch.images[camera][row].numpy(), sample.images[camera])
        np.testing.assert_array_equal(batch.state[row].numpy(), sample.state)
        np.testing.assert_array_equal(batch.actions[row].numpy(), sample.actions)
        np.testing.assert_array_equal(batch.horizon_mask[row].numpy(), sample.horizon_mask)
        np.testing.assert_array_equal(batch.history_mask[row].numpy(), sample.history_mask)
    assert batch.has_actions.tolist() == [True] * 3
    assert batch.sentence is None
    assert batch.tokens is None


def test_bodies_are_numbered_as_asked(samples):
    batch = collate([samples[0], replace(samples[1], embodiment="arm")], ["arm", "cursor"])
    assert batch.embodiment.tolist() == [1, 0]
    with pytest.raises(ValueError, match="unknown embodiment 'cursor'"):
        collate(samples, ["arm"])


def test_sentences_are_padded_with_mask_false(samples):
    sentences = [np.full((length, 5), length, np.float32) for length in (2, 4)]
    batch = collate(
        [
            replace(samples[0], sentence=sentences[0]),
            replace(samples[1], sentence=sentences[1], sentence_mask=np.array([True, True, True, False])),
            samples[2],
        ],
        ["cursor"],
    )
    assert batch.sentence.shape == (3, 4, 5)
    assert batch.sentence_mask.tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [False] * 4,
    ]
    assert batch.sentence[0, :, 0].tolist() == [2, 2, 0, 0]


def test_samples_without_actions_get_zeros_and_false(samples):
    silent = replace(samples[1], actions=None, horizon_mask=None, action_mask=None)
    batch = collate([samples[0], silent], ["cursor"])
    assert batch.has_actions.tolist() == [True, False]
    assert not batch.actions[1].any()
    assert not batch.horizon_mask[1].any()
    assert not batch.action_mask[1].any()
    assert collate([silent], ["cursor"]).actions is None


def test_the_action_mask_is_kept_while_acting(samples):
    acting = [replace(sample, actions=None, horizon_mask=None) for sample in samples]
    batch = collate(acting, ["cursor"])
    assert batch.actions is None
    assert batch.action_mask.tolist() == [[True] * 3] * 3
    assert collate([replace(sample, action_mask=None) for sample in acting], ["cursor"]).action_mask is None


def test_tokens_are_padded_and_neither_attended_nor_trained(samples):
    def tokens(count: int) -> Tokens:
        ones = np.ones(count, bool)
        return Tokens(ids=np.arange(1, count + 1), attend=ones, loss=ones, segment=np.ones(count, np.int64))

    batch = collate(
        [replace(samples[0], tokens=tokens(2)), replace(samples[1], tokens=tokens(3)), samples[2]], ["cursor"]
    )
    assert batch.tokens.ids.tolist() == [[1, 2, 0], [1, 2, 3], [0, 0, 0]]
    assert (
        batch.tokens.attend.tolist()
        == batch.tokens.loss.tolist()
        == [
            [True, True, False],
            [True] * 3,
            [False] * 3,
        ]
    )


def test_what_does_not_fit_together_is_named(samples):
    wide = replace(samples[1], state=np.zeros((2, 9), np.float32), key="other")
    with pytest.raises(DataError, match=r"state: expected equal shapes.*'moves'.*'other'"):
        collate([samples[0], wide], ["cursor"])
    blind = replace(samples[1], images={}, image_mask={}, key="other")
    with pytest.raises(DataError, match="'other' has cameras"):
        collate([samples[0], blind], ["cursor"])


def test_collation_copies(samples):
    batch = collate(samples, ["cursor"])
    batch.images["front"].zero_()
    assert samples[0].images["front"].any()


def test_what_ran_is_the_actions_where_a_sample_does_not_tell(samples):
    assert collate(samples, ["cursor"]).executed is None
    ran = samples[0].actions + 1
    batch = collate([replace(samples[0], executed=ran), samples[1]], ["cursor"])
    np.testing.assert_array_equal(batch.executed[0].numpy(), ran)
    np.testing.assert_array_equal(batch.executed[1].numpy(), samples[1].actions)
