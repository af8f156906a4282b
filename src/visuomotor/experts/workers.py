"""One function over many seeds, on many cores, with processes that start fast and die with us.

Workers are spawned, not forked, and import no more than the function needs. They end when their
pipe closes, so that a killed parent leaves none behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType, TracebackType
from typing import Any

from visuomotor.errors import VisuomotorError

__all__ = ["Stop", "run_seeds"]

_QUEUED = 2  # seeds a worker holds, so that it need not wait for the next one
_POLL_SECONDS = 0.2


class Stop:
    """Ctrl-C and SIGTERM, noted while inside; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def run_seeds(
    factory: Callable[[Any], Callable[[int], Any]], argument: Any, *, first: int, workers: int, stop: Stop
) -> Generator[tuple[int, Any], None, None]:
    """(seed, outcome) for `first`, `first` + 1, ... in the order in which they are done, without end.

    Args:
        factory: Called with `argument` once in each process; gives the function of a seed. It must lie
            in a module that can be imported, not in a script.
        argument: Something that can be pickled.
        first: The first seed.
        workers: Processes; 0 runs everything in this one.
        stop: Ends the iteration when asked.
    """
    if workers < 0:
        raise ValueError(f"workers: expected 0 or more, got {workers}.")
    if workers == 0:
        function, seed = factory(argument), first
        while not stop.asked:
            yield seed, function(seed)
            seed += 1
        return
    context = multiprocessing.get_context("spawn")
    pipes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            with _quiet_start():
                process: BaseProcess = context.Process(
                    target=_work, args=(factory, argument, theirs), daemon=True
                )
                process.start()
            theirs.close()
            pipes[ours] = process
        yield from _serve(pipes, first, stop)
    finally:
        for pipe, process in pipes.items():
            process.terminate()
            process.join()
            pipe.close()


def _serve(pipes: dict[Connection, BaseProcess], first: int, stop: Stop) -> Iterator[tuple[int, Any]]:
    """Hand out seeds and yield what comes back."""
    seed = first
    for _ in range(_QUEUED):
        for pipe in pipes:
            _ask(pipe, seed)
            seed += 1
    while not stop.asked:
        ready = set(wait(list(pipes), timeout=_POLL_SECONDS))
        for pipe in [known for known in pipes if known in ready]:
            try:
                number, outcome, failure = pipe.recv()
            except (EOFError, ConnectionError) as error:
                pipes[pipe].join()
                raise VisuomotorError(
                    f"a worker process ended with code {pipes[pipe].exitcode}; the system may have run out "
                    "of memory. What was finished is saved; run again, perhaps with fewer workers."
                ) from error
            if failure is not None:
                raise RuntimeError(f"seed {number} failed in a worker process:\n{failure}")
            _ask(pipe, seed)
            seed += 1
            yield number, outcome


def _ask(pipe: Connection, seed: int) -> None:
    """Hand out a seed. A worker that has ended takes none; why it ended is read from the pipe next."""
    with suppress(ConnectionError):
        pipe.send(seed)


def _work(factory: Callable[[Any], Callable[[int], Any]], argument: Any, pipe: Connection) -> None:
    """What a worker process does until its pipe closes."""
    seed = None
    try:
        function = factory(argument)
        while True:
            seed = pipe.recv()
            pipe.send((seed, function(seed), None))
    except (EOFError, ConnectionError):
        return
    except Exception:
        pipe.send((seed, None, traceback.format_exc()))


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes started inside use one thread each, leave Ctrl-C to this one, and do not run our script.

    Spawning imports the script of the parent in the child, which a script without a guard answers by
    collecting once more; the child needs nothing of it.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # would unblock the signal if it started in between
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
