from __future__ import annotations

import numpy as np
import pytest

from visuomotor.types import Observation, Sample


@pytest.fixture
def make_sample():
    def make(state: np.ndarray, actions: np.ndarray | None, instruction: str = "lift the cube") -> Sample:
        ticks = None if actions is None else np.ones(len(actions), dtype=bool)
        return Sample(
            images={"front": np.zeros((1, 4, 4, 3), np.uint8)},
            image_mask={"front": np.ones(1, dtype=bool)},
            state=state,
            history_mask=np.ones(len(state), dtype=bool),
            state_mask=np.ones(state.shape[1], dtype=bool),
            instruction=instruction,
            embodiment="arm",
            actions=actions,
            horizon_mask=ticks,
        )

    return make


@pytest.fixture
def observation() -> Observation:
    return Observation(images={}, state=np.zeros((1, 2), np.float32), instruction="", embodiment="arm")
