from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.executors import Executor, OpenLoop, RecedingHorizon, TemporalEnsemble, make_executor
from visuomotor.types import Chunk

RATE = 5.0


def chunk(start: int, values: list[float], mask: list[bool] | None = None) -> Chunk:
    actions = np.array([[value, -value] for value in values], np.float32)
    return Chunk(
        actions=actions, rate=RATE, time=start / RATE, mask=None if mask is None else np.array(mask, bool)
    )


@pytest.mark.parametrize("executor", [OpenLoop(), RecedingHorizon(2), TemporalEnsemble()])
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
    for executor in (OpenLoop(), RecedingHorizon(2), TemporalEnsemble()):
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


@given(
    st.floats(-1, 1),
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=6, unique_by=lambda x: x[0]
    ),
    st.integers(0, 12),
)
def test_temporal_ensemble_is_the_weighted_mean_of_the_paper(
    coefficient: float, chunks: list[tuple[int, int]], tick: int
) -> None:
    executor = TemporalEnsemble(coefficient)
    for start, length in sorted(chunks):
        executor.accept(chunk(start, [10 * start + i for i in range(length)]), start)
    votes = [10 * start + tick - start for start, length in sorted(chunks) if start <= tick < start + length]
    action = executor.action(tick)
    if not votes:
        assert action is None
    elif tick >= max(start for start, _ in chunks):  # of earlier ticks the chunks may be dropped
        weights = [np.exp(-coefficient * i) for i in range(len(votes))]
        expected = sum(w * v for w, v in zip(weights, votes)) / sum(weights)
        assert action[0] == pytest.approx(expected, rel=1e-5)  # the result is float32


def test_temporal_ensemble_favors_the_oldest_even_if_chunks_arrive_out_of_order() -> None:
    executor = TemporalEnsemble(1.0)
    executor.accept(chunk(1, [10, 10]), 1)
    executor.accept(chunk(0, [0, 0, 0]), 1)
    assert executor.action(1)[0] == pytest.approx(10 * np.exp(-1) / (1 + np.exp(-1)))


def test_temporal_ensemble_asks_every_tick_or_less_often() -> None:
    executor = TemporalEnsemble(every=2)
    executor.accept(chunk(0, [1, 1, 1, 1]), 0)
    assert [executor.wants(tick) for tick in range(5)] == [False, False, True, True, True]


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RecedingHorizon(0)
    with pytest.raises(ValueError, match="at least 1"):
        TemporalEnsemble(every=0)
    with pytest.raises(ValueError, match="only 2 actions"):
        RecedingHorizon(3).accept(chunk(0, [1, 2]), 0)


def test_executors_are_made_by_name() -> None:
    assert make_executor("receding_horizon", horizon=16).execute == 8
    assert make_executor("receding_horizon", horizon=1).execute == 1
    assert make_executor("temporal_ensemble", horizon=16).every == 1
    assert isinstance(make_executor("open_loop", horizon=16), OpenLoop)
    with pytest.raises(ValueError, match="Did you mean 'open_loop'"):
        make_executor("openloop", horizon=16)
    with pytest.raises(ValueError, match="between 1 and the horizon 16"):
        make_executor("receding_horizon", horizon=16, execute=17)
    assert isinstance(make_executor("open_loop", horizon=16, execute=16), OpenLoop)
    with pytest.raises(ValueError, match="all 16 actions"):
        make_executor("open_loop", horizon=16, execute=4)
