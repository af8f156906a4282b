from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.store import FrameStore
from visuomotor.data.synthetic import make_dataset
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.types import Window


@given(
    history=st.lists(st.integers(-15, -1), max_size=3, unique=True),
    horizon=st.integers(1, 20),
    where=st.floats(0, 1, exclude_max=True),
)
def test_samples_equal_a_slow_reference(reader, store, history, horizon, where):
    window = Window(history=(*sorted(history), 0), horizon=horizon)
    windows = Windows(reader, store, window, "moves")
    row = int(where * len(windows))
    sample = windows[row]
    episode = next(e for e in reader.episodes if e.start <= row < e.start + e.length)
    for slot, offset in enumerate(window.history):
        source = max(row + offset, episode.start)
        assert sample.history_mask[slot] == (row + offset >= episode.start)
        np.testing.assert_array_equal(sample.state[slot], reader.state[source])
        for camera, frames in store.frames.items():
            np.testing.assert_array_equal(sample.images[camera][slot], frames[source])
            assert sample.image_mask[camera][slot] == sample.history_mask[slot]
    last = episode.start + episode.length - 1
    for slot in range(horizon):
        assert sample.horizon_mask[slot] == (row + slot <= last)
        np.testing.assert_array_equal(sample.actions[slot], reader.actions[min(row + slot, last)])
    assert sample.instruction == reader.instruction(row)
    assert sample.time == pytest.approx((row - episode.start) / 10)
    assert (sample.key, sample.embodiment) == ("moves", "cursor")
    assert sample.state_mask.all()
    assert sample.action_mask.all()


def test_labels_and_not_executed_actions_are_learned(reader, store):
    windows = Windows(reader, store, Window(horizon=1), "moves")
    np.testing.assert_array_equal(windows[3].actions[0], reader.actions[3])
    assert (reader.actions[3] != reader.executed[3]).any()
    assert windows[3].executed is None  # nobody asked


def test_what_ran_comes_along_when_it_is_asked_for(reader, store):
    windows = Windows(reader, store, Window(horizon=4, executed=True), "moves")
    end = reader.episodes[0].length
    np.testing.assert_array_equal(windows[3].executed, reader.executed[3:7])
    np.testing.assert_array_equal(windows[end - 2].executed, reader.executed[[end - 2, *[end - 1] * 3]])
    np.testing.assert_array_equal(windows[end - 2].actions, reader.actions[[end - 2, *[end - 1] * 3]])


def test_only_chosen_episodes_are_shown(reader, store):
    windows = Windows(reader, store, Window(horizon=2), "moves", episodes=[3, 1])
    third, first = reader.episodes[3], reader.episodes[1]
    assert len(windows) == third.length + first.length
    np.testing.assert_array_equal(windows[0].state[0], reader.state[third.start])
    np.testing.assert_array_equal(windows[-1].state[0], reader.state[first.start + first.length - 1])
    assert len(Windows(reader, store, Window(horizon=2), "moves", episodes=[])) == 0


def test_samples_cannot_be_written_through_to_the_data(reader, store):
    sample = Windows(reader, store, Window(horizon=2), "moves")[0]
    with pytest.raises(ValueError, match="read-only"):
        sample.images["front"][:] = 0


def test_indices_beyond_the_end_raise(reader, store):
    windows = Windows(reader, store, Window(horizon=2), "moves")
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_store_of_other_data_is_refused(tmp_path, store):
    other = LeRobotReader(make_dataset(tmp_path / "other", episodes=2))
    with pytest.raises(DataError, match="do not belong to"):
        Windows(other, store, Window(horizon=2), "other")
    assert FrameStore.of(other, tmp_path / "cache").frames.keys() == store.frames.keys()


def test_a_blind_sample_is_the_same_without_cameras(reader, store):
    windows = Windows(reader, store, Window(horizon=3), "moves")
    blind, whole = windows.blind(7), windows[7]
    assert (blind.images, blind.image_mask) == ({}, {})
    for name in ("state", "actions", "horizon_mask", "action_mask", "instruction", "time"):
        np.testing.assert_array_equal(getattr(blind, name), getattr(whole, name))
