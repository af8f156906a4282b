from __future__ import annotations

import pytest
from executor_chunks import chunk

from visuomotor.executors import RealTime, trained_real_time


def promised(executor: RealTime, tick: int) -> tuple[list[float], int] | None:
    promise = executor.promise(tick)
    return None if promise is None else (promise.actions[:, 0].tolist(), promise.delay)


def test_the_first_chunk_continues_nothing() -> None:
    assert RealTime(4).promise(0) is None


def test_the_rest_of_the_chunk_is_handed_on_with_the_measured_delay() -> None:
    executor = RealTime(4)
    executor.promise(0)
    executor.accept(chunk(0, list(range(10))), 2)  # took 2 ticks
    assert executor.delay == 2
    assert [executor.wants(tick) for tick in range(2, 6)] == [False, False, True, True]
    assert promised(executor, 4) == ([4, 5, 6, 7, 8, 9], 2)


def test_a_policy_trained_for_it_is_given_only_what_will_have_run() -> None:
    executor = trained_real_time(4)
    executor.promise(0)
    executor.accept(chunk(0, list(range(10))), 2)
    assert promised(executor, 4) == ([4, 5], 2)
    executor.reset()
    executor.promise(0)
    executor.accept(chunk(0, list(range(10))), 0)
    assert executor.promise(4) is None  # no delay: nothing will have run


def test_the_largest_of_the_last_delays_is_expected() -> None:
    executor = RealTime(1, memory=2)
    for start, delay in ((0, 1), (4, 3), (8, 2)):
        executor.promise(start)
        executor.accept(chunk(start, [0] * 10), start + delay)
    assert executor.delay == 3
    executor.promise(12)
    executor.accept(chunk(12, [0] * 10), 13)
    assert executor.delay == 2
    executor.reset()
    assert executor.delay == 0


def test_it_asks_earlier_if_the_chunk_would_be_used_up() -> None:
    executor = RealTime(8)
    executor.promise(0)
    executor.accept(chunk(0, list(range(10))), 4)
    assert [executor.wants(tick) for tick in range(4, 8)] == [False, False, True, True]
    assert promised(executor, 6) == ([6, 7, 8, 9], 4)


def test_no_more_is_promised_than_there_is() -> None:
    executor = RealTime(3)
    executor.promise(0)
    executor.accept(chunk(0, [1, 2, 3, 4], mask=[True, True, True, False]), 3)
    assert promised(executor, 2) == ([3], 1)


def test_bad_settings_and_short_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="execute must be at least 1"):
        RealTime(0)
    with pytest.raises(ValueError, match="memory must be at least 1"):
        RealTime(1, memory=0)
    with pytest.raises(ValueError, match="Did you mean 'chunk'"):
        RealTime(1, reach="chunks")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 2 actions"):
        RealTime(3).accept(chunk(0, [1, 2]), 0)
