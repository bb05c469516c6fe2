"""A study's numbers: each variant's measures over seeds, differences from the baseline, a power law
and a Pareto front where the study asks for one.

Every value is a metric of a member's manifest. Intervals over seeds are Student's t on the seeds'
values, differences are paired by seed (same seed, same data split), and the p-values of all
differences are corrected together (Benjamini–Hochberg). One seed has the interval that its own
report gave it and is compared with nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from reward_harness.errors import DataError
from reward_harness.evaluation.ranking import pareto_front
from reward_harness.evaluation.statistics import CONFIDENCE, Interval, benjamini_hochberg
from reward_harness.manifest import Frozen, Metric
from reward_harness.scaling.power_law import levelled, power_law
from reward_harness.studies import Curve, Front, Member, StudySpec

Direction = Literal["max", "min", "none"]
FALSE_DISCOVERY_RATE = 0.05


class SeedValue(Frozen):
    """A measure of one member."""

    seed: int
    value: float
    n: int | None


class VariantMeasure(Frozen):
    """One measure of one variant: by seed, over seeds, and against the baseline."""

    variant: str
    measure: str
    direction: Direction
    by_seed: tuple[SeedValue, ...]
    over_seeds: Interval
    difference: Interval | None = None
    adjusted_p: float | None = None

    @property
    def verdict(self) -> Literal["better", "worse", "unclear"]:
        """How the variant compares with the baseline once all comparisons are corrected."""
        p, found = self.adjusted_p, self.difference
        if p is None or found is None or p >= FALSE_DISCOVERY_RATE or self.direction == "none":
            return "unclear"
        return "better" if (found.value > 0) == (self.direction == "max") else "worse"


class PowerLaw(Frozen):
    """``floor + scale * x**-exponent`` fitted by least squares; ``exponent`` with its interval.

    ``points`` are brought to one level over seeds (``scaling.power_law.levelled``).
    """

    x: str
    measure: str
    points: tuple[tuple[float, float], ...]
    floor: float
    floor_fitted: bool
    scale: float
    exponent: Interval


class StudyResults(Frozen):
    """``report.json`` of a study."""

    study: str
    base: str
    question: str
    baseline: str
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    rows: tuple[VariantMeasure, ...]
    curve: PowerLaw | None = None
    no_curve: str = ""
    front: tuple[str, ...] = ()
    front_measures: tuple[str, str] | None = None
    missing: tuple[str, ...] = ()
    false_discovery_rate: float = FALSE_DISCOVERY_RATE


Metrics = Mapping[str, Metric]
"""``{"<stage>.<metric>": Metric}`` of one member."""


def study_results(
    study: StudySpec, members: Sequence[Member], found: Mapping[str, Metrics]
) -> StudyResults:
    """All of a study's numbers; ``found`` maps a member's key to its metrics, without those that
    have not run. ``DataError`` where no member has any of the measures.
    """
    variants = list(dict.fromkeys(member.variant for member in members))
    baseline = study.baseline or variants[0]
    rows = [
        row
        for measure in study.all_measures
        for row in _rows(measure, members, found, variants, baseline)
    ]
    if not rows:
        raise DataError(
            "no member of the study has run so far that its measures exist",
            where=study.name,
            expected=", ".join(study.all_measures),
            fix=f"Run `harness study run {study.name}`.",
        )
    curve, no_curve = _curve_of(study.curve, members, found)
    return StudyResults(
        study=study.name,
        base=study.base,
        question=study.description,
        baseline=baseline,
        seeds=tuple(study.seeds),
        variants=tuple(variants),
        rows=tuple(_corrected(rows)),
        curve=curve,
        no_curve=no_curve,
        front=_front_of(study.front, rows),
        front_measures=(study.front.first, study.front.second) if study.front else None,
        missing=tuple(
            member.key
            for member in members
            if not any(metric_of(found.get(member.key, {}), m) for m in study.all_measures)
        ),
    )


def metric_of(metrics: Metrics, measure: str) -> Metric | None:
    """The measure of one member: the first of its named metrics that the member has."""
    stage, _, names = measure.partition(".")
    present = (metrics.get(f"{stage}.{name}") for name in names.split("|"))
    return next((metric for metric in present if metric is not None), None)


def over_seeds(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and Student's t interval of one value a seed; a single value is its own interval."""
    from scipy import stats

    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Interval(mean, mean, mean, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t-test; 1 where every difference is 0."""
    from scipy import stats

    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    found: Any = stats.ttest_1samp(differences, 0.0)
    return float(found.pvalue)


def _rows(
    measure: str,
    members: Sequence[Member],
    found: Mapping[str, Metrics],
    variants: Sequence[str],
    baseline: str,
) -> list[VariantMeasure]:
    by_variant: dict[str, dict[int, Metric]] = {}
    for member in members:
        metric = metric_of(found.get(member.key, {}), measure)
        if metric is not None:
            by_variant.setdefault(member.variant, {})[member.seed] = metric
    base = by_variant.get(baseline, {})
    return [
        _row(measure, variant, by_variant[variant], {} if variant == baseline else base)
        for variant in variants
        if variant in by_variant
    ]


def _row(
    measure: str, variant: str, values: Mapping[int, Metric], base: Mapping[int, Metric]
) -> VariantMeasure:
    listed = list(values.values())
    interval = over_seeds([metric.value for metric in listed])
    only = listed[0]
    if len(listed) == 1 and only.ci_low is not None and only.ci_high is not None:
        interval = Interval(only.value, only.ci_low, only.ci_high, only.n or 1)
    shared = sorted(values.keys() & base.keys())
    differences = [values[seed].value - base[seed].value for seed in shared]
    compared = len(differences) > 1
    return VariantMeasure(
        variant=variant,
        measure=measure,
        direction=only.direction,
        by_seed=tuple(SeedValue(seed=s, value=m.value, n=m.n) for s, m in values.items()),
        over_seeds=interval,
        difference=over_seeds(differences) if compared else None,
        adjusted_p=paired_p(differences) if compared else None,
    )


def _corrected(rows: Sequence[VariantMeasure]) -> list[VariantMeasure]:
    raw = [row.adjusted_p for row in rows if row.adjusted_p is not None]
    adjusted = iter(benjamini_hochberg(raw))
    return [
        row if row.adjusted_p is None else row.model_copy(update={"adjusted_p": next(adjusted)})
        for row in rows
    ]


def _curve_of(
    curve: Curve | None, members: Sequence[Member], found: Mapping[str, Metrics]
) -> tuple[PowerLaw | None, str]:
    """The fitted curve, or why there is none."""
    if curve is None:
        return None, ""
    points: list[tuple[int, float, float]] = []
    for member in members:
        metrics = found.get(member.key, {})
        x = member.overrides.get(curve.x)
        if x is None and curve.x in metrics:
            x = metrics[curve.x].value
        y = metric_of(metrics, curve.measure)
        if x is not None and y is not None:
            points.append((member.seed, float(x), y.value))
    level, levels = levelled(points)
    try:
        floor, scale, exponent = power_law(level, curve.floor, levels)
    except DataError as error:
        return None, str(error)
    law = PowerLaw(
        x=curve.x,
        measure=curve.measure,
        points=tuple(level),
        floor=floor,
        floor_fitted=curve.floor is None,
        scale=scale,
        exponent=exponent,
    )
    return law, ""


def _front_of(front: Front | None, rows: Sequence[VariantMeasure]) -> tuple[str, ...]:
    if front is None:
        return ()
    at = {(row.variant, row.measure): row for row in rows}
    both = [v for v, m in at if m == front.first and (v, front.second) in at]
    if not both:
        return ()
    points = [[at[v, m].over_seeds.value for m in (front.first, front.second)] for v in both]
    directions = [at[both[0], m].direction for m in (front.first, front.second)]
    best = pareto_front(points, ["min" if d == "min" else "max" for d in directions])
    return tuple(both[index] for index in best)
