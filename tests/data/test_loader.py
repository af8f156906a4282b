from __future__ import annotations

import numpy as np
import pytest
import torch

from visuomotor.data.loader import Loader
from visuomotor.data.windows import Windows
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Diet, Sample, Window


@pytest.fixture
def windows(reader, store):
    return Windows(reader, store, Window(horizon=4), "moves")


def equal(a, b) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("state", "actions", "horizon_mask")
    ) and all(torch.equal(a.images[name], b.images[name]) for name in a.images)


def test_a_batch_is_a_pure_function_of_seed_and_step(windows):
    forwards = [Loader(windows, batch_size=8, seed=3).batch(step) for step in range(20)]
    loader = Loader(windows, batch_size=8, seed=3)
    for step in (17, 2, 19, 0, 2):
        assert equal(loader.batch(step), forwards[step])
    assert not equal(Loader(windows, batch_size=8, seed=4).batch(0), forwards[0])


@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_thread_that_prepares_ahead_changes_nothing(windows, prefetch):
    plain = Loader(windows, batch_size=8, seed=3)
    with Loader(windows, batch_size=8, seed=3, prefetch=prefetch) as loader:
        for step in (0, 1, 2, 9, 10, 3, 4, 4):
            assert equal(loader.batch(step), plain.batch(step))


def test_every_tick_is_shown_once_an_epoch(windows):
    loader = Loader(windows, batch_size=1, seed=0)
    size = len(loader)
    for epoch in range(3):
        states = [loader.batch(step).state[0, 0].numpy() for step in range(epoch * size, (epoch + 1) * size)]
        seen = sorted(map(tuple, np.stack(states).tolist()))
        assert seen == sorted(map(tuple, windows.reader.state.tolist()))


@pytest.fixture
def telling(windows, monkeypatch):
    """A fifth of the ticks tell both keypoints, another fifth one of them."""
    rest = np.arange(len(windows)) % 5
    told = np.stack([rest == 0, rest <= 1], axis=1)
    monkeypatch.setattr(Windows, "told", told)
    return told


def ticks(windows: Windows, state: torch.Tensor) -> list[int]:
    tick = {tuple(row): number for number, row in enumerate(windows.reader.state.tolist())}
    return [tick[tuple(row)] for row in state[:, 0].tolist()]


