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


def fit_weights(differences: Array, ridge: float = RIDGE) -> Array:
    """Weights (C,) for pair differences (P, C), first minus second, the first one preferred."""
    from scipy.optimize import minimize
    from scipy.special import expit

    count = differences.shape[1]

    def loss(weights: Array) -> tuple[float, Array]:
        margins = differences @ weights
        value = float(np.logaddexp(0.0, -margins).mean() + ridge * weights @ weights)
        slope = -(expit(-margins)[:, None] * differences).mean(axis=0) + 2 * ridge * weights
        return value, slope

    found = minimize(
        loss, np.ones(count), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * count
    )
    return np.asarray(found.x, dtype=np.float64)


def refit(rubric: Rubric, differences: Array) -> Rubric | None:
    """The rubric with fitted weights, negligible criteria dropped; None if nothing helps."""
    if not len(differences):
        return None
    weights = fit_weights(differences)
    largest = float(weights.max(initial=0.0))
    if largest <= 0:
        return None
    scaled = np.round(weights / largest, DECIMALS)
    kept = [
        criterion.model_copy(update={"weight": float(weight)})
        for criterion, weight in zip(rubric.criteria, scaled, strict=True)
        if weight >= NEGLIGIBLE
    ]
    return rubric_of(kept, rubric)
