"""Ctrl-C and SIGTERM as a wish that is granted at the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Interrupt", "watch_signals"]


@dataclass
class Interrupt:
    """Whether someone asked to stop, and with which signal."""

    asked: bool = False
    signal: int | None = None


@contextmanager
def watch_signals() -> Iterator[Interrupt]:
    """Notes the first SIGINT or SIGTERM; a second one acts as it did before the block.

    Outside the main thread, which alone receives signals, nothing is watched.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.asked, interrupt.signal = True, number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        restore()
