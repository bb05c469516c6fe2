"""Intervals, tests and calibration measures: the one place where uncertainty is computed.

Resampling takes a seeded ``numpy.random.Generator`` and is vectorised in bounded memory. Percentile
intervals; a constant sample gives a point, by design, so an ``Interval`` always says its ``n``.
scipy and statsmodels are imported inside the functions that need them: they cost a second, and most
callers only bootstrap a mean.

    >>> wilson(7, 50)
    Interval(value=0.14, low=0.0695..., high=0.2618..., n=50)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reward_harness.errors import DataError
from reward_harness.manifest import Metric

Numbers = Sequence[float] | npt.NDArray[Any]
Vector = npt.NDArray[np.float64]

CONFIDENCE = 0.95
SAMPLES = 2000
CHUNK_VALUES = 4_000_000
"""Resampled values held at once; bounds memory near 64 MB whatever the sample's size."""
MIN_USABLE_RATIOS = 0.99


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, its confidence bounds and the number of items it was made from."""

    value: float
    low: float
    high: float
    n: int

    def excludes(self, reference: float) -> bool:
        """Whether the bounds leave ``reference`` out; a single observation never does."""
        return self.n > 1 and not self.low <= reference <= self.high

    def metric(self, direction: Literal["max", "min", "none"] = "none") -> Metric:
        """The manifest's form of this number."""
        return Metric(
            value=self.value, ci_low=self.low, ci_high=self.high, n=self.n, direction=direction
        )


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927); exact counts only, so no half wins."""
    from statsmodels.stats.proportion import proportion_confint

    _require_items(n)
    if not 0 <= successes <= n:
        raise DataError("successes outside 0..n", got=successes, expected=f"0 to {n}")
    bounds: Any = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    # rounding leaves 3e-17 where the bound is 0, and as much below 1
    low = float(bounds[0]) if successes else 0.0
    high = float(bounds[1]) if successes < n else 1.0
    return Interval(successes / n, low, high, n)


def newcombe(
    successes: int, n: int, other_successes: int, other_n: int, confidence: float = CONFIDENCE
) -> Interval:
    """Difference of two independent proportions, first minus second (Newcombe 1998, method 10)."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    _require_items(min(n, other_n))
    low, high = confint_proportions_2indep(
        successes, n, other_successes, other_n, method="newcomb", alpha=1 - confidence
    )
    return Interval(
        successes / n - other_successes / other_n, float(low), float(high), min(n, other_n)
    )


