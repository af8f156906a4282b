from __future__ import annotations

import numpy as np
import pytest

from visuomotor.codecs.base import DecodeFailure
from visuomotor.data.chunks import action_chunks, fit_fast
from visuomotor.data.frames import VideoFrames
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.synthetic import make_dataset
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.transforms.normalize import Normalize
from visuomotor.types import Window


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> LeRobotReader:
    return LeRobotReader(make_dataset(tmp_path_factory.mktemp("data") / "set", episodes=4))


def test_chunks_are_the_actions_of_the_samples(reader: LeRobotReader) -> None:
    windows = Windows(reader, VideoFrames(reader), Window(horizon=5), "set")
    chunks = action_chunks(reader, 5)
    assert len(chunks) == len(windows)
    for tick, chunk in enumerate(chunks):
        np.testing.assert_array_equal(chunk, windows.blind(tick).actions)


def test_chunks_of_some_episodes(reader: LeRobotReader) -> None:
    first, second = (episode.length for episode in reader.episodes[:2])
    np.testing.assert_array_equal(
        action_chunks(reader, 3, episodes=[1]), action_chunks(reader, 3)[first : first + second]
    )


def test_the_codec_of_a_data_set_decodes_its_normalized_actions(reader: LeRobotReader) -> None:
    told: list[int] = []
    codec = fit_fast([reader], horizon=4, vocabulary=120, progress=lambda done, _: told.append(done))
    assert told
    assert codec.to_json() == fit_fast([reader], horizon=4, vocabulary=120).to_json()
    for chunk in Normalize.from_stats(reader.stats, mode="quantile").normalized(action_chunks(reader, 4)):
        back = codec.decode(codec.encode(chunk))
        assert not isinstance(back, DecodeFailure)
        assert np.abs(back - chunk).max() <= codec.rounding_bound


def test_the_normalization_is_that_of_the_policy_and_chunks_are_thinned(reader: LeRobotReader) -> None:
    def fixed(of: LeRobotReader) -> Normalize:
        return Normalize.from_stats(of.stats, mode="min_max")

    low, high = fit_fast([reader], horizon=2, vocabulary=120, normalize=fixed, most=10**6).limits
    np.testing.assert_allclose([low.min(), high.max()], [-1, 1], atol=1e-6)
    few = fit_fast([reader, reader], horizon=2, vocabulary=120, most=6)
    assert few.vocabulary < fit_fast([reader], horizon=2, vocabulary=120).vocabulary


def test_no_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="one width"):
        fit_fast([], horizon=2)
