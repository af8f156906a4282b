from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from visuomotor.errors import DataError
from visuomotor.policies.base import Term
from visuomotor.training.log import Log, Meter, read_log


def term(total: float, count: float, weight: float = 1.0) -> Term:
    return Term(torch.tensor(total), torch.tensor(count), weight)


def test_means_divide_sums_by_counts_and_not_means_by_steps() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add({"a": term(2.0, 1.0), "b": term(0.0, 0.0, 3.0)}, torch.tensor(1.0))
    meter.add({"a": term(1.0, 5.0), "b": term(4.0, 2.0, 3.0)}, torch.tensor(3.0))
    assert meter.means() == {"loss": 0.5 + 3 * 2, "terms": {"a": 0.5, "b": 2.0}, "gradient_norm": 2.0}
    again = Meter(torch.device("cpu"))
    again.restore(json.loads(json.dumps(meter.to_json())))
    for one in (meter, again):
        one.add({"a": term(0.1, 3.0), "b": term(0.0, 0.0, 3.0)}, torch.tensor(0.1))
    assert again.means() == meter.means()


def test_a_term_that_counted_nothing_is_left_out() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add({"a": term(2.0, 1.0), "b": term(0.0, 0.0)}, torch.tensor(1.0))
    assert meter.means()["terms"] == {"a": 2.0}
    assert meter.means()["loss"] == 2.0


def test_a_resumed_log_is_cut_off_at_its_step(tmp_path: Path) -> None:
    log = Log(tmp_path, step=0)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1 / step})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]
    size = (tmp_path / "events.out.tfevents.0000000000.visuomotor").stat().st_size
    log = Log(tmp_path, step=20)
    assert log.last["step"] == 20
    log.write({"step": 25, "loss": 0.5})
    log.close()
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 25]
    assert (tmp_path / "events.out.tfevents.0000000000.visuomotor").stat().st_size == size
    assert len(list(tmp_path.iterdir())) == 2


def test_a_log_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nx\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"log\.jsonl: line 2"):
        read_log(tmp_path)
