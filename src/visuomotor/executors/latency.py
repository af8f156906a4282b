"""How long a chunk is on its way: not at all, always as long, or as long as was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.errors import DataError
from visuomotor.types import ticks

__all__ = ["Latency"]

_GRAIN = 0.001  # seconds; width of the bins of a measured law


@dataclass(frozen=True)
class Latency:
    """A law of delays: each of `seconds` as often as its count says.

    Attributes:
        seconds: Delays, ascending.
        counts: How often each was measured.
    """

    seconds: tuple[float, ...] = (0.0,)
    counts: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", tuple(float(value) for value in self.seconds))
        object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        fits = len(self.seconds) == len(self.counts) > 0
        if not fits or min(self.counts) < 1 or not all(np.isfinite(v) and v >= 0 for v in self.seconds):
            raise ValueError(
                "latency: expected delays in seconds, 0 or more, and as many counts of at least 1, "
                f"got {self.seconds} and {self.counts}."
            )

    @classmethod
    def of(cls, law: float | str | os.PathLike[str] | Mapping[str, Any] | Latency) -> Latency:
        """The law that `law` means: seconds, a file that `save` wrote, or its content.

        Raises:
            ValueError: A delay that is none.
            DataError: A file that is not there or holds something else.
        """
        if isinstance(law, Latency):
            return law
        if isinstance(law, Mapping):
            try:
                return cls(tuple(law["seconds"]), tuple(law["counts"]))
            except (KeyError, TypeError) as error:
                raise DataError(f'latency: expected the keys "seconds" and "counts", got {law}.') from error
        if isinstance(law, (str, os.PathLike)):
            return cls._load(Path(law))
        return cls((law,))

    @classmethod
    def _load(cls, path: Path) -> Latency:
        """The law in a file."""
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise DataError(
                f"latency: cannot read {str(path)!r} ({error.strerror}). "
                "Pass seconds, or the latency.json of an evaluation."
            ) from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"latency: {path} is not JSON. Pass the latency.json of an evaluation."
            ) from error
        return cls.of(content)

    @classmethod
    def measured(cls, seconds: Sequence[float]) -> Latency:
        """The histogram of measured delays, in bins of a millisecond, each taken at its upper end."""
        bins = np.ceil(np.asarray(seconds, np.float64) / _GRAIN - 1e-9).astype(np.int64)
        values, counts = np.unique(bins, return_counts=True)
        return cls(tuple(np.round(values * _GRAIN, 9).tolist()), tuple(counts.tolist()))

    @property
    def mean(self) -> float:
        """Mean delay in seconds."""
        return float(np.average(self.seconds, weights=self.counts))

    def typical(self, rate: float) -> int:
        """Ticks of the mean delay, rounded up."""
        return ticks(self.mean, rate)

    def draw(self, rate: float, generator: np.random.Generator) -> int:
        """Ticks of the next delay, rounded up; a law of one delay draws no number."""
        place = 0
        if len(self.seconds) > 1:
            drawn = generator.integers(sum(self.counts))
            place = int(np.searchsorted(np.cumsum(self.counts), drawn, side="right"))
        return ticks(self.seconds[place], rate)

    def to_json(self) -> float | dict[str, Any]:
        """Plain data for `json.dump`: a number for one delay, else seconds and counts."""
        if len(self.seconds) == 1:
            return self.seconds[0]
        return {"seconds": list(self.seconds), "counts": list(self.counts)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the law, for `Latency.of`."""
        Path(path).write_text(json.dumps({"seconds": list(self.seconds), "counts": list(self.counts)}) + "\n")
