"""How good a reward is on held-out preferences: accuracy against naive rules, length, calibration.

``measure_scorer`` asks a reward for its scores once and returns every figure with its interval and
n; ``agreement`` compares two rewards on the same pairs. Intervals are bootstrapped over prompts,
because the pairs of one prompt are not independent. All inputs are held-out splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from pydantic import Field

from reward_harness.data.records import Candidate, PreferencePair, RankedPrompt
from reward_harness.evaluation.calibration import Calibration, calibration, outcomes_of
from reward_harness.evaluation.graded import GradedMeasures, measure_graded
from reward_harness.evaluation.resampling import Resampling as Resampling
from reward_harness.evaluation.scoring import (
    PairScores,
    Scorer,
    Scores,
    score_candidates,
    score_padded,
    score_pairs,
    word_count,
)
from reward_harness.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    cluster_bootstrap_mean,
    spearman,
    stratified_bootstrap_mean,
)
from reward_harness.evaluation.turns import TurnMeasures, measure_turns
from reward_harness.manifest import Frozen

LENGTH_BIAS_PAIRS = 256
"""Pairs that are scored a second time with filler; more would only add cost."""
MIN_SUBSET = 5
"""Sources with fewer pairs are not given a row of their own."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out data a reward is measured on; ``validation`` only fits the temperature.

    ``graded`` are sets of another distribution, by source.
    """

    test: Sequence[PreferencePair]
    validation: Sequence[PreferencePair]
    ranked: Sequence[RankedPrompt]
    graded: Mapping[str, Sequence[RankedPrompt]] = field(
        default_factory=dict[str, Sequence[RankedPrompt]]
    )


class LengthBaselines(Frozen):
    """Accuracy of preferring the longer or the shorter response, on the same pairs."""

    longer_wins: Interval
    shorter_wins: Interval


class PairMeasures(Frozen):
    """Everything measured on preference pairs."""

    n_pairs: int
    n_prompts: int
    unscored_share: float
    accuracy: Interval
    over_longer: Interval
    over_shorter: Interval
    length_controlled: Interval | None
    by_source: dict[str, Interval]
    length_bias: Interval | None
    score_mean: float
    score_std: float
    calibration: Calibration


class RewardMeasures(Frozen):
    """One reward's figures; a part without held-out data is None."""

    name: str
    label: str
    digest: str
    pairs: PairMeasures | None
    ranked: Interval | None
    ranked_unscored_share: float
    turns: TurnMeasures | None = None
    graded: list[GradedMeasures] = Field(default_factory=list[GradedMeasures])


class Agreement(Frozen):
    """How two rewards see the same responses (Spearman) and pairs (same preferred side).

    ``accuracy_difference`` is the first's accuracy minus the second's on the same pairs.
    """

    first: str
    second: str
    spearman: Interval | None
    accuracy_difference: Interval
    same_side: Interval
    same_side_high: Interval | None
    same_side_low: Interval | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A reward's figures with the raw pair scores that plots and agreement need."""

    measures: RewardMeasures
    scores: PairScores | None


def measure_scorer(scorer: Scorer, data: HeldOut, how: Resampling) -> Measured:
    """Score the held-out data once and measure; parts without data are None."""
    scores = score_pairs(scorer.rm, data.test) if data.test else None
    usable = scores is not None and bool(scores.scored.any())
    ranked, ranked_unscored = _ranked_agreement(scorer, data.ranked, how)
    measures = RewardMeasures(
        name=scorer.name,
        label=scorer.label,
        digest=scorer.digest,
        pairs=_pair_measures(scorer, scores, data.validation, how) if usable and scores else None,
        ranked=ranked,
        ranked_unscored_share=ranked_unscored,
        turns=measure_turns(scorer, scores, how) if usable and scores else None,
        graded=[
            found
            for source, prompts in data.graded.items()
            if (found := measure_graded(scorer, source, prompts, how)) is not None
        ],
    )
    return Measured(measures, scores)


