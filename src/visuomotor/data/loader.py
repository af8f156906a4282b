"""Batches as a pure function of (seed, step), so that training resumes anywhere without any state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from visuomotor.data.collate import stack, to_tensors
from visuomotor.data.mixture import shares
from visuomotor.data.order import Order, Stream
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.workers import Workers
from visuomotor.errors import unknown_name
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Batch, Diet, Sample

__all__ = ["Loader", "Samples"]

_SEEN, _BLIND = range(2)  # make the orders of one seed differ


@runtime_checkable
class Samples(Protocol):
    """Samples of one data set by number: `Windows`, or `Questions`.

    Attributes:
        reader: The data set.
        key: Its name in `Sample.key`, under which the pipeline is looked up.
    """

    reader: LeRobotReader
    key: str

    @property
    def name(self) -> str:
        """Under which the weight of a mixture is looked up."""
        ...

    @property
    def told(self) -> Bool[np.ndarray, "sample 2"]:
        """Of each sample which keypoints hindsight tells."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """With pictures."""
        ...

    def blind(self, index: int) -> Sample:
        """Without pictures."""
        ...


class Loader:
    """Shuffled batches of one or several data sets.

    Each epoch shows every tick once, in an order of its own; a batch may reach from one epoch into
    the next, so all batches have the same size. With several data sets each has such an order, and every
    batch its share of each (`data/mixture.py`). A diet with a share of telling ticks makes two orders
    of a data set, that of the telling ticks and that of the others.

    Args:
        windows: One `Windows` a data set, and `Questions` that are mixed in.
        pipelines: Data-set key to the pipeline that each of its samples runs through; None leaves
            samples as they are.
        batch_size: Samples a batch.
        seed: Decides the order, together with the number of the epoch.
        embodiments: Body names in the order of `Batch.embodiment`; sorted names of the data if None.
        diet: Whether blind samples come along, and which ticks are preferred.
        weights: Data-set key (`Samples.name`) to how often a sample of it is seen, relative to one of weight
            1; 1 for those left out.
        prefetch: Batches that a thread prepares ahead while the caller computes; 0 prepares each
            when it is asked for. The batches are the same.
        workers: Processes that prepare batches ahead, two each, instead of that thread; 0 for none. They
            pay where a batch costs more than the network needs for it, as when pictures are decoded
            from videos, and where there are cores for them. The batches are the same.
        stride: How far apart the numbers are that are asked for one after the other: as many as there are
            processes that share them.
    """

    def __init__(
        self,
        windows: Samples | Sequence[Samples],
        pipelines: Mapping[str, Pipeline] | None = None,
        *,
        batch_size: int,
        seed: int,
        embodiments: Sequence[str] | None = None,
        diet: Diet | None = None,
        weights: Mapping[str, float] | None = None,
        prefetch: int = 0,
        workers: int = 0,
        stride: int = 1,
    ) -> None:
        if batch_size < 1 or prefetch < 0 or workers < 0 or stride < 1:
            raise ValueError(
                f"loader: expected batch_size >= 1, prefetch >= 0, workers >= 0 and stride >= 1, got "
                f"{batch_size}, {prefetch}, {workers} and {stride}."
            )
        self.stride = stride
        self.windows = tuple(windows) if isinstance(windows, Sequence) else (windows,)
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
        sizes: dict[str, int] = {}
        for part in self.windows:
            sizes[part.name] = sizes.get(part.name, 0) + len(part)
        parts = shares(sizes, weights)
        streams, hints = [], []
        for start, part in zip(self._starts.tolist(), self.windows, strict=False):
            share, told = parts[part.name] * len(part) / max(1, sizes[part.name]), part.told
            streams += _streams(np.all(told, axis=1), start, share, diet.telling)
            hints.append(Stream(start + np.flatnonzero(told.any(axis=1)), share))
        self._order = Order(streams, (seed, _SEEN))
        self._blind = batch_size * diet.blind if any(len(hint.rows) for hint in hints) else 0
        self._blind_order = Order(hints, (seed, _BLIND)) if self._blind else None
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
        wanted = range(step + self.stride, step + 1 + self.stride * self._prefetch, self.stride)
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
        rows = self._order.take(step * self.batch_size, self.batch_size)
        return [self._sample(row) for row in rows]

    def blind_samples(self, step: int) -> list[Sample]:
        """Those without pictures that come with them."""
        rows = [] if self._blind_order is None else self._blind_order.take(step * self._blind, self._blind)
        return [self._sample(row, blind=True) for row in rows]

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

    def _sample(self, row: int, *, blind: bool = False) -> Sample:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        windows = self.windows[part]
        place = row - int(self._starts[part])
        sample = windows.blind(place) if blind else windows[place]
        return sample if self.pipelines is None else self.pipelines[windows.key].apply(sample)


def _streams(telling: np.ndarray, start: int, share: float, preferred: float | None) -> list[Stream]:
    """The samples (sample,) of one data set, from row `start` on, those that tell apart from the others."""
    if preferred is None or telling.all() or not telling.any():
        return [Stream(start + np.arange(len(telling)), share)]
    return [
        Stream(start + np.flatnonzero(telling), share * preferred),
        Stream(start + np.flatnonzero(~telling), share * (1 - preferred)),
    ]
