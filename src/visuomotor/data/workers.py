"""Processes that prepare batches ahead, for when one thread beside the network is not enough.

Each is a fresh interpreter that is told what to do over a socket and answers through shared memory
(`shared.py`). A batch is a pure function of its number, so it does not matter who prepares it. They end
when this process does, in whatever way: their end of the socket is closed by the system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import visuomotor
from visuomotor.data.shared import Slot, open_slot
from visuomotor.errors import VisuomotorError
from visuomotor.types import Batch

__all__ = ["WorkerDied", "Workers"]

_AHEAD = 2  # batches each worker has to do: one in work, one done


class WorkerDied(VisuomotorError):
    """A process that prepared batches ended by itself."""


class Workers:
    """Batches of arrays, prepared by several processes.

    Args:
        loader: Has `arrays(step)`, and everything it needs can be pickled. Its `stride`, if it has one, says
            how far apart the steps are that are asked for one after the other.
        count: Processes.

    Raises:
        ValueError: Something of the loader cannot be sent to another process.
    """

    def __init__(self, loader: Any, count: int) -> None:
        if os.name == "nt":
            raise ValueError("workers: they need POSIX; leave workers=0 on Windows.")
        self._stride = int(getattr(loader, "stride", 1))
        common = Slot(open_slot())
        try:
            task = _packed(loader, common)
            self._workers = [_Worker(number, common, task) for number in range(count)]
        finally:
            common.close()
        self._finalizer = weakref.finalize(self, _stop, self._workers)

    @property
    def processes(self) -> list[int]:
        """Ids of the processes."""
        return [worker.process.pid for worker in self._workers]

    def batch(self, step: int) -> Batch:
        """The batch of a step, of arrays; those of the steps after it are begun.

        Raises:
            WorkerDied: A process ended, killed for its memory, for example.
        """
        coming = range(step, step + self._stride * _AHEAD * len(self._workers), self._stride)
        for worker in self._workers:
            worker.forget(coming)
        for wanted in coming:
            if not any(wanted in worker.steps for worker in self._workers):
                idle = min(self._workers, key=lambda worker: len(worker.steps))
                if idle.free:
                    idle.request(wanted)
        owner = next(worker for worker in self._workers if step in worker.steps)
        return owner.take(step)

    def close(self) -> None:
        """End the processes."""
        self._finalizer()


class _Worker:
    """One process, its socket and its slots of shared memory."""

    def __init__(self, number: int, common: Slot, task: bytes) -> None:
        self._number = number
        self.slots = [Slot(open_slot()) for _ in range(_AHEAD)]
        self.free = list(range(_AHEAD))
        self.steps: dict[int, int] = {}  # step to slot
        self._ready: dict[int, tuple[Any, Exception | None]] = {}
        self.line, other = Pipe()
        inherited = [other.fileno(), common.descriptor, *(slot.descriptor for slot in self.slots)]
        root = str(Path(visuomotor.__file__).parents[1])
        paths = [root, *(path for path in sys.path if path and path != root)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "visuomotor.data.worker", *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            process_group=0,  # Ctrl-C is for the process that is told, which then ends this one
        )
        other.close()
        self._task: bytes | None = task

    def request(self, step: int) -> None:
        """Have a batch prepared."""
        if self._task is not None:
            self._send_bytes(self._task)
            self._task = None
        slot = self.free.pop()
        self.steps[step] = slot
        self._send((step, slot))

    def forget(self, wanted: Sequence[int]) -> None:
        """Drop what is ready or under way for other steps than these."""
        for step in [known for known in self.steps if known not in wanted]:
            self._receive(step)  # its slot is needed
            self._ready.pop(step)
            self.free.append(self.steps.pop(step))

    def take(self, step: int) -> Batch:
        """A batch that was requested, or the error that came instead."""
        self._receive(step)
        slot, (message, error) = self.steps.pop(step), self._ready.pop(step)
        self.free.append(slot)
        if error is not None:
            error.add_note(f"in worker {self._number} of the loader, at step {step}:\n{message}")
            raise error
        batch: Batch = self.slots[slot].get(message, copy=True)
        return batch

    def _receive(self, step: int) -> None:
        """Read answers until that of `step` is there."""
        while step not in self._ready:
            try:
                answered, _, message, error = self.line.recv()
            except (EOFError, ConnectionResetError):
                raise self._died(step) from None
            if answered < 0:  # it did not even get to work
                error.add_note(f"in worker {self._number} of the loader, before its first batch:\n{message}")
                raise error
            self._ready[answered] = message, error

    def _send(self, request: tuple[int, int]) -> None:
        try:
            self.line.send(request)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(request[0]) from None

    def _send_bytes(self, task: bytes) -> None:
        try:
            self.line.send_bytes(task)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(0) from None

    def _died(self, step: int) -> WorkerDied:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        hint = " Perhaps memory ran out: fewer workers need less." if code == -signal.SIGKILL else ""
        return WorkerDied(
            f"worker {self._number} of the loader {how} while it prepared the batch of step {step}.{hint}"
        )


def _packed(loader: Any, common: Slot) -> bytes:
    """The loader for other processes; its arrays go into `common`."""
    try:
        task = common.put(loader)
    except Exception as error:
        raise ValueError(
            f"workers: the loader cannot be sent to another process ({error}). Use transforms that can be "
            "pickled, or workers=0."
        ) from error
    if b"__main__" in task:
        raise ValueError(
            "workers: a transform is defined in the script that is run, which workers do not import. Move it "
            "into a module, or use workers=0."
        )
    return task


def _stop(workers: list[_Worker]) -> None:
    """Hang up, then make sure."""
    for worker in workers:
        worker.line.close()
    for worker in workers:
        try:
            worker.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # in the middle of a batch
            worker.process.kill()
            worker.process.wait()
        for slot in worker.slots:
            slot.close()
