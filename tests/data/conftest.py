from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.store import FrameStore
from visuomotor.data.synthetic import make_dataset


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Nobody pulls the plug while tests run; waiting for the disk would take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visuomotor.data.files.os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set that no test writes to."""
    return make_dataset(tmp_path_factory.mktemp("synthetic") / "moves", episodes=5)


@pytest.fixture(scope="session")
def reader(dataset: Path) -> LeRobotReader:
    return LeRobotReader(dataset)


@pytest.fixture(scope="session")
def store(reader: LeRobotReader, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return FrameStore.of(reader, tmp_path_factory.mktemp("cache"))
