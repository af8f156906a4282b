"""One process that prepares batches: `python -m visuomotor.data.worker DESCRIPTORS`, started by `workers.py`.

It imports neither torch nor the script of the user, so it is ready in a fraction of a second.
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection

from visuomotor.data.shared import Slot
from visuomotor.errors import portable

__all__ = ["serve"]


def serve(connection: Connection, common: Slot, slots: list[Slot]) -> None:
    """Answer requests `(step, slot)` with batches until the other end hangs up.

    Args:
        connection: First brings the loader, then requests; takes answers `(step, slot, message, error)`.
        common: Holds the arrays of the loader.
        slots: Take the arrays of batches.
    """
    try:
        loader = common.get(connection.recv_bytes(), copy=False)
        while True:
            step, number = connection.recv()
            try:
                connection.send((step, number, slots[number].put(loader.arrays(step)), None))
            except Exception as error:  # whatever it is, the caller gets to see it
                connection.send((step, number, traceback.format_exc(), portable(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the process that wanted batches is done, or dead
    except Exception as error:
        connection.send((-1, -1, traceback.format_exc(), portable(error)))


if __name__ == "__main__":
    line, memory, *rest = (int(word) for word in sys.argv[1:])
    serve(Connection(line), Slot(memory), [Slot(descriptor) for descriptor in rest])
