"""Intervals and tests for success counts: a rate is never shown without its n and its interval.

Written with the standard library and NumPy. Exact where that is cheap; every function names its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

__all__ = [
    "Difference",
    "Proportion",
    "SequentialResult",
    "bootstrap_median",
    "clopper_pearson",
    "evidence_above",
    "evidence_below",
    "holm",
    "mcnemar",
    "newcombe",
    "newcombe_paired",
    "paired_difference",
    "proportion",
    "sequential_test",
    "wilson",
]


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A success rate with its 95 % Wilson interval.

    Attributes:
        rate: successes / n.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Episodes.
        successes: Episodes that succeeded.
    """

    rate: float
    low: float
    high: float
    n: int
    successes: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two agents on the same episodes: the difference of their success rates, second minus first.

    Attributes:
        difference: Rate of the second minus rate of the first.
        low: Lower end of Newcombe's 95 % interval.
        high: Upper end of it.
        p_value: Exact McNemar test, two-sided, of "both are equally good".
        n: Pairs.
        both: Pairs in which both succeeded.
        only_first: Pairs in which only the first succeeded.
        only_second: Pairs in which only the second succeeded.
        neither: Pairs in which both failed.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


def _check_counts(successes: int, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got successes={successes}, n={n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion: all p that a two-sided normal test would not reject.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    _check_counts(successes, n, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else center - half  # exactly 0 and 1 at the ends, whatever the rounding
    high = 1.0 if successes == n else center + half
    return low, high


def proportion(successes: int, n: int, confidence: float = 0.95) -> Proportion:
    """The rate with its Wilson interval."""
    low, high = wilson(successes, n, confidence)
    return Proportion(rate=successes / n, low=low, high=high, n=n, successes=successes)


def _log_binomial(n: int, p: float) -> np.ndarray:
    """log P(k successes of n) for k = 0 .. n, for 0 < p < 1."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    return log_choose + k * math.log(p) + (n - k) * math.log1p(-p)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where the increasing `function` crosses 0 between `low` and `high`."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion: covers at least `confidence` for every p, wider than Wilson's.

    Source: Clopper and Pearson 1934, Biometrika 26, 404-413.
    """
    _check_counts(successes, n, confidence)
    tail = (1 - confidence) / 2

    def at_least(p: float) -> float:
        return float(np.exp(_log_binomial(n, p)[successes:]).sum())

    def at_most(p: float) -> float:
        return float(np.exp(_log_binomial(n, p)[: successes + 1]).sum())

    low = 0.0 if successes == 0 else _bisect(lambda p: at_least(p) - tail, 0.0, 1.0)
    high = 1.0 if successes == n else _bisect(lambda p: tail - at_most(p), 0.0, 1.0)
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two agents are equally good, from the pairs on which they differ.

    Given `only_first + only_second` such pairs, the count of one side is binomial(1/2) if the agents
    are equal; the p-value is twice the smaller tail. Source: McNemar 1947, Psychometrika 12, 153-157.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}.")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: calling those below alpha real errs anywhere with probability at most alpha.

    In ascending order the i-th of m p-values is multiplied by m - i + 1, and none may fall below the one
    before it. Nothing is assumed of how the tests depend on one another.
    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}.")
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def newcombe(
    first_successes: int, first_n: int, second_successes: int, second_n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of (second rate - first rate) for independent episodes, from the two Wilson intervals.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    return _hybrid(first_successes, first_n, second_successes, second_n, 0.0, confidence)


def newcombe_paired(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of (second rate - first rate) when both agents played the same episodes.

    As `newcombe`, with the correlation phi of the two outcomes; its numerator is corrected for
    continuity when positive. Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    margins = first * (n - first) * second * (n - second)
    phi = 0.0
    if margins > 0:
        numerator = both * neither - only_first * only_second
        phi = (max(numerator - n / 2, 0.0) if numerator > 0 else numerator) / math.sqrt(margins)
    return _hybrid(first, n, second, n, phi, confidence)


def _hybrid(a: int, n: int, b: int, m: int, phi: float, confidence: float) -> tuple[float, float]:
    """Interval of b/m - a/n from two Wilson intervals with correlation `phi` between the rates."""
    (low_a, high_a), (low_b, high_b) = wilson(a, n, confidence), wilson(b, m, confidence)
    rate_a, rate_b = a / n, b / m
    down_a, up_a, down_b, up_b = rate_a - low_a, high_a - rate_a, rate_b - low_b, high_b - rate_b
    below = math.sqrt(max(down_b**2 - 2 * phi * down_b * up_a + up_a**2, 0.0))
    above = math.sqrt(max(up_b**2 - 2 * phi * up_b * down_a + down_a**2, 0.0))
    difference = rate_b - rate_a
    return max(difference - below, -1.0), min(difference + above, 1.0)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two agents by their outcomes on the same episodes in the same order."""
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(
            f"expected equally many outcomes of the same episodes, got {len(first)} and {len(second)}."
        )
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    both, only_first = pairs.count((True, True)), pairs.count((True, False))
    only_second, neither = pairs.count((False, True)), pairs.count((False, False))
    low, high = newcombe_paired(both, only_first, only_second, neither)
    return Difference(
        difference=(only_second - only_first) / len(pairs),
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
        n=len(pairs),
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
    )


_MIXTURE = 64  # alternatives that the betting mixes; more change the evidence by less than a percent


def evidence_above(successes: int, n: int, bar: float) -> float:
    """How many times more likely the counts are under "above `bar`" than under `bar`: an e-value.

    Mean of the likelihood ratios of q against `bar` over a grid of q in (bar, 1). Under every p <= bar
    each ratio is a supermartingale that starts at 1, so is their mean, and by Ville's inequality it
    ever reaches 1/alpha with probability at most alpha, however often one looks.

    Source: Ville 1939; Waudby-Smith and Ramdas 2024, J. R. Stat. Soc. B 86, 1-27 (betting).
    """
    if not 0 < bar < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 < bar < 1 and 0 <= successes <= n, got bar={bar}, {successes} of {n}.")
    q = bar + (1 - bar) * (np.arange(_MIXTURE) + 0.5) / _MIXTURE
    log_ratio = successes * np.log(q / bar) + (n - successes) * np.log((1 - q) / (1 - bar))
    top = float(log_ratio.max())
    return math.exp(min(top, 700.0)) * float(np.exp(log_ratio - top).mean())


def evidence_below(successes: int, n: int, bar: float) -> float:
    """The same for "below `bar`": valid under every p >= bar."""
    return evidence_above(n - successes, n, 1 - bar)


@dataclass(frozen=True, kw_only=True)
class SequentialResult:
    """Answer of `sequential_test`.

    Attributes:
        decision: "above" or "below" the bar, or "open" when the episodes so far do not decide.
        n: Episodes used: those up to the decision, or all.
        evidence_above: Evidence after `n` episodes that the rate is above the bar.
        evidence_below: Evidence after `n` episodes that it is below.
    """

    decision: Literal["above", "below", "open"]
    n: int
    evidence_above: float
    evidence_below: float


def sequential_test(outcomes: Sequence[bool], bar: float, alpha: float = 0.05) -> SequentialResult:
    """Stop as soon as the outcomes prove the success rate above or below `bar`.

    One may look after every episode: a rate at or below the bar is called "above" with probability
    at most `alpha`, and the other way round (see `evidence_above`).

    Args:
        outcomes: In the order in which they were played.
        bar: The rate in question, strictly between 0 and 1.
        alpha: Accepted probability of each of the two wrong calls.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}.")
    above = below = 1.0
    successes = 0
    for n, outcome in enumerate(outcomes, start=1):
        successes += bool(outcome)
        above, below = evidence_above(successes, n, bar), evidence_below(successes, n, bar)
        if max(above, below) >= 1 / alpha:
            decision: Literal["above", "below"] = "above" if above > below else "below"
            return SequentialResult(decision=decision, n=n, evidence_above=above, evidence_below=below)
    return SequentialResult(decision="open", n=len(outcomes), evidence_above=above, evidence_below=below)


def bootstrap_median(
    values: Sequence[float], *, generator: np.random.Generator, confidence: float = 0.95, draws: int = 2000
) -> tuple[float, float, float]:
    """Median of `values` with its percentile bootstrap interval: (median, low, high).

    Source: Efron 1979, Annals of Statistics 7, 1-26.
    """
    if len(values) == 0:
        raise ValueError("bootstrap: expected at least one value, got none.")
    data = np.asarray(values, np.float64)
    medians = np.median(data[generator.integers(len(data), size=(draws, len(data)))], axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.median(data)), float(low), float(high)