def length_baselines(pairs: Sequence[PreferencePair], how: Resampling) -> LengthBaselines:
    """The two rules that any reward has to beat; a tie in length counts ½."""
    outcomes = _longer_outcomes(pairs)
    clusters = PairScores(pairs, np.zeros(len(pairs)), np.zeros(len(pairs))).clusters()
    longer = _clustered(outcomes, clusters, how, "longer")
    shorter = Interval(1 - longer.value, 1 - longer.high, 1 - longer.low, longer.n)
    return LengthBaselines(longer_wins=longer, shorter_wins=shorter)


def pair_agreement(candidates: Sequence[Candidate], scores: Scores) -> float | None:
    """Share of candidate pairs that the scores order as the labels do; a tie of scores counts ½.

    Pairs with equal or missing labels, or a missing score, are left out; None if no pair is left.
    """
    outcomes: list[float] = []
    for i, j in combinations(range(len(candidates)), 2):
        better = _label_order(candidates[i], candidates[j])
        margin = scores[i] - scores[j]
        if better and not np.isnan(margin):
            outcomes.append(float(outcomes_of([better * margin])[0]))
    return float(np.mean(outcomes)) if outcomes else None


def agreement(first: Measured, second: Measured, how: Resampling) -> Agreement | None:
    """Agreement of two measured rewards on the pairs both have scored, or None if there are none.

    The high and low regions are the halves of the pairs by the mean rank that both rewards give.
    """
    a, b = first.scores, second.scores
    if a is None or b is None or not (both := a.scored & b.scored).any():
        return None
    names = (first.measures.name, second.measures.name)
    same = (np.sign(a.margins[both]) == np.sign(b.margins[both])).astype(float)
    clusters = np.array(a.clusters())[both]
    height = _mean_rank(a)[both] + _mean_rank(b)[both]
    high = height >= np.median(height)
    return Agreement(
        first=names[0],
        second=names[1],
        spearman=_spearman(_both_sides(a, both), _both_sides(b, both), how, names),
        accuracy_difference=_clustered(
            outcomes_of(a.margins[both]) - outcomes_of(b.margins[both]),
            list(clusters),
            how,
            "difference",
            *names,
        ),
        same_side=_clustered(same, list(clusters), how, "same", *names),
        same_side_high=_part(same, clusters, high, how, "high", *names),
        same_side_low=_part(same, clusters, ~high, how, "low", *names),
    )


def _pair_measures(
    scorer: Scorer, scores: PairScores, validation: Sequence[PreferencePair], how: Resampling
) -> PairMeasures:
    scored = scores.scored
    pairs = [pair for pair, ok in zip(scores.pairs, scored, strict=True) if ok]
    kept = PairScores(pairs, scores.chosen[scored], scores.rejected[scored])
    right, longer, clusters = outcomes_of(kept.margins), _longer_outcomes(pairs), kept.clusters()
    held = score_pairs(scorer.rm, validation)
    return PairMeasures(
        n_pairs=len(pairs),
        n_prompts=len(set(clusters)),
        unscored_share=scores.unscored_share,
        accuracy=_clustered(right, clusters, how, scorer.name, "accuracy"),
        over_longer=_clustered(right - longer, clusters, how, scorer.name, "over_longer"),
        over_shorter=_clustered(right - (1 - longer), clusters, how, scorer.name, "over_shorter"),
        length_controlled=_length_controlled(right, longer, clusters, how, scorer.name),
        by_source=_by_source(pairs, right, clusters, how, scorer.name),
        length_bias=_length_bias(scorer, kept, how),
        score_mean=float(np.mean([kept.chosen.mean(), kept.rejected.mean()])),
        score_std=kept.spread,
        calibration=calibration(
            kept.margins,
            held.margins[held.scored],
            how.rng(scorer.name, "calibration"),
            how.samples,
        ),
    )


def _longer_outcomes(pairs: Sequence[PreferencePair]) -> Scores:
    return outcomes_of([word_count(p.chosen) - word_count(p.rejected) for p in pairs])


