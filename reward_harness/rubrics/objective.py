"""How well a rubric orders the best responses: TailAcc, TailVar, DiverseTailAcc and their sum.

"Chasing the Tail" (arXiv 2509.21500): only pairs of the highest-scoring responses count. Per
prompt, with n responses sorted by rubric score, the tail is the first max(2, ⌈n·fraction⌉); each
pair of the tail is right where the rubric and the judge prefer the same one. Judge ties are left
out, a tie of the rubric is wrong. Few pairs say little, so an accuracy is shrunk towards ½:
½ + m/(m+κ)·(raw − ½) with m the pairs of that same metric.

All functions are pure; arrays are indexed by response: scores (R,), judged (R, R) with +1 where
the row is preferred, −1 the column, 0 a tie and NaN where the judge gave no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
TIE = 1e-8


@dataclass(frozen=True, slots=True)
class Weights:
    """λ_var, μ_diverse, the tail's share and κ."""

    tail_fraction: float = 0.25
    lambda_var: float = 0.2
    mu_diverse: float = 0.25
    prior: float = 8.0


@dataclass(frozen=True, slots=True)
class TailScore:
    """The objective of one prompt and its parts."""

    score: float
    tail_acc: float
    tail_var: float
    diverse_tail_acc: float
    pairs: int


def shrunk_accuracy(correct: int, valid: int, prior: float) -> float:
    """½ + m/(m+κ)·(raw − ½); ½ without a valid pair."""
    if valid == 0:
        return 0.5
    return 0.5 + valid / (valid + prior) * (correct / valid - 0.5)


def tail_of(scores: Array, fraction: float) -> list[int]:
    """Indices of the highest-scoring responses, best first; unscored (NaN) ones are set aside."""
    scored = [int(i) for i in np.argsort(-scores, kind="stable") if not math.isnan(scores[i])]
    return scored[: max(2, math.ceil(len(scored) * fraction))]


def tail_score(
    scores: Array,
    judged: Array,
    sources: Sequence[str],
    weights: Weights,
    vote_scores: Array | None = None,
) -> TailScore:
    """The objective of one prompt; ``vote_scores`` is (V, R), absent with one vote."""
    tail = tail_of(scores, weights.tail_fraction)
    pairs = [(a, b) for i, a in enumerate(tail) for b in tail[i + 1 :]]
    correct, valid = _agreement(scores, judged, pairs)
    accuracy = shrunk_accuracy(correct, valid, weights.prior)
    across = [(a, b) for a, b in pairs if sources[a] != sources[b]]
    diverse_correct, diverse_valid = _agreement(scores, judged, across)
    diverse = (
        shrunk_accuracy(diverse_correct, diverse_valid, weights.prior)
        if diverse_valid
        else accuracy
    )
    variance = 0.0
    if vote_scores is not None and tail:
        variance = float(np.mean(np.var(vote_scores[:, tail], axis=0)))
    total = accuracy - weights.lambda_var * variance + weights.mu_diverse * diverse
    return TailScore(total, accuracy, variance, diverse, valid)


def _agreement(scores: Array, judged: Array, pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    correct = valid = 0
    for a, b in pairs:
        verdict = judged[a, b]
        if math.isnan(verdict) or verdict == 0:
            continue
        valid += 1
        difference = float(scores[a] - scores[b])
        correct += abs(difference) > TIE and (difference > 0) == (verdict > 0)
    return correct, valid


def pair_agreement(scores: Array, judged: Array) -> list[float]:
    """1 or 0 for each judged pair of scored responses: does the rubric order it as the judge?

    A tie of the rubric counts ½: over all pairs it is no opinion, not a mistake at the top.
    """
    rows, columns = np.triu_indices(len(scores), k=1)
    verdicts, differences = judged[rows, columns], scores[rows] - scores[columns]
    used = ~np.isnan(verdicts) & (verdicts != 0) & ~np.isnan(differences)
    right = ((differences > 0) == (verdicts > 0)).astype(np.float64)
    outcomes = np.where(np.abs(differences) <= TIE, 0.5, right)
    return outcomes[used].tolist()


def top_margin(scores: Array) -> float:
    """Score of the best minus that of the second by the rubric; 0 with fewer than two."""
    ordered = np.sort(scores[~np.isnan(scores)])[::-1]
    return float(ordered[0] - ordered[1]) if len(ordered) > 1 else 0.0


def signed_top_margin(scores: Array, better: Callable[[int], Any]) -> float:
    """Score of the truly best minus the truly second, by ``better`` (larger key is better)."""
    ordered = sorted(range(len(scores)), key=better, reverse=True)
    return float(scores[ordered[0]] - scores[ordered[1]]) if len(ordered) > 1 else 0.0
