from __future__ import annotations

import pytest

from visuomotor.executors import OpenLoop, default_execute, make_executor


def test_executors_are_made_by_name() -> None:
    assert make_executor("receding_horizon", horizon=16).execute == 8
    assert make_executor("receding_horizon", horizon=1).execute == 1
    assert make_executor("temporal_ensemble", horizon=16).every == 1
    assert make_executor("real_time", horizon=16).execute == 8
    assert make_executor("real_time", horizon=16).reach == "chunk"
    assert make_executor("trained_real_time", horizon=16, execute=3).reach == "delay"
    assert isinstance(make_executor("open_loop", horizon=16), OpenLoop)
    with pytest.raises(ValueError, match="Did you mean 'open_loop'"):
        make_executor("openloop", horizon=16)
    with pytest.raises(ValueError, match="between 1 and the horizon 16"):
        make_executor("receding_horizon", horizon=16, execute=17)
    assert isinstance(make_executor("open_loop", horizon=16, execute=16), OpenLoop)
    with pytest.raises(ValueError, match="all 16 actions"):
        make_executor("open_loop", horizon=16, execute=4)


@pytest.mark.parametrize("execute", [1, 4, 9, 16])
def test_an_asynchronous_executor_asks_after_execute_ticks(execute: int) -> None:
    executor = make_executor("asynchronous", horizon=16, execute=execute)
    executor._horizon, executor._queue = 16, dict.fromkeys(range(16))
    asked = next(tick for tick in range(17) if executor.wants(tick))
    assert asked == execute


def test_the_default_of_an_asynchronous_executor_follows_its_threshold() -> None:
    assert make_executor("asynchronous", horizon=16, options={"threshold": 0.5}).threshold == 0.5
    assert default_execute("asynchronous", 16) == 5
    assert default_execute("asynchronous", 16, {"threshold": 0.5}) == 9
    assert default_execute("asynchronous", 16, {"threshold": 0.0}) == 16
    with pytest.raises(ValueError, match="say the same"):
        make_executor("asynchronous", horizon=16, execute=4, options={"threshold": 0.5})


def test_options_go_to_the_class_and_unknown_ones_are_refused() -> None:
    executor = make_executor("temporal_ensemble", horizon=8, options={"order": "uniform", "coefficient": 0.1})
    assert (executor.order, executor.coefficient) == ("uniform", 0.1)
    assert make_executor("asynchronous", horizon=8, options={"overlap": "average"}).overlap == "average"
    assert make_executor("real_time", horizon=8, options={"memory": 3.0})._delays.maxlen == 3
    with pytest.raises(ValueError, match="Did you mean 'coefficient'"):
        make_executor("temporal_ensemble", horizon=8, options={"coeficient": 0.1})
    with pytest.raises(ValueError, match="unknown option of open_loop 'execute'"):
        make_executor("open_loop", horizon=8, options={"execute": 3})
