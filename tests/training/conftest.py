"""A tiny data set and a call that trains on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from killable_run import Material, open_material

from visuomotor.data.synthetic import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "set", episodes=4, ticks=10)


@pytest.fixture
def material(dataset: Path) -> Callable[..., Material]:
    """Opens policy, loader and statistics anew, as another process would."""
    return lambda **config: open_material(dataset, **config)
