"""Questions about pictures, beside demonstrations."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader
from visuomotor.data.questions import Questions
from visuomotor.data.recorder import Recorder
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Observation, Spec, Window

SPEC = Spec(
    embodiment="arm",
    cameras=(Camera(name="front", height=16, width=16), Camera(name="wrist", height=16, width=16)),
    state=(Dimension(name="joint"),),
    action=(Dimension(name="joint"),),
    rate=10.0,
)
WINDOW = Window(history=(-1, 0), horizon=2)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> LeRobotReader:
    """Two episodes of six ticks; every third tick asks, alternately about each camera."""
    folder = tmp_path_factory.mktemp("asked") / "set"
    columns = dict.fromkeys(("question", "answer", "camera"), "string")
    with Recorder(SPEC, folder, columns={**columns, "number": "int64"}) as recorder:
        for episode in range(2):
            for tick in range(6):
                asked = tick % 3 == 0
                shade = 20 * (6 * episode + tick)
                seen = Observation(
                    images={c.name: np.full((1, 16, 16, 3), shade, np.uint8) for c in SPEC.cameras},
                    state=np.array([[float(tick)]], np.float32),
                    instruction="go",
                    embodiment="arm",
                )
                extra = {
                    "question": f"what is at {tick}?" if asked else "",
                    "answer": f"episode {episode}" if asked else "",
                    "camera": ("front" if tick == 0 else "wrist") if asked else "",
                    "number": np.int64(tick),
                }
                recorder.tick(seen, np.array([1.0], np.float32), extra=extra)
            recorder.end_episode()
    return LeRobotReader(folder)


@pytest.fixture
def questions(reader) -> Questions:
    return Questions(reader, VideoFrames(reader), WINDOW, "set")


def test_a_question_shows_its_picture_and_hides_the_state(reader, questions):
    assert len(questions) == 4
    sample = questions[3]  # tick 3 of episode 1, about the wrist
    assert (sample.instruction, sample.answer) == ("what is at 3?", "episode 1")
    assert sample.actions is None
    assert not sample.state.any()
    assert not sample.state_mask.any()
    assert sample.image_mask["wrist"].tolist() == [False, True]
    assert not sample.image_mask["front"].any()
    expected = list(reader.frames(1, "wrist"))[3]
    np.testing.assert_array_equal(sample.images["wrist"][-1], expected)
    assert questions.blind(3).images == {}
    assert Questions(reader, VideoFrames(reader), WINDOW, "set", episodes=[1])[0].answer == "episode 1"


def test_without_a_camera_column_all_are_shown(reader):
    sample = Questions(reader, VideoFrames(reader), WINDOW, "set", camera=None)[0]
    assert all(mask[-1] for mask in sample.image_mask.values())


def test_questions_are_mixed_in_with_their_own_weight(reader, questions):
    windows = Windows(reader, VideoFrames(reader), WINDOW, "set")
    loader = Loader([windows, questions], batch_size=16, seed=0, weights={"set/questions": 3.0})
    assert len(loader) == 12 + 4
    for step in range(4):
        batch = loader.batch(step)
        assert abs(int(batch.has_actions.sum()) - 8) <= 1  # 12 ticks of weight 1, 4 questions of weight 3
        assert not batch.actions[~batch.has_actions].any()
    answers = [sample.answer for sample in loader.samples(0)]
    assert sum(answer is not None for answer in answers) == int((~loader.batch(0).has_actions).sum())


def test_columns_that_are_no_questions_are_refused(reader):
    frames = VideoFrames(reader)
    with pytest.raises(DataError, match=r"expected texts in column 'number'"):
        Questions(reader, frames, WINDOW, "set", question="number")
    with pytest.raises(DataError, match="asked"):
        Questions(reader, frames, WINDOW, "set", question="asked")
    with pytest.raises(DataError, match=r"column 'answer' names \['episode 0', 'episode 1'\]"):
        Questions(reader, frames, WINDOW, "set", camera="answer")
