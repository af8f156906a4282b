"""Measuring beside a program that needs an environment of its own: one of both works at a time, on one core.

The other side is a script of this folder that calls `peers.serve.serve`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Peer", "Times", "alternate", "note", "one_core", "timed"]

HERE = Path(__file__).parent
Times = dict[str, list[float]]
"""What was measured -> one number a round."""


class Peer:
    """Another program, in its own process and environment; idle while it is not asked.

    Args:
        python: Interpreter of its environment.
        script: Its script in this folder.
        log: Where its stdout and stderr go.
    """

    def __init__(self, python: str, script: str, log: Path) -> None:
        ours, theirs = os.pipe()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [python, str(HERE / script), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                pass_fds=[theirs],
                text=True,
                env=environment,
            )
        os.close(theirs)
        self._answers = os.fdopen(ours)
        self._log = log

    def __call__(self, do: str, **request: Any) -> dict[str, Any]:
        """Have something done, and its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        line = self._answers.readline()
        if not line:
            code = self._process.wait()  # only then is everything in its log
            last = "\n".join(self._log.read_text().splitlines()[-12:])
            raise RuntimeError(f"{do}: the other process ended with code {code}:\n{last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        """Let it end: there will be no more requests."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Seconds on the wall, and of the processor, that a call takes."""
    began, cpu = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


@contextmanager
def one_core(peer: Peer, core: int) -> Iterator[None]:
    """Both processes on the same core, one after the other."""
    every = sorted(os.sched_getaffinity(0))
    _pin([core])
    peer("cores", cores=[core])
    try:
        yield
    finally:
        _pin(every)
        peer("cores", cores=every)


def _pin(cores: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def note(times: Times, name: str, answer: Mapping[str, float], amount: float | None = None) -> None:
    """Keep what a round took: seconds, or with an amount the rate a second; beside it by CPU time."""
    for what, key in ((name, "seconds"), (f"{name} (CPU)", "cpu")):
        if key in answer:
            taken = max(answer[key], 1e-9)
            times.setdefault(what, []).append(taken if amount is None else amount / taken)


def alternate(
    times: Times, rounds: int, sides: Mapping[str, Callable[[], Mapping[str, float]]], calls: int = 1
) -> None:
    """Seconds a call of every side, in turn; each round begins with another side.

    Args:
        times: Where they are kept.
        rounds: How often every side has its turn, after one turn that is not kept.
        sides: Name -> a turn of `calls` calls.
        calls: Of one turn.
    """
    order = list(sides.items())
    for number in range(rounds + 1):
        for name, turn in order[number % len(order) :] + order[: number % len(order)]:
            answer = turn()
            if number:
                note(times, name, {what: taken / calls for what, taken in answer.items()})
