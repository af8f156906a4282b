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


def test_blind_samples_come_along_without_pictures(windows):
    loader = Loader(windows, batch_size=4, seed=3, diet=Diet(blind=3))
    plain = Loader(windows, batch_size=4, seed=3)
    shown = []
    for step in range(len(windows)):
        batch = loader.batch(step)
        assert equal(batch, plain.batch(step))  # the others are as they were
        assert len(batch.blind) == 12
        assert (batch.blind.images, batch.blind.image_mask) == ({}, {})
        assert batch.blind.actions.shape == (12, 4, 3)
        shown += map(tuple, batch.blind.state[:, 0].tolist())
    assert sorted(shown) == sorted(list(map(tuple, windows.reader.state.tolist())) * 12)


def test_a_share_of_the_pictures_is_taken_from_telling_ticks(windows, monkeypatch):
    telling = np.arange(len(windows)) % 5 == 0
    monkeypatch.setattr(Windows, "telling", telling)
    loader = Loader(windows, batch_size=8, seed=3, diet=Diet(telling=0.75))
    tick = {tuple(state): row for row, state in enumerate(windows.reader.state.tolist())}
    batches = [[tick[tuple(state)] for state in loader.batch(n).state[:, 0].tolist()] for n in range(40)]
    for rows in batches:
        assert telling[rows].sum() == 6
    counts = np.bincount(np.concatenate(batches), minlength=len(windows))
    for kind in (telling, ~telling):  # each tick as often as all others of its kind
        assert counts[kind].max() - counts[kind].min() <= 1


def test_a_diet_without_telling_ticks_takes_them_as_they_come(windows):
    assert not windows.telling.any()  # this body does not tell where its hand is
    plain = Loader(windows, batch_size=8, seed=3)
    picky = Loader(windows, batch_size=8, seed=3, diet=Diet(telling=0.75))
    for step in range(5):
        assert equal(plain.batch(step), picky.batch(step))


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
