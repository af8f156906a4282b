from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.evaluation.statistics import (
    bootstrap_median,
    clopper_pearson,
    evidence_above,
    evidence_below,
    holm,
    mcnemar,
    newcombe,
    newcombe_paired,
    paired_difference,
    proportion,
    sequential_test,
    wilson,
)

COUNTS = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def binomial(n: int, p: float) -> np.ndarray:
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def test_intervals_agree_with_published_examples() -> None:
    # The examples of Newcombe's three papers, Statistics in Medicine 17 (1998), 857, 873 and 2635.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 0.1684), abs=5e-5)
    assert clopper_pearson(1, 29) == pytest.approx((0.0009, 0.1776), abs=5e-5)
    assert newcombe(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe_paired(36, 2, 12, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(COUNTS)
def test_wilson_ends_solve_the_score_equation(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            score = (successes / n - end) / math.sqrt(end * (1 - end) / n)
            assert abs(score) == pytest.approx(1.959964, abs=1e-4)


@given(COUNTS)
def test_intervals_are_symmetric_in_success_and_failure(counts: tuple[int, int]) -> None:
    successes, n = counts
    for interval in (wilson, clopper_pearson):
        low, high = interval(successes, n)
        assert interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(COUNTS)
def test_clopper_pearson_ends_have_exact_tails(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = clopper_pearson(successes, n)
    if successes > 0:
        assert binomial(n, low)[successes:].sum() == pytest.approx(0.025, abs=1e-9)
    if successes < n:
        assert binomial(n, high)[: successes + 1].sum() == pytest.approx(0.025, abs=1e-9)


@pytest.mark.parametrize("n", [10, 50, 100])
def test_intervals_cover_the_truth_as_often_as_they_say(n: int) -> None:
    rates = np.linspace(0.02, 0.98, 97)
    covered = {}
    for interval in (wilson, clopper_pearson):
        ends = [interval(k, n) for k in range(n + 1)]
        covered[interval] = [
            sum(weight for weight, (low, high) in zip(binomial(n, p), ends) if low <= p <= high)
            for p in rates
        ]
    assert min(covered[clopper_pearson]) >= 0.95
    assert np.mean(covered[wilson]) == pytest.approx(0.95, abs=0.01)
    # Coverage goes up and down with the rate, since counts are whole; the deepest dip here is 0.914 (n = 10).
    assert min(covered[wilson]) > 0.91


def test_large_counts_are_no_problem() -> None:
    low, high = clopper_pearson(9_700, 10_000)
    assert 0.96 < low < 0.97 < high < 0.98
    assert wilson(9_700, 10_000) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin(first: int, second: int) -> None:
    n = first + second
    if n <= 12:
        tosses = itertools.product((0, 1), repeat=n)
        extreme = sum(sum(toss) <= min(first, second) for toss in tosses)
        assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * extreme / 2**n))
    assert mcnemar(first, second) == mcnemar(second, first)
    assert 0 < mcnemar(first, second) <= 1


def test_holm_gives_the_values_of_a_worked_example() -> None:
    """Ascending 0.005, 0.01, 0.03, 0.04 become 4, 3, 2 and 1 times as much, never falling (Holm 1979)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_helps_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= more <= 1 for value, more in zip(values, adjusted))
    order = sorted(range(len(values)), key=lambda place: values[place])
    assert [adjusted[place] for place in order] == sorted(adjusted)
    assert min(adjusted) == pytest.approx(min(1.0, len(values) * min(values)))


def test_mcnemar_rejects_equal_agents_at_most_as_often_as_it_says() -> None:
    for n in range(1, 40):
        rejected = sum(binomial(n, 0.5)[k] for k in range(n + 1) if mcnemar(k, n - k) <= 0.05)
        assert rejected <= 0.05


@given(st.tuples(*[st.integers(0, 15)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_intervals_hold_the_difference_and_mirror(cells: tuple[int, int, int, int]) -> None:
    both, first, second, neither = cells
    low, high = newcombe_paired(both, first, second, neither)
    assert -1 <= low <= (second - first) / sum(cells) <= high <= 1
    assert newcombe_paired(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


def test_paired_intervals_cover_the_truth() -> None:
    n = 20
    for truth in (
        (0.8, 0.05, 0.1, 0.05),
        (0.4, 0.2, 0.1, 0.3),
        (0.25, 0.25, 0.25, 0.25),
        (0.9, 0.0, 0.1, 0.0),
    ):
        difference, covered = truth[2] - truth[1], 0.0
        for both, first, second in itertools.product(range(n + 1), repeat=3):
            neither = n - both - first - second
            if neither < 0:
                continue
            cells = (both, first, second, neither)
            ways = math.factorial(n) / math.prod(math.factorial(cell) for cell in cells)
            weight = ways * math.prod(p**cell for p, cell in zip(truth, cells))
            low, high = newcombe_paired(*cells)
            covered += weight * (low <= difference <= high)
        assert covered >= 0.95


def test_paired_outcomes_are_counted() -> None:
    first = [True, True, False, False, True]
    second = [True, False, True, True, True]
    difference = paired_difference(first, second)
    counts = (difference.both, difference.only_first, difference.only_second, difference.neither)
    assert counts == (2, 1, 2, 0)
    assert difference.difference == pytest.approx(0.2)
    assert difference.p_value == mcnemar(1, 2)
    with pytest.raises(ValueError, match="equally many"):
        paired_difference([True], [])


@given(st.floats(0.05, 0.95), st.integers(0, 30), st.integers(0, 30))
def test_evidence_is_the_mean_of_likelihood_ratios(bar: float, successes: int, failures: int) -> None:
    grid = [bar + (1 - bar) * (i + 0.5) / 64 for i in range(64)]
    ratios = [(q / bar) ** successes * ((1 - q) / (1 - bar)) ** failures for q in grid]
    n = successes + failures
    assert evidence_above(successes, n, bar) == pytest.approx(sum(ratios) / 64, rel=1e-9)
    assert evidence_below(failures, n, 1 - bar) == pytest.approx(sum(ratios) / 64, rel=1e-6)


@pytest.mark.parametrize("bar", [0.5, 0.85, 0.95])
def test_looking_after_every_episode_is_rarely_wrong(bar: float) -> None:
    """Exact by enumeration, at the bar itself: the mass that has not yet been called "above"."""
    alpha, called = 0.05, 0.0
    mass = np.ones(1)
    for n in range(1, 151):
        mass = np.concatenate([mass * (1 - bar), [0.0]]) + np.concatenate([[0.0], mass * bar])
        over = np.array([evidence_above(k, n, bar) >= 1 / alpha for k in range(n + 1)])
        called += mass[over].sum()
        mass[over] = 0.0
    assert called <= alpha
    assert called > alpha / 10  # and not by being useless


def test_a_sequential_test_stops_early_when_the_answer_is_clear() -> None:
    good = sequential_test([True] * 200, 0.85)
    assert (good.decision, good.n < 40) == ("above", True)
    bad = sequential_test([False] * 200, 0.85)
    assert (bad.decision, bad.n <= 3) == ("below", True)
    close = sequential_test([True, True, True, False] * 5, 0.75)
    assert (close.decision, close.n) == ("open", 20)
    assert sequential_test([], 0.5).decision == "open"


def test_bootstrap_median_brackets_the_median_and_repeats() -> None:
    values = np.random.default_rng(1).exponential(size=101).tolist()
    one = bootstrap_median(values, generator=np.random.default_rng(0))
    assert one == bootstrap_median(values, generator=np.random.default_rng(0))
    median, low, high = one
    assert low < median == np.median(values) < high
    # Order statistics 41 and 61 of 101 enclose the median with probability 0.95 (binomial tails).
    assert (low, high) == pytest.approx((sorted(values)[40], sorted(values)[60]), abs=0.1)


def test_impossible_counts_are_refused() -> None:
    for call in (
        lambda: wilson(2, 1),
        lambda: proportion(0, 0),
        lambda: wilson(1, 2, 1.0),
        lambda: mcnemar(-1, 2),
        lambda: evidence_above(1, 2, 1.0),
        lambda: sequential_test([True], 0.5, alpha=0.0),
        lambda: bootstrap_median([], generator=np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=r"expected|must"):
            call()