def bootstrap_mean(
    values: Numbers,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean with a percentile bootstrap interval over the items."""
    sample = _vector(values)
    if sample.min() == sample.max():
        return _point(float(sample[0]), len(sample))
    draws = _resample(len(sample), samples, rng, lambda index: sample[index].mean(axis=1))
    return _percentile(float(sample.mean()), draws, confidence, len(sample))


def paired_bootstrap_difference(
    values: Numbers,
    reference: Numbers,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of ``values - reference``, both measured on the same items in the same order."""
    first, second = _paired(values, reference)
    return bootstrap_mean(first - second, rng, samples=samples, confidence=confidence)


def cluster_bootstrap_mean(
    values: Numbers,
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean over all items, resampling whole clusters (the pairs of one prompt are not independent).

    ``n`` of the result is the number of clusters.
    """
    sample = _vector(values)
    if len(clusters) != len(sample):
        raise DataError("one cluster a value", got=len(clusters), expected=str(len(sample)))
    membership = _codes(clusters)
    sums = np.bincount(membership, weights=sample)
    counts = np.bincount(membership).astype(np.float64)
    if sample.min() == sample.max():
        return _point(float(sample[0]), len(sums))

    def ratio(index: npt.NDArray[np.int64]) -> Vector:
        return sums[index].sum(axis=1) / counts[index].sum(axis=1)

    draws = _resample(len(sums), samples, rng, ratio)
    return _percentile(float(sample.mean()), draws, confidence, len(sums))


def hierarchical_bootstrap_mean(
    groups: Sequence[Numbers],
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of the groups' means (seeds, for example), resampling groups and then items within each.

    ``n`` of the result is the number of groups.
    """
    _require_items(len(groups))
    vectors = [_vector(group) for group in groups]
    value = float(np.mean([v.mean() for v in vectors]))
    if all(v.min() == v.max() == vectors[0][0] for v in vectors):
        return _point(float(vectors[0][0]), len(vectors))
    chosen = rng.integers(0, len(vectors), size=(samples, len(vectors)))
    means = np.empty(chosen.shape)
    for number, vector in enumerate(vectors):
        where = chosen == number
        drawn = _resample(len(vector), int(where.sum()), rng, _mean_of(vector))
        means[where] = drawn
    return _percentile(value, means.mean(axis=1), confidence, len(vectors))


def stratified_bootstrap_mean(
    values: Numbers,
    strata: Sequence[Hashable],
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of the strata's means at equal weight, resampling whole clusters.

    ``n`` of the result is the number of clusters.
    """
    sample, member = _vector(values), _codes(clusters)
    stratum = _codes(strata)
    size = (member.max() + 1, stratum.max() + 1)
    sums, counts = np.zeros(size), np.zeros(size)
    np.add.at(sums, (member, stratum), sample)
    np.add.at(counts, (member, stratum), 1.0)

    def mean_of_means(index: npt.NDArray[np.int64]) -> Vector:
        with np.errstate(invalid="ignore"):
            return (sums[index].sum(axis=1) / counts[index].sum(axis=1)).mean(axis=1)

    value = float((sums.sum(axis=0) / counts.sum(axis=0)).mean())
    draws = _resample(len(sums), samples, rng, mean_of_means)
    return _percentile(value, draws[~np.isnan(draws)], confidence, len(sums))


def bootstrap_ratio(
    numerator: Numbers,
    denominator: Numbers,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Ratio of two paired means; None unless 99 % of resamples leave the denominator above 0."""
    above, below = _paired(numerator, denominator)

    def means(index: npt.NDArray[np.int64]) -> Vector:
        bottom = below[index].mean(axis=1)
        usable = np.where(bottom > 0, bottom, np.nan)
        return above[index].mean(axis=1) / usable

    draws = _resample(len(above), samples, rng, means)
    usable = draws[~np.isnan(draws)]
    if below.mean() <= 0 or len(usable) < samples * MIN_USABLE_RATIOS:
        return None
    return _percentile(float(above.mean() / below.mean()), usable, confidence, len(above))


def paired_permutation_test(
    values: Numbers, reference: Numbers, rng: np.random.Generator, *, samples: int = 9999
) -> float:
    """Two-sided p-value that paired values have one mean, by sign flips; exact for few pairs."""
    from scipy.stats import permutation_test

    first, second = _paired(values, reference)
    difference = first - second
    if not difference.any():
        return 1.0
    result = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=samples,
        batch=max(1, CHUNK_VALUES // len(difference)),
        rng=rng,
    )
    return float(result.pvalue)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values in the same order, adjusted for false discoveries (Benjamini & Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    if not p_values:
        return []
    return [float(p) for p in false_discovery_control(p_values, method="bh")]


def spearman(
    values: Numbers,
    reference: Numbers,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Spearman's ρ with a bootstrap interval over items; None where one side is constant."""
    from scipy.stats import rankdata

    first, second = _paired(values, reference)
    if first.min() == first.max() or second.min() == second.max():
        return None

    def correlations(index: npt.NDArray[np.int64]) -> Vector:
        return _row_correlations(rankdata(first[index], axis=1), rankdata(second[index], axis=1))

    draws = _resample(len(first), samples, rng, correlations)
    value = float(correlations(np.arange(len(first))[None, :])[0])
    return _percentile(value, draws[~np.isnan(draws)], confidence, len(first))


def brier_score(probabilities: Numbers, outcomes: Numbers) -> float:
    """Mean squared error of probabilities against outcomes in {0, 1} (Brier 1950)."""
    first, second = _paired(probabilities, outcomes)
    return float(np.mean((first - second) ** 2))


def expected_calibration_error(probabilities: Numbers, outcomes: Numbers, bins: int = 10) -> float:
    """ECE over equally filled bins of sorted probabilities (adaptive form; Guo et al. 2017)."""
    first, second = _paired(probabilities, outcomes)
    order = np.argsort(first, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(p) * abs(float(first[p].mean() - second[p].mean())) for p in parts]
    return sum(gaps) / len(first)


def _require_items(n: int) -> None:
    if n < 1:
        raise DataError("nothing to measure", got=n, expected="at least one item")


def _vector(values: Numbers) -> Vector:
    array = np.asarray(values, dtype=np.float64)
    _require_items(array.size)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataError(
            "not a vector of finite numbers",
            got=f"shape {array.shape}",
            fix="Leave unscored items out before measuring, and state their share.",
        )
    return array


def _paired(values: Numbers, reference: Numbers) -> tuple[Vector, Vector]:
    first, second = _vector(values), _vector(reference)
    if len(first) != len(second):
        raise DataError("paired samples differ in size", got=len(first), expected=str(len(second)))
    return first, second


def _codes(names: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Each name's number, counted in order of first appearance."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _point(value: float, n: int) -> Interval:
    return Interval(value, value, value, n)


def _mean_of(vector: Vector) -> Callable[[npt.NDArray[np.int64]], Vector]:
    return lambda index: vector[index].mean(axis=1)


def _resample(
    n: int,
    samples: int,
    rng: np.random.Generator,
    statistic: Callable[[npt.NDArray[np.int64]], Vector],
) -> Vector:
    """``statistic``, (b, n) → (b,), of ``samples`` draws with replacement from ``range(n)``."""
    draws = np.empty(samples)
    step = max(1, CHUNK_VALUES // n)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        draws[start : start + size] = statistic(rng.integers(0, n, size=(size, n)))
    return draws


def _percentile(value: float, draws: Vector, confidence: float, n: int) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high), n)


def _row_correlations(first: Vector, second: Vector) -> Vector:
    """Pearson correlation of each row of two (b, n) arrays; NaN where a row is constant."""
    x = first - first.mean(axis=1, keepdims=True)
    y = second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
