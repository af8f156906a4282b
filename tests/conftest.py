"""Shapes and types of the whole package are checked while tests run; seeds and threads are set here."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

jaxtyping.install_import_hook("visuomotor", "shape_checking.check")

settings.register_profile("visuomotor", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("visuomotor")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same global random state, though the library itself never draws from it."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the checking off for a test that compiles: the compiler cannot look through it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
