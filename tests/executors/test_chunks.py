from __future__ import annotations

import numpy as np
import pytest
from executor_chunks import chunk

from visuomotor.executors import (
    Asynchronous,
    Executor,
    OpenLoop,
    RealTime,
    RecedingHorizon,
    TemporalEnsemble,
)
from visuomotor.types import Chunk


@pytest.mark.parametrize(
    "executor", [OpenLoop(), RecedingHorizon(2), TemporalEnsemble(), Asynchronous(), RealTime(2)]
)
def test_every_executor_speaks_the_protocol_and_forgets_on_reset(executor: Executor) -> None:
    assert isinstance(executor, Executor)
    assert executor.wants(0)
    assert executor.action(0) is None
    executor.accept(chunk(0, [1, 2, 3]), 0)
    assert executor.action(0) is not None
    executor.reset()
    assert executor.wants(0)
    assert executor.action(0) is None


def test_open_loop_plays_a_chunk_to_its_end() -> None:
    executor = OpenLoop()
    executor.accept(chunk(0, [1, 2, 3]), 0)
    assert [executor.action(tick)[0] for tick in range(3)] == [1, 2, 3]
    assert [executor.wants(tick) for tick in range(4)] == [False, False, False, True]


def test_receding_horizon_asks_again_after_execute_ticks_and_keeps_the_rest() -> None:
    executor = RecedingHorizon(2)
    executor.accept(chunk(4, [1, 2, 3, 4]), 4)
    assert [executor.wants(tick) for tick in range(4, 9)] == [False, False, True, True, True]
    assert [executor.action(tick)[0] for tick in range(4, 8)] == [1, 2, 3, 4]
    assert executor.action(8) is None
    assert executor.action(3) is None


def test_a_late_chunk_skips_the_actions_whose_tick_has_passed() -> None:
    for executor in (OpenLoop(), RecedingHorizon(2), TemporalEnsemble(), Asynchronous(), RealTime(2)):
        executor.accept(chunk(0, [1, 2, 3, 4]), 2)
        assert executor.action(2)[0] == 3


def test_ticks_without_an_opinion_have_no_action() -> None:
    executor = RecedingHorizon(1)
    executor.accept(chunk(0, [1, 2, 3], mask=[True, False, False]), 0)
    assert executor.action(0)[0] == 1
    assert executor.action(1) is None
    assert executor.wants(1)


def test_the_newest_chunk_counts_however_times_are_rounded() -> None:
    executor = RecedingHorizon(3)
    for start in range(0, 300, 3):
        executor.accept(Chunk(actions=np.full((6, 1), start, np.float32), rate=10.0, time=start * 0.1), start)
        assert executor.action(start)[0] == start
        assert not executor.wants(start + 2)
        assert executor.wants(start + 3)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RecedingHorizon(0)
    with pytest.raises(ValueError, match="only 2 actions"):
        RecedingHorizon(3).accept(chunk(0, [1, 2]), 0)
