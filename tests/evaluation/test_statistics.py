"""Intervals against published numbers, closed forms and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_harness.errors import DataError
from reward_harness.evaluation import statistics as s


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 400, 0.0, 0.00951), (7, 50, 0.06951, 0.26186), (44, 400, 0.08297, 0.14445)],
)
def test_wilson_matches_the_specified_figures(successes, n, low, high):
    interval = s.wilson(successes, n)
    assert (interval.low, interval.high) == (
        pytest.approx(low, abs=5e-6),
        pytest.approx(high, abs=5e-6),
    )
    assert interval.value == successes / n
    assert interval.n == n


@pytest.mark.parametrize("n", [1, 7, 50, 193, 400])
def test_wilson_of_none_begins_at_0_and_of_all_ends_at_1(n):
    assert s.wilson(0, n).low == 0.0 < s.wilson(0, n).high < 1
    assert s.wilson(n, n).high == 1.0 > s.wilson(n, n).low > 0


def test_newcombe_matches_the_published_example():
    # Newcombe 1998, table II, contrast (a): 56/70 against 48/80
    interval = s.newcombe(56, 70, 48, 80)
    assert interval.value == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.0524, abs=5e-5)
    assert interval.high == pytest.approx(0.3339, abs=5e-5)


def test_a_constant_sample_is_a_point():
    assert s.bootstrap_mean([0.1] * 7, rng()) == s.Interval(0.1, 0.1, 0.1, 7)
    assert s.cluster_bootstrap_mean([0.3] * 3, ["a", "a", "b"], rng()) == s.Interval(
        0.3, 0.3, 0.3, 2
    )
    assert s.hierarchical_bootstrap_mean([[0.2, 0.2], [0.2]], rng()) == s.Interval(0.2, 0.2, 0.2, 2)


def test_one_observation_never_excludes_anything():
    assert not s.bootstrap_mean([3.0], rng()).excludes(0.0)
    assert s.bootstrap_mean([3.0, 3.0], rng()).excludes(0.0)


def test_bootstrap_mean_agrees_with_the_normal_interval_and_repeats():
    values = rng(1).normal(2.0, 3.0, size=400)
    interval = s.bootstrap_mean(values, rng(2))
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)
    assert interval == s.bootstrap_mean(values, rng(2))


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    draws = rng(3)
    hits = sum(
        i.low <= 1.0 <= i.high
        for i in (
            s.bootstrap_mean(draws.exponential(1.0, 80), draws, samples=400) for _ in range(300)
        )
    )
    assert 0.89 <= hits / 300 <= 0.98


def test_resampling_in_chunks_covers_every_draw(monkeypatch):
    monkeypatch.setattr(s, "CHUNK_VALUES", 7)
    interval = s.bootstrap_mean([0.0, 1.0, 2.0], rng(), samples=501)
    assert 0.0 <= interval.low < 1.0 < interval.high <= 2.0


def test_a_paired_difference_is_narrower_than_the_spread_of_the_items():
    reference = rng(4).normal(0, 10, 200)
    interval = s.paired_bootstrap_difference(reference + 0.5, reference, rng(5))
    assert interval.value == pytest.approx(0.5)
    assert interval.high - interval.low < 1e-9


def test_clusters_widen_the_interval_of_repeated_items():
    values = np.repeat(rng(6).normal(0, 1, 20), 50)
    clusters = np.repeat(np.arange(20), 50).tolist()
    naive = s.bootstrap_mean(values, rng(7))
    clustered = s.cluster_bootstrap_mean(values, clusters, rng(7))
    assert clustered.value == pytest.approx(naive.value)
    assert clustered.n == 20
    assert clustered.high - clustered.low > 5 * (naive.high - naive.low)


def test_the_hierarchical_interval_holds_the_spread_between_seeds():
    between = s.hierarchical_bootstrap_mean([[0.0] * 50, [1.0] * 50, [2.0] * 50], rng(8))
    assert between.value == pytest.approx(1.0)
    assert between.low <= 0.34 and between.high >= 1.66


def test_permutation_p_values_are_exact_for_few_pairs_and_one_for_no_difference():
    assert s.paired_permutation_test([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], rng()) == pytest.approx(
        2 / 32
    )
    assert s.paired_permutation_test([1, 2], [1, 2], rng()) == 1.0


def test_permutation_p_values_are_uniform_under_the_null():
    draws = rng(9)
    p = [
        s.paired_permutation_test(draws.normal(size=30), draws.normal(size=30), draws, samples=199)
        for _ in range(100)
    ]
    assert 0.4 < float(np.mean(p)) < 0.6


def test_benjamini_hochberg_matches_a_hand_computed_table():
    assert s.benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx(
        [0.04, 0.16 / 3, 0.16 / 3, 0.5]
    )
    assert s.benjamini_hochberg([]) == []


def test_spearman_uses_mean_ranks_for_ties_and_is_absent_for_a_constant():
    perfect = s.spearman([1, 2, 3, 4], [10, 20, 30, 40], rng())
    assert perfect is not None and perfect.value == pytest.approx(1.0)
    tied = s.spearman([1, 2, 2, 3], [1, 2, 3, 4], rng())
    assert tied is not None and tied.value == pytest.approx(0.9486833)
    assert tied.low <= tied.value <= tied.high
    assert s.spearman([1, 1, 1], [1, 2, 3], rng()) is None


def test_calibration_of_a_perfect_and_of_an_overconfident_forecaster():
    outcomes = [1, 0] * 50
    assert s.brier_score([0.5] * 100, outcomes) == pytest.approx(0.25)
    assert s.expected_calibration_error([0.5] * 100, outcomes) == pytest.approx(0.0)
    assert s.expected_calibration_error([0.9] * 100, outcomes, bins=1) == pytest.approx(0.4)


def test_unusable_samples_are_errors_with_advice():
    with pytest.raises(DataError, match="at least one item"):
        s.bootstrap_mean([], rng())
    with pytest.raises(DataError, match="Leave unscored items out"):
        s.bootstrap_mean([1.0, float("nan")], rng())
    with pytest.raises(DataError, match="differ in size"):
        s.paired_bootstrap_difference([1.0], [1.0, 2.0], rng())
    with pytest.raises(DataError, match="successes outside"):
        s.wilson(5, 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(0, 2**31))
def test_bounds_stay_within_the_sample(values, seed):
    interval = s.bootstrap_mean(values, rng(seed), samples=100)
    tolerance = 1e-9 * max(map(abs, values))
    assert min(values) - tolerance <= interval.low <= interval.high <= max(values) + tolerance


def test_strata_weigh_the_same_whatever_their_size():
    values, strata = [1.0] * 90 + [0.0, 1.0] * 5, ["long"] * 90 + ["short"] * 10
    interval = s.stratified_bootstrap_mean(values, strata, range(100), rng())
    assert interval.value == pytest.approx(0.75)
    assert interval.low < 0.75 < interval.high <= 1.0
    assert interval.n == 100


def test_a_ratio_is_refused_where_the_denominator_may_be_zero():
    ratio = s.bootstrap_ratio([2.0, 4.0, 6.0] * 5, [1.0, 2.0, 3.0] * 5, rng())
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(2.0),) * 3
    assert s.bootstrap_ratio([1.0] * 6, [0.1, -0.1, 0.2, -0.2, 0.1, 0.0], rng()) is None
