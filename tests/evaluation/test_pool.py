from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import pytest

from visuomotor.errors import VisuomotorError
from visuomotor.evaluation.pool import Pool, available_cores


class Bench:
    """What the workers of these tests build."""

    def __init__(self) -> None:
        self.built_in = os.getpid()
        self.closed = False

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Square:
    number: int

    def __call__(self, bench: Bench) -> tuple[int, int, str | None]:
        return self.number**2, bench.built_in, os.environ.get("OMP_NUM_THREADS")


class Odd(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Fail:
    how: str

    def __call__(self, bench: Bench) -> None:
        if self.how == "odd":
            raise Odd(1, "too odd to travel")
        os.abort() if self.how == "abort" else os._exit(0)


def test_answers_come_back_in_the_order_of_the_tasks() -> None:
    seen: dict[int, int] = {}
    with Pool(Bench, 2) as pool:
        answers = pool.run(
            [Square(number) for number in range(20)], lambda place, answer: seen.update({place: answer[0]})
        )
        assert pool.run([]) == []
        more = pool.run([Square(9)])
    assert [answer[0] for answer in answers] == [number**2 for number in range(20)]
    assert seen == {number: number**2 for number in range(20)}
    assert len({answer[1] for answer in answers}) <= 2
    assert os.getpid() not in {answer[1] for answer in answers}
    assert {answer[2] for answer in answers} == {"1"}
    assert more[0][0] == 81


def test_without_workers_everything_happens_here_and_is_closed() -> None:
    with Pool(Bench, 0) as pool:
        answers = pool.run([Square(3), Square(4)])
        bench = pool._station
    assert [answer[:2] for answer in answers] == [(9, os.getpid()), (16, os.getpid())]
    assert bench is not None
    assert bench.closed


def test_an_exception_that_cannot_travel_arrives_as_text() -> None:
    with Pool(Bench, 1) as pool:
        with pytest.raises(RuntimeError, match="Odd: too odd to travel") as caught:
            pool.run([Fail("odd")])
        assert "Traceback" in str(caught.value.__cause__)
        assert pool.run([Square(2)])[0][0] == 4  # the worker lives on


@pytest.mark.parametrize(("how", "said"), [("abort", "signal SIGABRT"), ("exit", "exit code 0")])
def test_a_worker_that_dies_says_how(how: str, said: str) -> None:
    with Pool(Bench, 1) as pool, pytest.raises(VisuomotorError, match=rf"worker 0 died \({said}\)"):
        pool.run([Square(1), Fail(how), Square(2)])


def test_the_environment_of_this_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Pool(Bench, 1):
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert "MKL_NUM_THREADS" not in os.environ
    assert available_cores() >= 1
