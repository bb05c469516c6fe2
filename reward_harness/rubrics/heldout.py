"""Choosing a rubric on prompts that the search never saw, and measuring the choice on yet others.

Selection: the archive's rubrics are compared by full-pair agreement on the validation prompts;
among those within one standard error of the best, the one that agreed best in the search wins (a
handful of prompts cannot tell close rubrics apart, and the search saw many). Measurement: agreement
over all judged pairs of the test prompts, with an interval that resamples prompts, beside the
initial rubric and the two length rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reward_harness.errors import DataError
from reward_harness.evaluation.statistics import Interval, cluster_bootstrap_mean
from reward_harness.hashing import derive_seed
from reward_harness.manifest import Frozen
from reward_harness.rubrics.objective import Array, pair_agreement
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Rubric

Outcomes = Mapping[int, Sequence[float]]


class Agreement(Frozen):
    """Share of judged pairs that are ordered as the judge orders them; ties count ½."""

    value: float
    ci_low: float
    ci_high: float
    prompts: int
    pairs: int


class Candidate(Frozen):
    """One archived rubric in the selection."""

    rubric_id: str
    digest: str
    mode: str
    born: int
    safe: bool
    search_score: float | None
    search_agreement: float | None
    validation_agreement: float | None


class Heldout(Frozen):
    """``heldout.json``: what was chosen on the validation split, measured on the test split."""

    scope: str
    selected: str
    selected_by: str
    agreement: Agreement | None
    initial: Agreement | None
    difference: Agreement | None
    longer_wins: Agreement | None
    shorter_wins: Agreement | None
    validation_prompts: int
    unscored_responses: int
    inconsistent_judgements: float | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Deciding:
    """A pair of responses to prompt ``prompt`` that a criterion helps to order as the judge does.

    ``grades`` are the criterion's (1 − g for a fault), ``scores`` the rubric's, better response
    first; ``alone``: without the criterion the rubric would not order the pair so.
    """

    prompt: int
    better: int
    worse: int
    grades: tuple[float, float]
    scores: tuple[float, float]
    alone: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """Greater for the clearer example."""
        return self.alone, round(self.grades[0] - self.grades[1], 12)


def agreement(outcomes: Outcomes, seed: int, samples: int = 2000) -> Agreement | None:
    """Mean outcome with its interval; None without a judged pair."""
    values = [v for i in sorted(outcomes) for v in outcomes[i]]
    clusters = [i for i in sorted(outcomes) for _ in outcomes[i]]
    if not values:
        return None
    rng = np.random.default_rng(derive_seed(seed, "agreement"))
    found = cluster_bootstrap_mean(values, clusters, rng, samples=samples)
    return _agreement(found, len(values))


def difference(first: Outcomes, second: Outcomes, seed: int) -> Agreement | None:
    """Paired difference of two rubrics on the same pairs, first minus second."""
    shared = [i for i in sorted(first) if len(first[i]) == len(second.get(i, ()))]
    paired = {i: [a - b for a, b in zip(first[i], second[i], strict=True)] for i in shared}
    return agreement(paired, seed)


def length_outcomes(evaluator: Evaluator, prompts: Sequence[int], sign: int) -> Outcomes:
    """Outcomes of "the longer (+1) or the shorter (-1) response is better", in words."""
    found: dict[int, list[float]] = {}
    for index in prompts:
        lengths = [float(len(text.split())) for text in evaluator.prompts[index].responses]
        scores: Array = sign * np.asarray(lengths)
        found[index] = pair_agreement(scores, evaluator.judged[index])
    return found


def select(members: Sequence[Member], validation: Mapping[str, Outcomes]) -> Member:
    """The member to use; ``validation`` has outcomes by rubric digest, none without a holdout."""
    scored = [m for m in members if m.score is not None]
    usable = [m for m in scored if m.safe] or scored
    if not usable:
        raise DataError("no rubric of the search could be scored on enough responses")
    means = {d: m for d, o in validation.items() if (m := _mean(o)) is not None}
    measured = [m for m in usable if m.rubric.digest in means]
    if not measured:
        return min(usable, key=lambda m: m.rank_key)
    best = max(measured, key=lambda m: means[m.rubric.digest])
    floor = means[best.rubric.digest] - _standard_error(validation[best.rubric.digest])
    close = [m for m in measured if means[m.rubric.digest] >= floor]
    return min(close, key=lambda m: (-(m.agreement or 0.0), *m.rank_key))


def candidates(
    members: Sequence[Member], validation: Mapping[str, Outcomes]
) -> tuple[Candidate, ...]:
    """The table of the selection."""
    return tuple(
        Candidate(
            rubric_id=m.rubric.rubric_id,
            digest=m.rubric.digest,
            mode=m.mode,
            born=m.born,
            safe=m.safe,
            search_score=m.score,
            search_agreement=m.agreement,
            validation_agreement=_mean(validation.get(m.rubric.digest, {})),
        )
        for m in members
    )


def deciding_example(
    evaluator: Evaluator, rubric: Rubric, criterion: int, prompts: Sequence[int]
) -> Deciding | None:
    """The rightly ordered pair that a criterion separates most, one that it decides if there is."""
    total = sum(c.weight for c in rubric.criteria)
    weight = rubric.criteria[criterion].weight
    best: Deciding | None = None
    for index in prompts:
        graded = evaluator.matrix.contributions(rubric, evaluator.columns[index])[criterion]
        scores = evaluator.scores(rubric, index)
        for a, b in np.argwhere(evaluator.judged[index] == 1).tolist():
            gap, margin = weight * float(graded[a] - graded[b]), float(scores[a] - scores[b])
            if gap <= 1e-9 or not margin > 0:
                continue
            found = Deciding(
                prompt=index,
                better=a,
                worse=b,
                grades=(float(graded[a]), float(graded[b])),
                scores=(float(scores[a]), float(scores[b])),
                alone=gap >= margin * total - 1e-12,
            )
            if best is None or found.rank > best.rank:
                best = found
    return best


def _mean(outcomes: Outcomes) -> float | None:
    values = [v for i in sorted(outcomes) for v in outcomes[i]]
    return float(np.mean(values)) if values else None


def _standard_error(outcomes: Outcomes) -> float:
    """Of the mean over prompts."""
    means = [float(np.mean(v)) for v in outcomes.values() if len(v)]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0


def _agreement(found: Interval, pairs: int) -> Agreement:
    return Agreement(
        value=found.value, ci_low=found.low, ci_high=found.high, prompts=found.n, pairs=pairs
    )
