from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visuomotor.errors import DataError
from visuomotor.executors import Latency


def test_seconds_are_a_law_of_one_delay_that_draws_nothing() -> None:
    law, generator = Latency.of(0.21), np.random.default_rng(0)
    before = generator.bit_generator.state
    assert law.draw(5.0, generator) == law.typical(5.0) == 2
    assert generator.bit_generator.state == before
    assert law.to_json() == 0.21
    assert Latency.of(0).typical(10.0) == 0


def test_delays_are_drawn_as_often_as_they_were_measured() -> None:
    law = Latency((0.1, 0.3), (3, 1))
    generator = np.random.default_rng(0)
    drawn = [law.draw(10.0, generator) for _ in range(4000)]
    assert set(drawn) == {1, 3}
    assert np.mean(np.array(drawn) == 1) == pytest.approx(0.75, abs=0.03)  # four standard errors
    assert law.mean == pytest.approx(0.15)


def test_a_measured_law_survives_its_file(tmp_path: Path) -> None:
    law = Latency.measured([0.0101, 0.0109, 0.02, 0.0401])
    assert law == Latency((0.011, 0.02, 0.041), (2, 1, 1))
    law.save(tmp_path / "latency.json")
    assert Latency.of(tmp_path / "latency.json") == law
    assert Latency.of(str(tmp_path / "latency.json")) == law
    assert Latency.of(json.loads(json.dumps(law.to_json()))) == law
    assert Latency.of(law) is law


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, float("inf")])
def test_what_is_no_delay_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="latency: expected delays in seconds"):
        Latency.of(wrong)


def test_what_is_no_file_of_delays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as many counts"):
        Latency((0.1, 0.2), (1,))
    with pytest.raises(DataError, match=r"latency\.json of an evaluation"):
        Latency.of(tmp_path / "nothing.json")
    (tmp_path / "words.json").write_text("words")
    with pytest.raises(DataError, match="is not JSON"):
        Latency.of(tmp_path / "words.json")
    (tmp_path / "list.json").write_text('{"seconds": [0.1]}')
    with pytest.raises(DataError, match='"seconds" and "counts"'):
        Latency.of(tmp_path / "list.json")
