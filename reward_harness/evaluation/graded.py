"""Out of distribution: a reward on responses that others graded, on prompts it has never seen.

Each set is a source of ``RankedPrompt`` with grades as ``quality`` (the Prometheus sets have three
GPT-4 grades for each response, of which quality is the mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_harness.data.records import RankedPrompt
from reward_harness.evaluation.ranking import cluster_spearman, kendall
from reward_harness.evaluation.resampling import Resampling
from reward_harness.evaluation.scoring import Scorer, score_candidates
from reward_harness.evaluation.statistics import Interval
from reward_harness.manifest import Frozen


class GradedMeasures(Frozen):
    """Correlation of scores and grades over all responses of one set; n counts prompts."""

    source: str
    n_responses: int
    unscored_share: float
    spearman: Interval | None
    kendall: float | None
    length_spearman: Interval | None
    """What the number of words alone correlates with the grades: the baseline."""


def measure_graded(
    scorer: Scorer, source: str, prompts: Sequence[RankedPrompt], how: Resampling
) -> GradedMeasures | None:
    """None where no response has both a grade and a score."""
    graded = [(p.prompt_id, c) for p in prompts for c in p.candidates]
    scores = np.concatenate([*score_candidates(scorer.rm, prompts), np.empty(0)])
    grades = np.array([np.nan if c.quality is None else c.quality for _, c in graded])
    there = ~(np.isnan(scores) | np.isnan(grades))
    if not there.any():
        return None
    words = np.array([len(c.text.split()) for _, c in graded], dtype=np.float64)
    clusters = [name for (name, _), ok in zip(graded, there, strict=True) if ok]

    def correlation(values: np.ndarray, name: str) -> Interval | None:
        rng = how.rng(scorer.name, source, name)
        return cluster_spearman(
            values[there],
            grades[there],
            clusters,
            rng,
            samples=how.samples,
            confidence=how.confidence,
        )

    return GradedMeasures(
        source=source,
        n_responses=int(there.sum()),
        unscored_share=float(np.isnan(scores).mean()),
        spearman=correlation(scores, "graded"),
        kendall=kendall(scores[there], grades[there]),
        length_spearman=correlation(words, "graded length"),
    )
