from __future__ import annotations

import pytest
from executor_chunks import chunk

from visuomotor.executors import Asynchronous, Overlap


def test_it_asks_when_the_queue_is_short() -> None:
    executor = Asynchronous(0.7)
    executor.accept(chunk(0, list(range(10))), 0)
    # 10 waiting at tick 0, 7 at tick 3, 6 at tick 4; 6 / 10 < 0.7
    assert [executor.wants(tick) for tick in range(6)] == [False, False, False, False, True, True]


def test_a_threshold_of_0_waits_for_the_empty_queue_and_1_never_waits() -> None:
    for threshold, expected in ((0.0, [False, False, False, True]), (1.0, [False, True, True, True])):
        executor = Asynchronous(threshold)
        executor.accept(chunk(0, [1, 2, 3]), 0)
        assert [executor.wants(tick) for tick in range(4)] == expected


@pytest.mark.parametrize(
    ("overlap", "share"),
    [("latest_only", 1.0), ("weighted_average", 0.7), ("average", 0.5), ("conservative", 0.3)],
)
def test_actions_for_one_tick_are_merged_by_the_named_rule(overlap: Overlap, share: float) -> None:
    executor = Asynchronous(overlap=overlap)
    executor.accept(chunk(0, [0, 0, 0, 0]), 0)
    executor.accept(chunk(1, [10, 10, 10, 10]), 2)  # one tick late: its first action is over
    assert [executor.action(tick)[0] for tick in (2, 3)] == pytest.approx([10 * share] * 2)
    assert executor.action(4)[0] == 10  # nothing waited there
    assert executor.action(1) is None
    assert executor.action(5) is None


def test_a_masked_action_leaves_the_old_one_alone() -> None:
    executor = Asynchronous(overlap="latest_only")
    executor.accept(chunk(0, [1, 2, 3]), 0)
    executor.accept(chunk(0, [7, 8, 9], mask=[True, False, True]), 0)
    assert [executor.action(tick)[0] for tick in range(3)] == [7, 2, 9]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        Asynchronous(1.5)
    with pytest.raises(ValueError, match="Did you mean 'average'"):
        Asynchronous(overlap="averag")  # type: ignore[arg-type]
