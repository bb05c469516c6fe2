"""Where in a solution a step reward notices a mistake that an outcome reward accepts.

The threshold of each model is the quantile of its scores of right solutions that flags a given
share of them, so that both pay the same false flags; wrong solutions are then counted by the
position of their first wrong step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from reward_harness.evaluation.statistics import CONFIDENCE, Interval, wilson

Scores = npt.NDArray[np.float64]

POSITIONS: Mapping[str, range] = {
    "1": range(1, 2),
    "2": range(2, 3),
    "3_to_4": range(3, 5),
    "5_to_8": range(5, 9),
    "9_on": range(9, 10_000),
}
"""Steps counted from 1; later ones are pooled, because few solutions get there."""
MIN_SOLUTIONS = 5


def first_wrong_step(labels: Sequence[int]) -> int | None:
    """Position from 1 of the first label -1; None for a right solution."""
    return next((number for number, label in enumerate(labels, 1) if label == -1), None)


def flagged_by_position(
    scores: Scores,
    first_wrong: Sequence[int | None],
    false_flag_rate: float,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval]:
    """Share of wrong solutions flagged, by where their first mistake is; Wilson's interval.

    Positions with fewer than ``MIN_SOLUTIONS`` wrong solutions are left out, as is everything where
    no solution is right.
    """
    right = np.array([position is None for position in first_wrong])
    if not right.any():
        return {}
    flagged = scores < np.quantile(scores[right], false_flag_rate)
    found: dict[str, Interval] = {}
    for name, positions in POSITIONS.items():
        rows = [i for i, position in enumerate(first_wrong) if position in positions]
        if len(rows) >= MIN_SOLUTIONS:
            found[name] = wilson(int(flagged[rows].sum()), len(rows), confidence)
    return found
