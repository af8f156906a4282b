"""Worker processes that each build one station and then do whatever tasks come.

Processes are spawned, so that nothing is inherited half-made, and compute with one thread each. A
task goes to the worker that is free, and answers come back in any order; what a task answers may
depend on nothing but the task, so the number of workers changes nothing but the time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from visuomotor.errors import VisuomotorError, portable

__all__ = ["Pool", "available_cores", "one_thread"]

Station = TypeVar("Station")
Answer = TypeVar("Answer")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch within the block, if torch is loaded; then as many as before."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _one_thread_for_children() -> Iterator[None]:
    """Processes started within the block compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Pool(Generic[Station]):
    """`build()` in each of `workers` processes, or in this one if `workers` is 0; a context manager.

    Args:
        build: Makes what tasks are given; must be picklable.
        workers: Number of processes.
    """

    def __init__(self, build: Callable[[], Station], workers: int) -> None:
        if workers < 0:
            raise ValueError(f"expected 0 workers (this process) or more, got {workers}.")
        self._build = build
        self._workers: list[_Worker] = []
        self._station: Station | None = None
        context = multiprocessing.get_context("spawn")
        with _one_thread_for_children():
            for number in range(workers):
                self._workers.append(_Worker(context, number, build))

    def __enter__(self) -> Pool[Station]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        tasks: Sequence[Callable[[Station], Answer]],
        done: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """The answer of each task, in the order of `tasks`.

        Args:
            tasks: Picklable callables that are given a station.
            done: Called in this process with place and answer of each task as it is done.

        Raises:
            VisuomotorError: A worker died.
            Exception: What a task raised.
        """
        answers: dict[int, Any] = {}

        def take(place: int, answer: Any) -> None:
            answers[place] = answer
            if done is not None:
                done(place, answer)

        if self._workers:
            self._spread(tasks, take)
        else:
            for place, task in enumerate(tasks):
                take(place, self._here(task))
        return [answers[place] for place in range(len(tasks))]

    def close(self) -> None:
        """End every process; what it was doing is lost."""
        for worker in self._workers:
            worker.stop()
        self._workers = []
        if self._station is not None:
            getattr(self._station, "close", lambda: None)()
            self._station = None

    def _here(self, task: Callable[[Station], Answer]) -> Answer:
        if self._station is None:
            self._station = self._build()
        with one_thread():
            return task(self._station)

    def _spread(self, tasks: Sequence[Callable[[Station], Answer]], take: Callable[[int, Any], None]) -> None:
        """Hand tasks to free workers until every answer is in."""
        open_tasks = iter(enumerate(tasks))
        for worker in self._workers:
            worker.give(next(open_tasks, None))
        while busy := [worker for worker in self._workers if worker.place is not None]:
            ready = wait([worker.pipe for worker in busy] + [worker.process.sentinel for worker in busy])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    place, answer = worker.collect()
                    take(place, answer)
                    worker.give(next(open_tasks, None))


class _Worker:
    """One process and what it is busy with."""

    def __init__(self, context: Any, number: int, build: Callable[[], Any]) -> None:
        self.number = number
        self.place: int | None = None
        self.answered = 0
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, build), daemon=True, name=f"evaluation worker {number}"
        )
        self.process.start()
        theirs.close()

    def give(self, item: tuple[int, Callable[[Any], Any]] | None) -> None:
        """Hand over one task, or none."""
        if item is None:
            return
        self.place, task = item
        try:
            self.pipe.send(task)
        except BrokenPipeError:  # it died; `collect` says how
            return

    def collect(self) -> tuple[int, Any]:
        """Place and answer of the task at hand; raises what it raised."""
        assert self.place is not None
        try:
            answer, error, trace = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        place, self.place = self.place, None
        self.answered += 1
        if error is not None:
            raise error from RuntimeError(f"in {self.process.name}:\n{trace}")
        return place, answer

    def _died(self) -> VisuomotorError:
        self.process.join(5)
        code = self.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        if self.answered == 0:
            hint = (
                "It had not finished anything yet. A script that evaluates must do so under "
                '`if __name__ == "__main__":`; or run with workers=0 to see the error in this process.'
            )
        else:
            hint = "Was memory short? Try fewer workers; with an output folder, finished episodes are kept."
        return VisuomotorError(f"evaluation worker {self.number} died ({how}). {hint}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


def _work(pipe: Connection, build: Callable[[], Any]) -> None:
    """Main function of a worker: answer tasks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    station = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        message: tuple[Any, Exception | None, str]
        try:
            if station is None:
                station = build()
            with one_thread():
                message = (task(station), None, "")
        except Exception as error:
            message = (None, portable(error), traceback.format_exc())
        try:
            pipe.send(message)
        except BrokenPipeError:
            return
