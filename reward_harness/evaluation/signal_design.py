"""Five steps from criteria to a reward signal: name, grade, validate, weight, ablate.

Input is a table of grades, one row an item and one column a criterion, with the items' true quality
and the group (prompt, recording) within which they compare: so the same report serves rubric
criteria of texts and features of sounds. Three sets of groups that never mix: weights are fitted on
one, criteria are validated on the second, accuracy and ablations are measured on the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reward_harness.errors import DataError
from reward_harness.evaluation.calibration import outcomes_of
from reward_harness.evaluation.ranking import cluster_spearman
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.statistics import Interval, Vector, bootstrap_mean
from reward_harness.manifest import Frozen, Metric

KEEP_ABOVE = 0.10
"""Spearman's ρ with the truth that a criterion needs to be kept."""
RIDGE = 1e-2
"""L2 penalty a pair of the fitted weights: near-equal criteria share their weight."""

Part = Literal["fit", "validate", "measure"]
Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradedItems:
    """``grades`` (N, K), NaN where there is none; ``truth`` (N,), higher is better."""

    names: Sequence[str]
    descriptions: Sequence[str]
    grades: Table
    truth: Vector
    groups: Sequence[str]
    parts: Sequence[Part]

    def of(self, part: Part) -> list[int]:
        """Rows of one part."""
        return [row for row, of in enumerate(self.parts) if of == part]


class CriterionResult(Frozen):
    """One criterion through the five steps; ``loss`` is what the signal loses without it."""

    name: str
    description: str
    graded_share: float
    spearman: Interval | None
    kept: bool
    weight: float
    accuracy_without: Interval | None
    loss: Interval | None


class SignalResults(Frozen):
    """``report.json``; accuracies are shares of pairs ordered as the truth orders them."""

    version: str = "1"
    experiment: str
    domain: str
    proxy: str
    groups: dict[str, int]
    criteria: list[CriterionResult]
    fitted: Interval | None
    equal: Interval | None
    fitted_over_equal: Interval | None


def design_signal(
    items: GradedItems, how: Resampling, *, experiment: str, domain: str, proxy: str
) -> SignalResults:
    """Walk the five steps; ``DataError`` if a part of the items is empty."""
    counts = {part: len({items.groups[i] for i in items.of(part)}) for part in _PARTS}
    if 0 in counts.values():
        raise DataError("a part has no items", got=counts, expected="groups in each of the three")
    table = _standardised(items)
    rho = [_validated(items, table, k, how) for k in range(len(items.names))]
    kept = [k for k, found in enumerate(rho) if found is not None and found.value > KEEP_ABOVE]
    weights = fit_weights(items, table, kept)
    fitted = _accuracies(items, table @ weights) if kept else None
    equal_weights = np.array([1.0 if k in kept else 0.0 for k in range(len(items.names))])
    equal = _accuracies(items, table @ equal_weights) if kept else None
    rows = [
        _criterion(items, table, k, rho[k], kept, weights, fitted, how)
        for k in range(len(items.names))
    ]
    return SignalResults(
        experiment=experiment,
        domain=domain,
        proxy=proxy,
        groups={**counts},
        criteria=rows,
        fitted=_interval(fitted, how, "fitted"),
        equal=_interval(equal, how, "equal"),
        fitted_over_equal=None
        if fitted is None or equal is None
        else _interval(fitted - equal, how, "fitted over equal"),
    )


def fit_weights(items: GradedItems, table: Table, kept: Sequence[int]) -> Vector:
    """Weights ≥ 0 that maximise the Bradley-Terry likelihood of the fit part's pairs, sum 1.

    0 for criteria that are not kept; equal weights where no pair tells them apart.
    """
    from scipy.optimize import minimize

    weights = np.zeros(len(items.names))
    if not kept:
        return weights
    pairs = _pairs(items, items.of("fit"))
    differences = np.array([table[a] - table[b] for a, b in pairs])[:, list(kept)]

    def loss(w: Vector) -> float:
        return float(np.logaddexp(0, -differences @ w).mean() + RIDGE * (w**2).sum())

    start = np.full(len(kept), 1 / len(kept))
    found: Any = minimize(loss, start, method="L-BFGS-B", bounds=[(0, None)] * len(kept))
    total = float(found.x.sum())
    weights[list(kept)] = found.x / total if total > 0 else start
    return weights


