"""Batches as a pure function of (seed, step), so that training resumes anywhere without any state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Any

import numpy as np

from visuomotor.data.collate import stack, to_tensors
from visuomotor.data.windows import Windows
from visuomotor.data.workers import Workers
from visuomotor.errors import unknown_name
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Diet, Sample

__all__ = ["Loader"]

_ALL, _TELLING, _OTHERS, _BLIND = range(4)  # make the orders of one seed differ


class Loader:
    """Shuffled batches of one or several data sets.

    Each epoch shows every tick once, in an order of its own; a batch may reach from one epoch into
    the next, so all batches have the same size. A diet with a share of telling ticks makes two such
    orders of it, that of the telling ticks and that of the others.

    Args:
        windows: Samples, one `Windows` a data set.
        pipelines: Data-set key to the pipeline that each of its samples runs through; None leaves
            samples as they are.
        batch_size: Samples a batch.
        seed: Decides the order, together with the number of the epoch.
        embodiments: Body names in the order of `Batch.embodiment`; sorted names of the data if None.
        diet: Whether blind samples come along, and which ticks are preferred.
        prefetch: Batches that a thread prepares ahead while the caller computes; 0 prepares each
            when it is asked for. The batches are the same.
        workers: Processes that prepare batches ahead, two each, instead of that thread; 0 for none. They
            pay where a batch costs more than the network needs for it, as when pictures are decoded
            from videos, and where there are cores for them. The batches are the same.
    """

    def __init__(
        self,
        windows: Windows | Sequence[Windows],
        pipelines: Mapping[str, Pipeline] | None = None,
        *,
        batch_size: int,
        seed: int,
        embodiments: Sequence[str] | None = None,
        diet: Diet | None = None,
        prefetch: int = 0,
        workers: int = 0,
    ) -> None:
        if batch_size < 1 or prefetch < 0 or workers < 0:
            raise ValueError(
                f"loader: expected batch_size >= 1, prefetch >= 0 and workers >= 0, got {batch_size}, "
                f"{prefetch} and {workers}."
            )
        self.windows = (windows,) if isinstance(windows, Windows) else tuple(windows)
        self.pipelines = pipelines
        for part in self.windows:
            if pipelines is not None and part.key not in pipelines:
                raise unknown_name("data-set key", part.key, pipelines)
        self.batch_size = batch_size
        self.seed = seed
        bodies = sorted({part.reader.spec.embodiment for part in self.windows})
        self.embodiments = tuple(bodies if embodiments is None else embodiments)
        self._starts = np.cumsum([0, *(len(part) for part in self.windows)])
        diet = diet or Diet()
        told = np.concatenate([part.told for part in self.windows])
        self._streams = _streams(told, batch_size, diet, seed)
        hints = np.flatnonzero(told.any(axis=1))
        self._blind = batch_size * diet.blind if len(hints) else 0
        self._blind_order = _Order(hints, (seed, _BLIND))
        self._prefetch = 0 if workers else prefetch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader") if self._prefetch else None
        self._ahead: dict[int, Future[Batch]] = {}
        self._workers: Workers | None = None
        if workers:
            self._workers = Workers(self, workers)  # last, as they get a copy of all that is above

    def __len__(self) -> int:
        """Ticks of all data sets."""
        return int(self._starts[-1])

    def batch(self, step: int) -> Batch:
        """The batch of an optimizer step; equal seed and step give an equal batch."""
        if self._workers is not None:
            return to_tensors(self._workers.batch(step))
        if self._pool is None:
            return self._make(step)
        future = self._ahead.pop(step, None)
        wanted = range(step + 1, step + 1 + self._prefetch)
        for old in [known for known in self._ahead if known not in wanted]:
            self._ahead.pop(old).cancel()
        if future is None:
            future = self._pool.submit(self._make, step)
        for coming in wanted:
            if coming not in self._ahead:
                self._ahead[coming] = self._pool.submit(self._make, coming)
        return future.result()

    def samples(self, step: int) -> list[Sample]:
        """The samples of a batch before collation, having run through their pipelines."""
        rows: list[int] = []
        for order, share, whole in self._streams:
            first, end = (whole(n * share) for n in (step, step + 1))
            rows += order.take(first, end - first)
        return [self._sample(row, Windows.__getitem__) for row in rows]

    def blind_samples(self, step: int) -> list[Sample]:
        """Those without pictures that come with them."""
        rows = self._blind_order.take(step * self._blind, self._blind)
        return [self._sample(row, Windows.blind) for row in rows]

    def close(self) -> None:
        """Stop the thread or the processes that prepare ahead."""
        if self._workers is not None:
            self._workers.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def arrays(self, step: int) -> Batch:
        """The same as `batch`, prepared here and now, of NumPy arrays."""
        batch = stack(self.samples(step), self.embodiments)
        if not self._blind:
            return batch
        return replace(batch, blind=stack(self.blind_samples(step), self.embodiments))

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs."""
        return {**vars(self), "_pool": None, "_ahead": {}, "_workers": None}

    def _make(self, step: int) -> Batch:
        return to_tensors(self.arrays(step))

    def _sample(self, row: int, kind: Callable[[Windows, int], Sample]) -> Sample:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        windows = self.windows[part]
        sample = kind(windows, row - int(self._starts[part]))
        return sample if self.pipelines is None else self.pipelines[windows.key].apply(sample)


class _Order:
    """Rows in an endless order, shuffled anew for each epoch; a pure function of the position.

    Args:
        rows: At least one.
        seed: Together with the number of the epoch, what it is shuffled by.
    """

    def __init__(self, rows: np.ndarray, seed: tuple[int, ...]) -> None:
        self.rows, self.seed = rows, seed
        self._epochs: dict[int, np.ndarray] = {}

    def take(self, start: int, count: int) -> list[int]:
        """The rows at positions from `start` on."""
        size = len(self.rows)
        return [int(self._epoch(p // size)[p % size]) for p in range(start, start + count)]

    def _epoch(self, epoch: int) -> np.ndarray:
        """One epoch; the last two are kept, as a batch may need both."""
        if epoch not in self._epochs:
            order = np.random.default_rng([*self.seed, epoch]).permutation(self.rows)
            self._epochs = {known: kept for known, kept in self._epochs.items() if known >= epoch - 1} | {
                epoch: order
            }
        return self._epochs[epoch]


def _streams(
    told: np.ndarray, batch_size: int, diet: Diet, seed: int
) -> list[tuple[_Order, Fraction, Callable[[Fraction], int]]]:
    """Orders of samples with pictures, how many of each make a batch on average, and how that is rounded.

    Batch `n` takes what lies between the shares of `n` and of `n + 1` batches, so that the shares hold
    however small a batch is.
    """
    telling = told.all(axis=1)
    if diet.telling is None or telling.all() or not telling.any():
        return [(_Order(np.arange(len(told)), (seed, _ALL)), Fraction(batch_size), math.floor)]
    share = Fraction(diet.telling).limit_denominator(1000) * batch_size
    first = _Order(np.flatnonzero(telling), (seed, _TELLING))
    second = _Order(np.flatnonzero(~telling), (seed, _OTHERS))
    return [(first, share, math.floor), (second, batch_size - share, math.ceil)]
