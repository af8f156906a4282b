"""What a person sees while a command works and when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Bars", "rate", "table"]


class Bars:
    """Progress on stderr: a bar for each part of the work, or now and then a line where nobody watches.

    A context manager; an instance is the function that work calls to tell how far it is.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._watched = console.is_terminal
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> Bars:
        if self._watched:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watched:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` of `what` is done."""
        if self._watched:
            if what not in self._bars:
                self._bars[what] = self._progress.add_task(what, total=total, note=note)
            self._progress.update(self._bars[what], completed=done, total=total, note=note)
            return
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenths.get(what, -1):
            self._tenths[what] = tenth
            self._console.print(f"{what}: {done} of {total} {note}".rstrip(), highlight=False, markup=False)


def rate(result: Mapping[str, Any]) -> str:
    """A rate with its interval and its n, in words."""
    return (
        f"{100 * result['rate']:.1f} % of {result['n']} "
        f"(95 % interval {100 * result['low']:.1f} to {100 * result['high']:.1f} %)"
    )


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
