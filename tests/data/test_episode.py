from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from visuomotor.data.episode import EpisodeRecorder
from visuomotor.data.synthetic import SPEC
from visuomotor.errors import DataError
from visuomotor.types import Observation


def look(**changes) -> Observation:
    images = {c.name: np.zeros((1, c.height, c.width, 3), np.uint8) for c in SPEC.cameras}
    observation = Observation(
        images=images, state=np.zeros((1, 3), np.float32), instruction="find red", embodiment="cursor"
    )
    return replace(observation, **changes)


ACTION = np.zeros(3, np.float32)


def test_the_newest_tick_of_a_history_is_recorded():
    recorder = EpisodeRecorder(SPEC)
    images = {c.name: np.zeros((2, c.height, c.width, 3), np.uint8) for c in SPEC.cameras}
    recorder.tick(look(images=images, state=np.array([[1, 1, 1], [2, 3, 4]], np.float32)), ACTION)
    assert recorder.finish().state.tolist() == [[2, 3, 4]]


def test_changing_the_arguments_later_changes_nothing():
    recorder, action = EpisodeRecorder(SPEC), np.ones(3, np.float32)
    recorder.tick(look(), action)
    action[:] = 7
    assert recorder.finish().actions.tolist() == [[1, 1, 1]]


def test_words_of_a_tick_can_differ_from_those_observed():
    recorder = EpisodeRecorder(SPEC)
    recorder.tick(look(), ACTION)
    recorder.tick(look(), ACTION, instruction="the red one")
    assert recorder.finish().instructions == ("find red", "the red one")


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (
            look(state=np.full((1, 3), np.nan, np.float32)),
            ACTION,
            "tick 0: state x, y, gripper is not a number",
        ),
        (look(), np.array([0, np.inf, 0], np.float32), "tick 0: action dy is not a number"),
        (look(), np.zeros(4, np.float32), r"tick 0: expected action of shape \(3,\), got \(4,\)"),
        (look(images={"front": look().images["front"]}), ACTION, "no picture of camera 'wrist'"),
        (look(instruction=" "), ACTION, "expected an instruction"),
    ],
)
def test_bad_ticks_are_refused(observation, action, message):
    with pytest.raises(DataError, match=message):
        EpisodeRecorder(SPEC).tick(observation, action)


@pytest.mark.parametrize("given", [ACTION, None])
def test_executed_actions_come_with_every_tick_or_none(given):
    recorder = EpisodeRecorder(SPEC)
    recorder.tick(look(), ACTION, given)
    with pytest.raises(DataError, match="at every tick of an episode or at none"):
        recorder.tick(look(), ACTION, None if given is not None else ACTION)


def test_an_episode_has_ticks():
    with pytest.raises(DataError, match="at least one tick"):
        EpisodeRecorder(SPEC).finish()
