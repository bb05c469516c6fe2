"""Weights fitted to judged pairs: non-negative logistic regression on grade differences.

For a pair whose first response is preferred, d = contributions(first) − contributions(second),
and the weights minimise the mean of log(1 + exp(−w·d)) + ridge·|w|² with w ≥ 0: Bradley-Terry
with the rubric's score as the strength. No call to a model is needed, and the problem is convex,
so the result depends on nothing but the grades.
"""

from __future__ import annotations

import numpy as np

from reward_harness.rubrics.catalogue import rubric_of
from reward_harness.rubrics.objective import Array
from reward_harness.rubrics.types import Rubric

RIDGE = 0.02
NEGLIGIBLE = 0.04
DECIMALS = 3
USELESS = 1e-6


def fit_weights(differences: Array, limits: Array | None = None, ridge: float = RIDGE) -> Array:
    """Weights (C,) ≥ 0 for pair differences (P, C), first minus second, the first one preferred.

    ``limits`` (K, C) are kept as limits @ w ≤ 0.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    count = differences.shape[1]

    def loss(weights: Array) -> tuple[float, Array]:
        margins = differences @ weights
        value = float(np.logaddexp(0.0, -margins).mean() + ridge * weights @ weights)
        slope = -(expit(-margins)[:, None] * differences).mean(axis=0) + 2 * ridge * weights
        return value, slope

    bounds = [(0.0, None)] * count
    if limits is None or not len(limits):
        found = minimize(loss, np.ones(count), jac=True, method="L-BFGS-B", bounds=bounds)
    else:
        kept = {"type": "ineq", "fun": lambda w: -(limits @ w), "jac": lambda w: -limits}
        found = minimize(
            loss, np.zeros(count), jac=True, method="SLSQP", bounds=bounds, constraints=[kept]
        )
    return np.maximum(np.asarray(found.x, dtype=np.float64), 0.0)


def strongest(rubric: Rubric, differences: Array, count: int) -> Rubric | None:
    """The ``count`` criteria that carry most of the fitted weight; None if none carries any."""
    if not len(differences):
        return None
    weights = fit_weights(differences)
    order = np.argsort(-weights, kind="stable")[:count]
    kept = sorted(int(i) for i in order if weights[i] > USELESS)
    return rubric_of([rubric.criteria[i] for i in kept], rubric) if kept else None


def refit(rubric: Rubric, differences: Array, limits: Array | None = None) -> Rubric | None:
    """The rubric with fitted weights, negligible criteria dropped; None if nothing helps.

    After criteria were dropped the rest is fitted again, so that ``limits`` hold for what is left.
    """
    kept = np.arange(len(rubric.criteria))
    while len(differences):
        within = None if limits is None else limits[:, kept]
        weights = fit_weights(differences[:, kept], within)
        largest = float(weights.max(initial=0.0))
        if largest <= USELESS:
            return None
        scaled = np.round(weights / largest, DECIMALS)
        matters = scaled >= NEGLIGIBLE
        if matters.all():
            criteria = [rubric.criteria[i] for i in kept]
            chosen = zip(criteria, scaled.tolist(), strict=True)
            return rubric_of([c.model_copy(update={"weight": w}) for c, w in chosen], rubric)
        kept = kept[matters]
    return None
