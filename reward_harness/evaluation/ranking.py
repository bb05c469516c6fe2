"""Order statistics: Spearman over clusters, Kendall's τ, and the Pareto front of several aims."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from reward_harness.errors import DataError
from reward_harness.evaluation.statistics import (
    CONFIDENCE,
    SAMPLES,
    Interval,
    Numbers,
    Vector,
)

Aim = Literal["max", "min"]


def cluster_spearman(
    values: Numbers,
    reference: Numbers,
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Spearman's ρ over all items, resampling whole clusters; None where one side is constant.

    ``n`` of the result is the number of clusters.
    """
    first, second = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if len(first) != len(second) or len(first) != len(clusters):
        raise DataError("values, reference and clusters differ in size", got=len(first))
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    members: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    groups = [np.array(found) for found in members.values()]
    draws = np.array(
        [
            _rho(first[index], second[index])
            for index in (
                np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
                for _ in range(samples)
            )
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(_rho(first, second), float(low), float(high), len(groups))


def kendall(values: Numbers, reference: Numbers) -> float | None:
    """Kendall's τ-b (1945), ties corrected; None where one side is constant."""
    from scipy.stats import kendalltau

    found: Any = kendalltau(np.asarray(values), np.asarray(reference))
    return None if np.isnan(found.statistic) else float(found.statistic)


def pareto_front(points: Sequence[Sequence[float]], aims: Sequence[Aim]) -> list[int]:
    """Indices, in order, of the points that no other point beats.

    One point beats another if it is at least as good in every aim and better in one; equal points
    stand together.
    """
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(aims):
        raise DataError("one number for each aim", got=f"shape {table.shape}", expected=str(aims))
    table = table * np.array([1.0 if aim == "max" else -1.0 for aim in aims])
    return [
        index
        for index, point in enumerate(table)
        if not ((table >= point).all(axis=1) & (table > point).any(axis=1)).any()
    ]


def _rho(first: Vector, second: Vector) -> float:
    from scipy.stats import rankdata

    x, y = rankdata(first), rankdata(second)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / size if size else float("nan")
