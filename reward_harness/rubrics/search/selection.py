"""Choosing parents from a population sorted best first, and how far apart two rubrics are.

The distance is semantic: ids, order and how a weight is split over equal criteria do not matter,
texts are compared by their tokens and weights by their shares.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import SearchConfig

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def choose_parents(
    members: Sequence[Member], count: int, config: SearchConfig, rng: np.random.Generator
) -> list[Member]:
    """``count`` different parents, or all members if there are fewer."""
    count = min(count, len(members))
    match config.selection_strategy:
        case "tournament":
            return _tournament(list(members), count, config, rng)
        case "top_k":
            return _diverse_top(members, count, config)
        case "rank":
            return list(members[:count])


def _tournament(
    members: list[Member], count: int, config: SearchConfig, rng: np.random.Generator
) -> list[Member]:
    """Rounds of ``tournament_size`` without replacement; the best wins with ``tournament_p``, else
    the next best, and so on.
    """
    chosen: list[Member] = []
    while len(chosen) < count:
        size = min(config.tournament_size, len(members))
        drawn = sorted(rng.choice(len(members), size=size, replace=False).tolist())
        winner = next((i for i in drawn if rng.random() < config.tournament_p), drawn[-1])
        chosen.append(members.pop(winner))
    return chosen


def _diverse_top(members: Sequence[Member], count: int, config: SearchConfig) -> list[Member]:
    """From the top ``top_k_ratio`` (at least ``count``): rank against distance to what is chosen,
    ``diversity_weight`` of the merit for the distance.
    """
    if count == 0:
        return []
    pool = list(members[: max(count, round(config.top_k_ratio * len(members)))])
    chosen, share = [pool.pop(0)], config.diversity_weight
    while len(chosen) < count:

        def merit(index: int) -> float:
            rank = 1 - index / max(len(pool) - 1, 1)
            apart = min(distance(pool[index].rubric, c.rubric) for c in chosen)
            return (1 - share) * rank + share * apart

        chosen.append(pool.pop(max(range(len(pool)), key=merit)))
    return chosen


def distance(first: Rubric, second: Rubric) -> float:
    """0 for rubrics that differ in ids only, 1 for nothing in common.

    1 − Σ s·min(w, w') over the one-to-one matching of criteria that makes the sum largest, with w
    a criterion's share of its rubric's weight and s the similarity of two criteria. With the same
    criteria this is the total variation distance of the weights.
    """
    a, b = _shares(first), _shares(second)
    common = np.array(
        [[_similarity(c, d) * min(wc, wd) for d, wd in b.items()] for c, wc in a.items()],
        dtype=np.float64,
    )
    rows, columns = linear_sum_assignment(common, maximize=True)
    return min(max(1.0 - float(common[rows, columns].sum()), 0.0), 1.0)


def population_diversity(rubrics: Sequence[Rubric]) -> float:
    """Mean distance of two rubrics of the population; 0 with fewer than two."""
    pairs = list(combinations(rubrics, 2))
    return math.fsum(distance(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0


def similarity(first: Criterion, second: Criterion) -> float:
    """1 for criteria that ask the same, 0 for another polarity or nothing in common.

    Texts by the overlap of their words and word pairs, checks of one kind by the share of their
    parameters that are equal.
    """
    return _similarity(_Asked.by(first), _Asked.by(second))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a criterion asks, compared and cached by its digest: weight and id do not enter."""

    digest: str
    polarity: int
    criterion: Criterion = field(compare=False, repr=False)

    @classmethod
    def by(cls, criterion: Criterion) -> _Asked:
        return cls(criterion.grading_digest, criterion.polarity, criterion)


@lru_cache(maxsize=1 << 16)
def _similarity(first: _Asked, second: _Asked) -> float:
    if first.polarity != second.polarity:
        return 0.0
    if first.digest == second.digest:
        return 1.0
    a, b = first.criterion.check, second.criterion.check
    if a is None and b is None:
        ours, theirs = _words(first.criterion), _words(second.criterion)
        return (ours & theirs).total() / (ours | theirs).total()
    if a is None or b is None or type(a) is not type(b):
        return 0.0
    mine, other = a.model_dump(mode="json"), b.model_dump(mode="json")
    return sum(mine[name] == other[name] for name in mine) / len(mine)


def _words(criterion: Criterion) -> Counter[str]:
    parts = (criterion.check_points, criterion.positive_examples, criterion.negative_examples)
    return _tokens("\n".join([criterion.text, *(line for part in parts for line in part)]))


@lru_cache(maxsize=4096)
def _tokens(text: str) -> Counter[str]:
    """Words (characters in scripts without spaces) and pairs of neighbours, counted."""
    words = TOKEN.findall(text.casefold()) or [text]
    return Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])


def _shares(rubric: Rubric) -> dict[_Asked, float]:
    """Each different criterion's share of the weight; equal criteria count together."""
    total = sum(c.weight for c in rubric.criteria)
    uniform = 1 / len(rubric.criteria)
    shares: dict[_Asked, float] = {}
    for criterion in rubric.criteria:
        asked = _Asked.by(criterion)
        share = criterion.weight / total if total else uniform
        shares[asked] = shares.get(asked, 0.0) + share
    return shares
