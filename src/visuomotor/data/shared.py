"""Objects with large arrays from process to process: arrays through shared memory, the rest pickled.

The memory has no name, so nothing can be left behind, however the processes end: it is gone with the last
one that holds it. Both ends of a `Slot` are the same open file, which its writer lets grow as needed.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Slot", "open_slot"]

_ALIGN = 64  # bytes: where arrays begin, so that vector instructions like them
_GROW = 1 << 20


def open_slot() -> int:
    """A file descriptor of new shared memory, to be inherited by another process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("visuomotor")
    descriptor, name = tempfile.mkstemp()  # macOS: a file whose name is gone at once
    os.unlink(name)
    return descriptor


class Slot:
    """Shared memory that holds the arrays of one object at a time.

    Args:
        descriptor: What `open_slot` gave, here or in the process that started this one.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def put(self, value: Any) -> bytes:
        """Store the arrays of `value`; the answer, for `get`, tells where they lie and holds the rest."""
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        ends = np.cumsum([-(-view.nbytes // _ALIGN) * _ALIGN for view in views]).tolist()
        places = [(begin, view.nbytes) for begin, view in zip([0, *ends], views)]
        if views and ends[-1] > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, -(-ends[-1] // _GROW) * _GROW)
        memory = self._memory()
        for (begin, size), view in zip(places, views):
            memory[begin : begin + size] = view
        return pickle.dumps((rest, places), protocol=5)

    def get(self, message: bytes, *, copy: bool) -> Any:
        """The object that `put` stored.

        Args:
            message: What `put` gave.
            copy: Whether its arrays get memory of their own; if not, they are read-only and change with
                the next `put`.
        """
        rest, places = pickle.loads(message)
        memory = self._memory()
        parts: Sequence[Any] = [memory[begin : begin + size] for begin, size in places]
        return pickle.loads(rest, buffers=[bytearray(p) if copy else p.toreadonly() for p in parts])

    def close(self) -> None:
        """Give the descriptor back; arrays that were not copied stay good."""
        os.close(self.descriptor)

    def _memory(self) -> memoryview:
        """All of it, also what the other end has added."""
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self.descriptor, size) if size else None
        return memoryview(self._map if self._map is not None else b"")
