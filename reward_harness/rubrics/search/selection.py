"""Choosing parents from a population sorted best first: by rank, tournament, diverse top share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Rubric

TOURNAMENT_SIZE = 3
TOURNAMENT_P = 0.8
TOP_K_RATIO = 0.3
DIVERSITY_WEIGHT = 0.3


def choose_parents(
    members: Sequence[Member], count: int, strategy: str, rng: np.random.Generator
) -> list[Member]:
    """``count`` different parents, or all members if there are fewer."""
    count = min(count, len(members))
    if strategy == "tournament":
        return _tournament(list(members), count, rng)
    if strategy == "top_k":
        return _diverse_top(members, count)
    return list(members[:count])


def _tournament(members: list[Member], count: int, rng: np.random.Generator) -> list[Member]:
    """Rounds of three without replacement; the best of a round wins with probability .8."""
    chosen: list[Member] = []
    while len(chosen) < count:
        size = min(TOURNAMENT_SIZE, len(members))
        drawn = sorted(rng.choice(len(members), size=size, replace=False).tolist())
        winner = next((i for i in drawn if rng.random() < TOURNAMENT_P), drawn[-1])
        chosen.append(members.pop(winner))
    return chosen


def _diverse_top(members: Sequence[Member], count: int) -> list[Member]:
    """From the top 30 % (at least ``count``): rank and distance to what is chosen, 7 to 3."""
    pool = list(members[: max(count, round(TOP_K_RATIO * len(members)))])
    chosen = [pool.pop(0)]
    while len(chosen) < count:

        def merit(index: int) -> float:
            rank = 1 - index / max(len(pool) - 1, 1)
            apart = min(distance(pool[index].rubric, c.rubric) for c in chosen)
            return (1 - DIVERSITY_WEIGHT) * rank + DIVERSITY_WEIGHT * apart

        chosen.append(pool.pop(max(range(len(pool)), key=merit)))
    return chosen


def distance(first: Rubric, second: Rubric) -> float:
    """0 for rubrics that differ in ids only, 1 for nothing in common: 1 − Σmin(w)/Σmax(w)."""
    a, b = _shares(first), _shares(second)
    names = a.keys() | b.keys()
    common = sum(min(a.get(n, 0.0), b.get(n, 0.0)) for n in names)
    either = sum(max(a.get(n, 0.0), b.get(n, 0.0)) for n in names)
    return 1 - common / either if either else 0.0


def _shares(rubric: Rubric) -> dict[tuple[str, int], float]:
    """Each criterion's share of the weight, by what it asks and its polarity."""
    total = sum(c.weight for c in rubric.criteria)
    uniform = 1 / len(rubric.criteria)
    return {
        (c.grading_digest, c.polarity): c.weight / total if total else uniform
        for c in rubric.criteria
    }
