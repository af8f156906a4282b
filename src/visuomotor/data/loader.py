"""Batches as a pure function of (seed, step), so that training resumes anywhere without any state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from visuomotor.data.collate import collate
from visuomotor.data.windows import Windows
from visuomotor.errors import unknown_name
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Sample

__all__ = ["Loader"]


class Loader:
    """Shuffled batches of one or several data sets.

    Each epoch shows every tick once, in an order of its own; a batch may reach from one epoch into
    the next, so all batches have the same size.

    Args:
        windows: Samples, one `Windows` a data set.
        pipelines: Data-set key to the pipeline that each of its samples runs through; None leaves
            samples as they are.
        batch_size: Samples a batch.
        seed: Decides the order, together with the number of the epoch.
        embodiments: Body names in the order of `Batch.embodiment`; sorted names of the data if None.
        prefetch: Batches that a thread prepares ahead while the caller computes; 0 prepares each
            when it is asked for. The batches are the same.
    """

    def __init__(
        self,
        windows: Windows | Sequence[Windows],
        pipelines: Mapping[str, Pipeline] | None = None,
        *,
        batch_size: int,
        seed: int,
        embodiments: Sequence[str] | None = None,
        prefetch: int = 0,
    ) -> None:
        if batch_size < 1 or prefetch < 0:
            raise ValueError(
                f"loader: expected batch_size >= 1 and prefetch >= 0, got {batch_size} and {prefetch}."
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
        self._order: dict[int, np.ndarray] = {}
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._ahead: dict[int, Future[Batch]] = {}

    def __len__(self) -> int:
        """Samples an epoch."""
        return int(self._starts[-1])

    def batch(self, step: int) -> Batch:
        """The batch of an optimizer step; equal seed and step give an equal batch."""
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
        positions = step * self.batch_size + np.arange(self.batch_size)
        rows = [self._permutation(int(p) // len(self))[int(p) % len(self)] for p in positions]
        return [self._sample(int(row)) for row in rows]

    def close(self) -> None:
        """Stop the thread that prepares ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, step: int) -> Batch:
        return collate(self.samples(step), self.embodiments)

    def _sample(self, row: int) -> Sample:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        windows = self.windows[part]
        sample = windows[row - int(self._starts[part])]
        return sample if self.pipelines is None else self.pipelines[windows.key].apply(sample)

    def _permutation(self, epoch: int) -> np.ndarray:
        """Order of an epoch; the last two are kept, as a batch may need both."""
        if epoch not in self._order:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
            self._order = {known: kept for known, kept in self._order.items() if known >= epoch - 1} | {
                epoch: order
            }
        return self._order[epoch]