def signal_metrics(results: SignalResults) -> dict[str, Metric]:
    """Accuracies, and how many criteria were kept."""
    kept = sum(c.kept for c in results.criteria)
    found = {"criteria_kept": Metric(value=kept, n=len(results.criteria))}
    for name in ("fitted", "equal", "fitted_over_equal"):
        interval: Interval | None = getattr(results, name)
        if interval is not None:
            found[f"{name}_accuracy" if name != "fitted_over_equal" else name] = interval.metric(
                "max"
            )
    return found


_PARTS: tuple[Part, ...] = ("fit", "validate", "measure")


def _standardised(items: GradedItems) -> Table:
    """Grades in standard deviations of the fit part; a missing one is the mean."""
    fit = items.grades[items.of("fit")]
    with np.errstate(all="ignore"):
        mean = np.nan_to_num(np.array([_nanmean(column) for column in fit.T]))
        std = np.nan_to_num(np.array([np.nanstd(c) if _any(c) else 0.0 for c in fit.T]))
    scaled = (items.grades - mean) / np.where(std > 0, std, 1.0)
    return np.nan_to_num(scaled)


def _validated(items: GradedItems, table: Table, k: int, how: Resampling) -> Interval | None:
    """ρ of one criterion with the truth, both centred within groups, on the validation part."""
    rows = items.of("validate")
    groups = [items.groups[i] for i in rows]
    return cluster_spearman(
        _centred(table[rows, k], groups),
        _centred(items.truth[rows], groups),
        groups,
        how.rng("signal", items.names[k]),
        samples=how.samples,
        confidence=how.confidence,
    )


def _centred(values: Vector, groups: Sequence[str]) -> Vector:
    codes = np.unique(np.array(groups), return_inverse=True)[1]
    means = np.bincount(codes, weights=values) / np.bincount(codes)
    return np.round(values - means[codes], 9)


def _criterion(
    items: GradedItems,
    table: Table,
    k: int,
    rho: Interval | None,
    kept: Sequence[int],
    weights: Vector,
    fitted: Vector | None,
    how: Resampling,
) -> CriterionResult:
    others = [other for other in kept if other != k]
    without = loss = None
    if k in kept and others and fitted is not None:
        left = _accuracies(items, table @ fit_weights(items, table, others))
        without = _interval(left, how, f"without {items.names[k]}")
        loss = _interval(fitted - left, how, f"loss of {items.names[k]}")
    return CriterionResult(
        name=items.names[k],
        description=items.descriptions[k],
        graded_share=float((~np.isnan(items.grades[:, k])).mean()),
        spearman=rho,
        kept=k in kept,
        weight=float(weights[k]),
        accuracy_without=without,
        loss=loss,
    )


def _accuracies(items: GradedItems, scores: Vector) -> Vector:
    """For each group of the measured part, the share of its pairs in the right order; ties ½."""
    by_group: dict[str, list[float]] = {}
    for better, worse in _pairs(items, items.of("measure")):
        outcome = float(outcomes_of([round(float(scores[better] - scores[worse]), 9)])[0])
        by_group.setdefault(items.groups[better], []).append(outcome)
    return np.array([sum(f) / len(f) for f in by_group.values()], dtype=np.float64)


def _pairs(items: GradedItems, rows: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) rows of one group whose truths differ."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(items.groups[row], []).append(row)
    found: list[tuple[int, int]] = []
    for members in groups.values():
        for a, b in combinations(members, 2):
            if items.truth[a] != items.truth[b]:
                found.append((a, b) if items.truth[a] > items.truth[b] else (b, a))
    if not found:
        raise DataError("no two items of a group differ in quality", expected="ranked items")
    return found


def _interval(values: Vector | None, how: Resampling, name: str) -> Interval | None:
    if values is None:
        return None
    rng = how.rng("signal", name)
    return bootstrap_mean(values, rng, samples=how.samples, confidence=how.confidence)


def _any(values: Vector) -> bool:
    return bool((~np.isnan(values)).any())


def _nanmean(values: Vector) -> float:
    return float(np.nanmean(values)) if _any(values) else 0.0
