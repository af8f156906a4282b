"""How much each data set counts, and which sample of which one comes when.

Sets are drawn with probability p = w n / sum(w n), for n samples and weight w, as published for Open
X-Embodiment (Octo 2024, section III-C and appendix; OpenVLA, Kim et al. 2024, appendix A): a weight is how
often a sample is seen, relative to one of a set of weight 1. An epoch ends when each set of weight 1 has
been seen once.

The order is no chance: position `k` belongs to the set in whose share the van der Corput number of `k`
falls (van der Corput 1935), so that every batch has nearly its share of each set. It is a pure function of
weights, seed and position, and needs no state to be resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from visuomotor.errors import unknown_name

__all__ = ["PUBLISHED", "Interleave", "epoch", "shares"]

_PERIOD = 1 << 16  # positions after which the order of the sets repeats; no share is finer than one of them

_SOUP = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
    "language_table": 0.1,
    "stanford_hydra_dataset_converted_externally_to_rlds": 2.0,
    "austin_buds_dataset_converted_externally_to_rlds": 1.0,
    "nyu_franka_play_dataset_converted_externally_to_rlds": 3.0,
    "furniture_bench_dataset_converted_externally_to_rlds": 0.1,
    "ucsd_kitchen_dataset_converted_externally_to_rlds": 2.0,
    "austin_sailor_dataset_converted_externally_to_rlds": 1.0,
    "austin_sirius_dataset_converted_externally_to_rlds": 1.0,
    "dlr_edan_shared_control_converted_externally_to_rlds": 1.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
}
_MORE = {"bc_z": 0.2, "fmb_dataset": 1.0, "dobbe": 0.2}

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "oxe_magic_soup": _SOUP,
    "oxe_magic_soup_plus": {**_SOUP, **_MORE, "droid": 0.06},
    "oxe_magic_soup_plus_minus": {
        name: 1.0 if name == "fractal20220817_data" else weight
        for name, weight in {**_SOUP, **_MORE}.items()
        if name != "language_table"
    },
}
"""Weights of Open X-Embodiment data sets by mixture; OpenVLA ended its training with the last one."""


def shares(samples: Mapping[str, int], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Part of all drawn samples that comes from each data set; they sum to 1.

    Args:
        samples: Data-set key to its number of samples.
        weights: Data-set key to weight; 1 for those left out.

    Raises:
        ValueError: A weight of an unknown data set; not a positive number; no sample at all.
    """
    weights = weights or {}
    for key, weight in weights.items():
        if key not in samples:
            raise unknown_name("data-set key", key, samples)
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"mixture: expected positive weights, got {weight} for {key!r}. Leave a data set out instead."
            )
    sizes = {key: weights.get(key, 1.0) * count for key, count in samples.items()}
    total = sum(sizes.values())
    if total <= 0:
        raise ValueError("mixture: the data sets have no sample.")
    return {key: size / total for key, size in sizes.items()}


def epoch(samples: Mapping[str, int], weights: Mapping[str, float] | None = None) -> int:
    """Samples of an epoch: until each data set of weight 1 was seen; of the largest weight if none has 1."""
    weights = {key: (weights or {}).get(key, 1.0) for key in samples}
    parts = shares(samples, weights)
    whole = 1.0 if 1.0 in weights.values() else max(weights.values())
    return math.ceil(
        max(samples[key] / parts[key] for key in samples if weights[key] == whole and samples[key])
    )


class Interleave:
    """Which stream each position belongs to, and its rank there.

    Args:
        shares: Of each stream, positive; only their ratio counts.
        seed: Which order of those with these shares.
    """

    def __init__(self, shares: Sequence[float], seed: int | Sequence[int]) -> None:
        if not shares or not all(math.isfinite(share) and share > 0 for share in shares):
            raise ValueError(f"mixture: expected positive shares, got {list(shares)}.")
        counts = _counts(np.array(shares) / sum(shares))
        places = (_van_der_corput() + np.random.default_rng(seed).integers(_PERIOD)) % _PERIOD
        self._stream = np.searchsorted(np.cumsum(counts), places, side="right")
        self._rank = np.empty(_PERIOD, np.int64)
        for stream, count in enumerate(counts):
            self._rank[self._stream == stream] = np.arange(count)
        self._counts = counts

    def take(
        self, start: int, count: int
    ) -> tuple[Int64[np.ndarray, " position"], Int64[np.ndarray, " position"]]:
        """Stream, and rank in it, of `count` positions from `start` on."""
        period, place = np.divmod(np.arange(start, start + count), _PERIOD)
        stream = self._stream[place]
        return stream, period * self._counts[stream] + self._rank[place]


def _counts(parts: np.ndarray) -> np.ndarray:
    """Positions of a period that each stream has: at least one, and its share but for rounding."""
    if len(parts) > _PERIOD // 2:
        raise ValueError(f"mixture: expected at most {_PERIOD // 2} streams, got {len(parts)}.")
    counts = np.maximum(1, np.floor(parts * _PERIOD).astype(np.int64))
    while (
        left := _PERIOD - int(counts.sum())
    ) != 0:  # to those that have too little, or from those with too much
        lacks = parts * _PERIOD - counts
        order = np.argsort(-lacks if left > 0 else lacks, kind="stable")
        chosen = [stream for stream in order if left > 0 or counts[stream] > 1][: abs(left)]
        counts[chosen] += np.sign(left)
    return counts


def _van_der_corput() -> Int64[np.ndarray, " position"]:
    """The bits of each position of a period in reverse."""
    numbers, reverse = np.arange(_PERIOD), np.zeros(_PERIOD, np.int64)
    for _ in range(_PERIOD.bit_length() - 1):
        numbers, reverse = numbers >> 1, (reverse << 1) | (numbers & 1)
    return reverse
