"""Running means, and the log that a person, a report and TensorBoard read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.agent.disk import sync
from visuomotor.errors import DataError
from visuomotor.policies.base import Term
from visuomotor.training.events import EventWriter

__all__ = ["Log", "Meter", "Silence", "read_log"]

LOG = "log.jsonl"


class Meter:
    """Means over the steps since the last line of the log, kept on the device: adding costs no waiting."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self.steps = 0
        self._norm = torch.zeros((), dtype=torch.float64, device=self._device)
        self._terms: dict[str, tuple[Tensor, Tensor, float]] = {}

    def add(self, terms: Mapping[str, Term], norm: Tensor) -> None:
        """Take in one optimizer step."""
        self.steps += 1
        self._norm += norm.detach().double()
        for name, term in terms.items():
            total, count, _ = self._terms.get(name, (0.0, 0.0, 0.0))
            self._terms[name] = (total + term.sum.detach().double(), count + term.count.double(), term.weight)

    def means(self) -> dict[str, Any]:
        """ "loss", "terms" and "gradient_norm" as plain numbers; waits for the device."""
        numbers = {
            name: (float(total), float(count), weight) for name, (total, count, weight) in self._terms.items()
        }
        means = {name: total / count for name, (total, count, _) in numbers.items() if count > 0}
        return {
            "loss": sum(numbers[name][2] * mean for name, mean in means.items()),
            "terms": means,
            "gradient_norm": float(self._norm) / max(self.steps, 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data; float64 numbers survive JSON exactly."""
        terms = {
            name: [float(total), float(count), weight] for name, (total, count, weight) in self._terms.items()
        }
        return {"steps": self.steps, "norm": float(self._norm), "terms": terms}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Inverse of `to_json`."""
        self.clear()
        self.steps = data["steps"]
        self._norm += data["norm"]
        for name, (total, count, weight) in data["terms"].items():
            number = torch.tensor([total, count], dtype=torch.float64, device=self._device)
            self._terms[name] = (number[0], number[1], weight)


def read_log(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first; a last line that was cut off by a crash is left out.

    Raises:
        DataError: A line other than the last is damaged.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}: line {number}: expected JSON, got a problem with it: {error}."
            ) from error
    return found


class Log:
    """Appends to log.jsonl and to the event file of a run.

    Args:
        folder: Of the run.
        step: Lines beyond this step are cut off: the run goes on from there.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        lines = [line for line in read_log(folder) if line["step"] <= step]
        path, draft = folder / LOG, folder / f"{LOG}.new"
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sync(draft)
        draft.rename(path)
        self._file = path.open("a")
        self._events = EventWriter(folder, time=lines[0]["time"] if lines else time.time())
        self.last: dict[str, Any] = lines[-1] if lines else {}
        for line in lines:
            self._draw(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line, with "step"; the time is added."""
        self.last = {**line, "time": round(time.time(), 3)}
        self._file.write(json.dumps(self.last) + "\n")
        self._file.flush()
        self._draw(self.last)

    def _draw(self, line: Mapping[str, Any]) -> None:
        """Scalars for TensorBoard."""
        values = {name: value for name, value in line.items() if name not in ("step", "time")}
        self._events.write(line["step"], values, time=line["time"])

    def sync(self) -> None:
        """Bring the log to the disk, as before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish both files."""
        self._file.close()
        self._events.close()


class Silence:
    """The log of a process that does not write one; it knows the last line all the same.

    Args:
        folder: Of the run.
        step: Up to which its lines count.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        lines = [line for line in read_log(folder) if line["step"] <= step]
        self.last: dict[str, Any] = lines[-1] if lines else {}

    def write(self, line: Mapping[str, Any]) -> None:
        """Remember a line."""
        self.last = dict(line)

    def sync(self) -> None:
        """Nothing to bring to the disk."""

    def close(self) -> None:
        """Nothing to finish."""
