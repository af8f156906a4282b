from __future__ import annotations

import numpy as np
import pytest

from visuomotor.codecs.base import DecodeFailure
from visuomotor.data import chunks as chunks_module
from visuomotor.data.chunks import action_chunks, fit_fast, relative_summary
from visuomotor.data.frames import VideoFrames
from visuomotor.data.labels import ChunkLabels
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.synthetic import make_dataset
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.relative import RelativeActions
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


def test_statistics_of_relative_actions_are_those_of_what_a_policy_learns(reader: LeRobotReader) -> None:
    relative = RelativeActions(action=(0, 1), state=(1, 0))
    windows = Windows(reader, VideoFrames(reader), Window(horizon=5), "set")
    samples = [relative.apply(windows.blind(tick)) for tick in range(len(windows))]
    learned = np.concatenate([sample.actions[sample.horizon_mask] for sample in samples]).astype(np.float64)
    found = relative_summary(reader, 5, relative)
    assert found.count == len(learned) == 5 * len(windows) - 10 * len(reader.episodes)
    for name, expected in (
        ("mean", learned.mean(0)),
        ("std", learned.std(0)),
        ("min", learned.min(0)),
        ("q99", np.quantile(learned, 0.99, axis=0)),
    ):
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-12)
    assert (found.min[:2] < reader.stats["action"].min[:2] - 0.1).all()  # not those of the actions


def test_statistics_of_relative_labels_are_those_of_what_is_known(
    reader: LeRobotReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, ticks = np.random.default_rng(0), len(reader)
    labels = ChunkLabels(
        actions=generator.normal(size=(ticks, 2, 3)).astype(np.float32),
        length=np.arange(ticks) % 3,
        by_expert=np.ones(ticks, bool),
    )
    monkeypatch.setattr(chunks_module, "find_labels", lambda *_: labels)
    found = relative_summary(reader, 2, RelativeActions(action=(2,), state=(0,)))
    moved = labels.actions - np.array([0, 0, 1]) * reader.state[:, None, :1]
    known = np.concatenate([moved[tick, : labels.length[tick]] for tick in range(ticks)])
    np.testing.assert_allclose(found.mean, known.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.max, known.max(0), atol=1e-6)
