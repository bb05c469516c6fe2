"""Grades as arrays: criteria × responses, so that scoring a rubric that only reweights costs
nothing.

Rows are kept by a criterion's ``grading_digest``, columns are all responses of all prompts in
order. A cell is a grade in [0, 1], NaN for "does not apply", and unknown until ``known`` says
otherwise. ``scores`` is ``types.score`` for all responses at once; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reward_harness.rubrics.objective import Array
from reward_harness.rubrics.types import Criterion, Rubric

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Row:
    """One criterion's grades: values (V, N), known (V, N)."""

    values: Array
    known: Mask


class GradeMatrix:
    """Grades of ``responses`` (N) by criterion and vote."""

    def __init__(self, prompts: Sequence[str], responses: Sequence[str]) -> None:
        self.prompts, self.responses = list(prompts), list(responses)
        self._rows: dict[str, Row] = {}

    def row(self, criterion: Criterion, votes: int) -> Row:
        """The criterion's row, made on first use; a programmatic one is graded at once."""
        votes = 1 if criterion.check is not None else votes
        key = f"{criterion.grading_digest}:{votes}"
        if (row := self._rows.get(key)) is None:
            row = self._rows[key] = self._new_row(criterion, votes)
        return row

    def _new_row(self, criterion: Criterion, votes: int) -> Row:
        n = len(self.responses)
        if (check := criterion.check) is None:
            return Row(np.full((votes, n), np.nan), np.zeros((votes, n), dtype=bool))
        pairs = zip(self.prompts, self.responses, strict=True)
        values = np.array([[check.grade(p, r) for p, r in pairs]], dtype=np.float64)
        return Row(values, np.ones((1, n), dtype=bool))

    def scores(self, rubric: Rubric, columns: Sequence[int]) -> Array:
        """Scores (N',) of the rubric; NaN where a verdict is missing or every criterion skipped."""
        rows = [self.row(c, rubric.votes) for c in rubric.criteria]
        index = np.asarray(columns, dtype=np.int64)
        grades = np.stack([_majority(row.values[:, index]) for row in rows])
        known = np.stack([row.known[:, index].all(axis=0) for row in rows])
        return np.where(known.all(axis=0), weighted(rubric, grades), np.nan)

    def vote_scores(self, rubric: Rubric, columns: Sequence[int]) -> Array | None:
        """Scores of each vote (V, N'); None with one vote."""
        if rubric.votes == 1 or not rubric.needs_llm:
            return None
        rows = [self.row(c, rubric.votes) for c in rubric.criteria]
        index = np.asarray(columns, dtype=np.int64)
        return np.stack(
            [
                weighted(
                    rubric, np.stack([r.values[min(v, len(r.values) - 1), index] for r in rows])
                )
                for v in range(rubric.votes)
            ]
        )

    def known(self, rubric: Rubric, columns: Sequence[int]) -> Mask:
        """(N',): whether every criterion was graded."""
        index = np.asarray(columns, dtype=np.int64)
        rows = [self.row(c, rubric.votes) for c in rubric.criteria]
        every: Mask = np.concatenate([row.known[:, index] for row in rows])
        return np.logical_and.reduce(every, axis=0)

    def contributions(self, rubric: Rubric, columns: Sequence[int]) -> Array:
        """What each criterion (C, N') adds a unit of weight for: g, or 1 − g for polarity −1."""
        index = np.asarray(columns, dtype=np.int64)
        rows = [_majority(self.row(c, rubric.votes).values[:, index]) for c in rubric.criteria]
        grades = np.nan_to_num(np.stack(rows), nan=0.0)
        signs = np.array([[c.polarity] for c in rubric.criteria])
        return np.where(signs == 1, grades, 1 - grades)


def weighted(rubric: Rubric, grades: Array) -> Array:
    """``types.score`` on columns: grades (C, N) → scores (N,), NaN where nothing is left."""
    skipped = np.isnan(grades)
    signs = np.array([[c.polarity] for c in rubric.criteria])
    shown = np.where(skipped, 0.0, grades)
    contributions = np.where(signs == 1, shown, 1 - shown)
    weights = np.array([[c.weight] for c in rubric.criteria], dtype=np.float64)
    if rubric.missing == "error":
        bad = skipped.any(axis=0)
        kept = np.ones_like(grades)
    else:
        bad = np.zeros(grades.shape[1], dtype=bool)
        kept = np.where(skipped, 0.0, 1.0) if rubric.missing == "skip" else np.ones_like(grades)
    used = kept * weights
    used = np.where(used.sum(axis=0) == 0, kept, used)
    total = used.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (used * contributions).sum(axis=0) / total
    return np.where(bad | (total == 0), np.nan, scores)


def _majority(values: Array) -> Array:
    """Median over votes (V, N) → (N,); NaN where most votes say that it does not apply."""
    if len(values) == 1:
        return values[0]
    given = ~np.isnan(values)
    enough = 2 * given.sum(axis=0) >= len(values)
    filled = np.where(given.any(axis=0), values, 0.0)
    return np.where(enough & given.any(axis=0), np.nanmedian(filled, axis=0), np.nan)