def _clustered(values: Scores, clusters: list[str], how: Resampling, *names: str) -> Interval:
    return cluster_bootstrap_mean(
        values, clusters, how.rng(*names), samples=how.samples, confidence=how.confidence
    )


def _length_controlled(
    right: Scores, longer: Scores, clusters: list[str], how: Resampling, name: str
) -> Interval | None:
    """Accuracy where the longer and the shorter side are right equally often.

    The mean of the accuracies on pairs whose chosen side is longer and on those whose chosen side
    is shorter: a scorer that reads nothing but length gets exactly ½.
    """
    if min((longer == 1).sum(), (longer == 0).sum()) < MIN_SUBSET:
        return None
    differ = longer != 0.5
    return stratified_bootstrap_mean(
        right[differ],
        list(longer[differ]),
        list(np.array(clusters)[differ]),
        how.rng(name, "length"),
        samples=how.samples,
        confidence=how.confidence,
    )


def _by_source(
    pairs: list[PreferencePair], right: Scores, clusters: list[str], how: Resampling, name: str
) -> dict[str, Interval]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        members[pair.source].append(index)
    return {
        source: _clustered(right[index], [clusters[i] for i in index], how, name, source)
        for source, index in sorted(members.items())
        if len(index) >= MIN_SUBSET
    }


def _length_bias(scorer: Scorer, kept: PairScores, how: Resampling) -> Interval | None:
    """Mean score change when filler is appended, in standard deviations of the scorer's scores."""
    pairs = list(kept.pairs)[:LENGTH_BIAS_PAIRS]
    padded = score_padded(scorer.rm, pairs)
    if kept.spread == 0.0 or not padded.scored.any():
        return None
    first = slice(0, len(pairs))
    change = (padded.chosen - kept.chosen[first]) + (padded.rejected - kept.rejected[first])
    clusters = [c for c, ok in zip(padded.clusters(), padded.scored, strict=True) if ok]
    values = change[padded.scored] / 2 / kept.spread
    return _clustered(values, clusters, how, scorer.name, "length_bias")


def _ranked_agreement(
    scorer: Scorer, prompts: Sequence[RankedPrompt], how: Resampling
) -> tuple[Interval | None, float]:
    """Mean over prompts of ``pair_agreement``, and the share of candidates without a score."""
    scores = score_candidates(scorer.rm, prompts)
    shares = [pair_agreement(p.candidates, s) for p, s in zip(prompts, scores, strict=True)]
    usable = [share for share in shares if share is not None]
    if not usable:
        return None, 0.0
    unscored = float(np.isnan(np.concatenate(scores)).mean())
    rng = how.rng(scorer.name, "ranked")
    interval = bootstrap_mean(usable, rng, samples=how.samples, confidence=how.confidence)
    return interval, unscored


def _label_order(first: Candidate, second: Candidate) -> int:
    """1 if the labels put ``first`` above ``second``, -1 below, 0 if they do not say."""
    if first.rank is not None and second.rank is not None:
        return int(np.sign(second.rank - first.rank))
    if first.quality is not None and second.quality is not None:
        return int(np.sign(first.quality - second.quality))
    return 0


def _both_sides(scores: PairScores, which: np.ndarray) -> Scores:
    return np.concatenate([scores.chosen[which], scores.rejected[which]])


def _mean_rank(scores: PairScores) -> Scores:
    """Mean rank of a pair's two scores among all pairs: heights that compare across scales."""
    from scipy.stats import rankdata

    ranks = rankdata(scores.chosen, nan_policy="omit") + rankdata(
        scores.rejected, nan_policy="omit"
    )
    return np.asarray(ranks, dtype=np.float64)


def _spearman(a: Scores, b: Scores, how: Resampling, names: tuple[str, str]) -> Interval | None:
    rng = how.rng("spearman", *names)
    return spearman(a, b, rng, samples=how.samples, confidence=how.confidence)


def _part(
    same: Scores, clusters: np.ndarray, which: np.ndarray, how: Resampling, *names: str
) -> Interval | None:
    if which.sum() < MIN_SUBSET:
        return None
    return _clustered(same[which], list(clusters[which]), how, *names)
