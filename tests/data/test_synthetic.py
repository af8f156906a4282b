from __future__ import annotations

import numpy as np

from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.synthetic import SPEC, make_dataset, make_episode


def test_it_is_seeded(tmp_path):
    first, second, other = (
        LeRobotReader(make_dataset(tmp_path / name, episodes=2, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 5))
    )
    assert first.hash == second.hash != other.hash
    assert other.seeds == {5, 6}


def test_actions_lead_to_the_square_that_the_sentence_names():
    for seed in range(10):
        episode = make_episode(seed, ticks=20)
        assert episode.actions[-1, 2] == 1  # arrived, grips
        assert np.abs(episode.actions[:, :2]).max() <= SPEC.action[0].high