def test_blind_samples_are_taken_where_something_is_told_and_have_no_pictures(windows, telling):
    loader = Loader(windows, batch_size=4, seed=3, diet=Diet(blind=3))
    plain = Loader(windows, batch_size=4, seed=3)
    hints = np.flatnonzero(telling.any(axis=1))
    shown = []
    for step in range(len(hints)):
        batch = loader.batch(step)
        assert equal(batch, plain.batch(step))  # the others are as they were
        assert len(batch.blind) == 12
        assert (batch.blind.images, batch.blind.image_mask) == ({}, {})
        assert batch.blind.actions.shape == (12, 4, 3)
        shown += ticks(windows, batch.blind.state)
    np.testing.assert_array_equal(np.bincount(shown, minlength=len(windows))[hints], 12)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_share_of_the_pictures_is_taken_from_telling_ticks(windows, telling, size):
    both = telling.all(axis=1)
    loader = Loader(windows, batch_size=size, seed=3, diet=Diet(telling=0.75))
    batches = [ticks(windows, loader.batch(step).state) for step in range(320 // size)]
    assert {len(rows) for rows in batches} == {size}
    rows = np.concatenate(batches)
    assert both[rows].sum() == 240
    counts = np.bincount(rows, minlength=len(windows))
    for kind in (both, ~both):  # each tick as often as all others of its kind
        assert counts[kind].max() - counts[kind].min() <= 1


def test_where_nothing_is_told_ticks_come_as_they_are_and_none_is_blind(windows):
    assert not windows.told.any()  # this body does not tell where its hand is
    plain = Loader(windows, batch_size=8, seed=3)
    picky = Loader(windows, batch_size=8, seed=3, diet=Diet(blind=3, telling=0.75))
    for step in range(5):
        assert equal(plain.batch(step), picky.batch(step))
        assert picky.batch(step).blind is None


@pytest.mark.parametrize("wrong", [{"blind": -1}, {"telling": 1.5}])
def test_an_impossible_diet_is_refused(wrong):
    with pytest.raises(ValueError, match="diet: expected"):
        Diet(**wrong)


def test_batches_reach_over_the_end_of_an_epoch(windows):
    loader = Loader(windows, batch_size=len(windows) - 1, seed=0)
    assert len(loader.batch(1)) == len(windows) - 1
    states = torch.cat([loader.batch(step).state[:, 0] for step in range(len(windows))])
    rows = sorted(map(tuple, states.tolist()))
    assert rows == sorted(list(map(tuple, windows.reader.state.tolist())) * (len(windows) - 1))


class Shift:
    """Adds a constant to every action."""

    def __init__(self, by: float) -> None:
        self.by = by

    def apply(self, sample: Sample) -> Sample:
        from dataclasses import replace

        return replace(sample, actions=sample.actions + np.float32(self.by))

    def invert(self, actions, observation):
        return actions - np.float32(self.by)


def test_each_data_set_runs_through_its_own_pipeline(reader, store):
    parts = [Windows(reader, store, Window(horizon=4), key) for key in ("a", "b")]
    pipelines = {"a": Pipeline([Shift(10)]), "b": Pipeline([Shift(-10)])}
    loader = Loader(parts, pipelines, batch_size=len(reader) * 2, seed=0)
    actions = loader.batch(0).actions[:, 0, 0]
    assert (actions > 5).sum() == (actions < -5).sum() == len(reader)
    with pytest.raises(ValueError, match="unknown data-set key 'b'"):
        Loader(parts, {"a": Pipeline([])}, batch_size=2, seed=0)


def test_an_error_in_the_thread_reaches_the_caller(windows):
    class Broken(Shift):
        def apply(self, sample):
            raise RuntimeError("broken")

    loader = Loader(windows, {"moves": Pipeline([Broken(1)])}, batch_size=2, seed=0, prefetch=2)
    with loader, pytest.raises(RuntimeError, match="broken"):
        loader.batch(0)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 2, "prefetch": -1}])
def test_wrong_sizes_are_refused(windows, arguments):
    with pytest.raises(ValueError, match="batch_size >= 1"):
        Loader(windows, seed=0, **arguments)


def test_weights_decide_how_often_a_data_set_is_seen(reader, store):
    parts = [Windows(reader, store, Window(horizon=4), key) for key in ("a", "b")]
    pipelines = {"a": Pipeline([Shift(10)]), "b": Pipeline([Shift(-10)])}
    loader = Loader(parts, pipelines, batch_size=16, seed=0, weights={"b": 3.0})
    for step in (0, 1, 1000):
        actions = loader.batch(step).actions[:, 0, 0]
        assert abs(int((actions < -5).sum()) - 12) <= 1
    with pytest.raises(ValueError, match="data-set key 'c'"):
        Loader(parts, pipelines, batch_size=16, seed=0, weights={"c": 3.0})


def test_a_diet_holds_for_each_data_set(reader, store, monkeypatch):
    """One tells little, the other all: the little is not shown more often than its data set's share."""
    parts = [Windows(reader, store, Window(horizon=4), key) for key in ("a", "b")]
    rest = np.arange(len(reader)) % 5

    def told(self):
        return np.stack([(rest == 0) | (self.key == "b")] * 2, axis=1)

    monkeypatch.setattr(Windows, "told", property(told))
    pipelines = {"a": Pipeline([Shift(10)]), "b": Pipeline([Shift(-10)])}
    loader = Loader(parts, pipelines, batch_size=64, seed=0, diet=Diet(blind=1, telling=0.75))
    batch = loader.batch(0)
    assert batch.blind is not None
    for actions in (batch.actions, batch.blind.actions):
        assert abs(int((actions[:, 0, 0] > 5).sum()) - 32) <= 2
