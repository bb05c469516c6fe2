"""Parents by strategy, and a distance that looks at what rubrics ask."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.rubrics.catalogue import broad_rubric, initial_rubric
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.search.selection import (
    choose_parents,
    distance,
    population_diversity,
    similarity,
)
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import SearchConfig

TEXTS = (
    "Names a source for each claim.",
    "Names a source for every claim.",
    "Keeps the answer short.",
    "说明每个论断的来源。",
    "???",
)


def rubric(*parts: tuple[str, float], polarity=1, prefix="c") -> Rubric:
    return Rubric(
        rubric_id=prefix,
        criteria=[
            Criterion(criterion_id=f"{prefix}{i}", text=t, weight=w, polarity=polarity)
            for i, (t, w) in enumerate(parts)
        ],
    )


def member(r: Rubric, score: float) -> Member:
    return Member(
        rubric=r,
        score=score,
        agreement=score,
        tail_acc=score,
        diverse_tail_acc=score,
        tail_var=0,
        unscored=0,
        mode="initial",
        born=0,
    )


def population() -> list[Member]:
    """Four near copies at the top, then a different one."""
    near = [member(rubric((TEXTS[0], 1 + i / 100)), 1 - i / 10) for i in range(4)]
    return [*near, member(rubric((TEXTS[2], 1)), 0.1)]


rubrics = st.lists(st.tuples(st.sampled_from(TEXTS), st.floats(0, 5)), min_size=1, max_size=5).map(
    lambda parts: rubric(*parts)
)


@given(rubrics, rubrics)
def test_distance_is_symmetric_and_bounded(a, b):
    assert 0 <= distance(a, b) <= 1
    assert distance(a, b) == pytest.approx(distance(b, a))


@given(rubrics, st.randoms(use_true_random=False))
def test_ids_and_order_do_not_matter(a, random):
    shuffled = list(a.criteria)
    random.shuffle(shuffled)
    renamed = Rubric(
        rubric_id="other",
        criteria=[c.model_copy(update={"criterion_id": f"x{i}"}) for i, c in enumerate(shuffled)],
        metadata={"note": 1},
    )
    assert distance(a, renamed) == pytest.approx(0, abs=1e-9)


def test_near_texts_are_near():
    near = distance(rubric((TEXTS[0], 1)), rubric((TEXTS[1], 1)))
    far = distance(rubric((TEXTS[0], 1)), rubric((TEXTS[2], 1)))
    # of six words and five pairs a side, five words and three pairs are common
    assert near == pytest.approx(1 - 8 / 14)
    assert far == 1.0
    assert 0 < distance(rubric((TEXTS[3], 1)), rubric((TEXTS[3][:6], 1))) < 1


def test_weights_count_by_their_shares():
    a = rubric((TEXTS[0], 2), (TEXTS[2], 2))
    assert distance(a, rubric((TEXTS[0], 1), (TEXTS[2], 1))) == 0
    assert distance(a, rubric((TEXTS[0], 3), (TEXTS[2], 1))) == pytest.approx(0.25)
    assert distance(rubric((TEXTS[0], 1), (TEXTS[0], 1)), rubric((TEXTS[0], 2))) == 0


def test_a_fault_is_not_the_merit():
    assert distance(rubric((TEXTS[0], 1)), rubric((TEXTS[0], 1), polarity=-1)) == 1.0


def test_checks_are_near_if_their_parameters_are():
    def check(**fields) -> Criterion:
        return Criterion(
            criterion_id="a", text="length", kind="programmatic", check=WordCount(**fields)
        )

    assert similarity(check(max_words=50), check(max_words=50)) == 1
    assert 0 < similarity(check(max_words=50), check(max_words=60)) < 1
    assert similarity(check(max_words=50), Criterion(criterion_id="a", text="length")) == 0


def test_population_diversity_is_the_mean_over_pairs():
    a, b = rubric((TEXTS[0], 1)), rubric((TEXTS[2], 1))
    assert population_diversity([a]) == 0
    assert population_diversity([a, a, a]) == 0
    assert population_diversity([a, a, b]) == pytest.approx(2 / 3)
    assert population_diversity([initial_rubric(), broad_rubric()]) > 0.3


def test_diverse_top_prefers_the_different_one():
    def second(**fields) -> Member:
        config = SearchConfig(selection_strategy="top_k", **fields)
        return choose_parents(population(), 2, config, np.random.default_rng(0))[1]

    everyone = population()
    assert second(top_k_ratio=1.0, diversity_weight=0.9) == everyone[4]
    assert second(top_k_ratio=1.0, diversity_weight=0.0) == everyone[1]
    assert second(top_k_ratio=0.4, diversity_weight=0.9) != everyone[4]


def test_tournament_size_and_p_are_the_settings():
    everyone = population()

    def winners(**fields) -> Counter[float | None]:
        config = SearchConfig(selection_strategy="tournament", **fields)
        return Counter(
            choose_parents(everyone, 1, config, np.random.default_rng(i))[0].score
            for i in range(200)
        )

    assert winners(tournament_size=5, tournament_p=1.0) == {1.0: 200}
    assert len(winners(tournament_size=1, tournament_p=1.0)) == 5
    assert 140 <= winners(tournament_size=5, tournament_p=0.8)[1.0] <= 180


@pytest.mark.parametrize("strategy", ["rank", "tournament", "top_k"])
def test_no_more_parents_than_members(strategy):
    config, rng = SearchConfig(selection_strategy=strategy), np.random.default_rng(0)
    assert len(choose_parents(population(), 9, config, rng)) == 5
    assert choose_parents([], 3, config, rng) == []
