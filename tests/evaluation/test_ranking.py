"""Order statistics on closed-form cases, and conversations and graded sets on toy rewards."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_rewards import HOW, RuleRM, longer, pairs, quality, scorer

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import DataError
from reward_harness.evaluation.graded import measure_graded
from reward_harness.evaluation.ranking import cluster_spearman, kendall, pareto_front
from reward_harness.evaluation.scoring import Scorer, score_pairs
from reward_harness.evaluation.turns import measure_turns, truncated_share
from reward_harness.rewards.base import Scored


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_kendall_counts_concordant_pairs_and_corrects_ties():
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(1.0)
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # 5 of 6 pairs agree
    # one tie: (3 - 0) / sqrt(3 · 2) with τ-b over three items of which two are tied on one side
    assert kendall([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / np.sqrt(6))
    assert kendall([1, 1, 1], [1, 2, 3]) is None


def test_the_pareto_front_holds_what_nothing_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (0.5, 4.0), (1.0, 5.0)]
    assert pareto_front(points, ("max", "min")) == [1]
    assert pareto_front(points, ("max", "max")) == [2]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)], ("max", "max")) == [0, 1]
    assert pareto_front([(1.0, 2.0), (2.0, 1.0), (0.9, 0.9)], ("max", "max")) == [0, 1]
    with pytest.raises(DataError, match="one number for each aim"):
        pareto_front(points, ("max",))


def test_clusters_widen_the_interval_of_a_correlation():
    x = np.repeat(rng().normal(size=20), 20)
    y = np.repeat(rng().normal(size=20) + np.arange(20) / 10, 20)
    alone = cluster_spearman(x, y, range(400), rng(), samples=300)
    grouped = cluster_spearman(x, y, np.repeat(np.arange(20), 20).tolist(), rng(), samples=300)
    assert grouped.value == alone.value
    assert (alone.n, grouped.n) == (400, 20)
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert cluster_spearman([1, 2, 3], [2, 4, 9], range(3), rng()).value == pytest.approx(1.0)
    assert cluster_spearman([1, 1], [1, 2], range(2), rng()) is None


def graded_set(n: int = 30) -> list[RankedPrompt]:
    draws = rng()
    return [
        RankedPrompt(
            prompt_id=f"g{i}",
            prompt=[Message(role="user", content=f"Task {i}")],
            candidates=[
                Candidate(
                    candidate_id=f"c{j}",
                    text=f"{j / 4:.2f} " + "word " * int(draws.integers(5, 60)),
                    quality=1.0 + j,
                )
                for j in range(4)
            ],
        )
        for i in range(n)
    ]


def test_grades_are_found_by_a_reward_that_knows_quality_and_not_by_length():
    knows = measure_graded(scorer(quality), "set", graded_set(), HOW)
    assert knows.spearman.value == pytest.approx(1.0) and knows.kendall == pytest.approx(1.0)
    assert (knows.n_responses, knows.spearman.n) == (120, 30)
    blind = measure_graded(scorer(longer), "set", graded_set(), HOW)
    assert blind.spearman.low < 0 < blind.spearman.high
    assert blind.spearman.value == pytest.approx(blind.length_spearman.value)
    gaps = measure_graded(
        scorer(lambda t: None if t.startswith("0.00") else quality(t)), "set", graded_set(), HOW
    )
    assert gaps.unscored_share == 0.25 and gaps.n_responses == 90
    assert measure_graded(scorer(lambda t: None), "set", graded_set(), HOW) is None


def talked(n: int = 60):
    """Pairs after an opening turn that says which side wins."""
    return [
        pair.model_copy(
            update={
                "prompt": [
                    Message(role="user", content="even" if i % 2 else "odd"),
                    Message(role="assistant", content="Yes?"),
                    *pair.prompt,
                ]
            }
        )
        for i, pair in enumerate(pairs(n))
    ]


class OpeningRM(RuleRM):
    """Scores by quality, backwards unless it sees the opening turn."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [
            Scored(quality(c[-1]["content"]) * (1 if c[0]["content"] in ("even", "odd") else -1))
            for c in batch
        ]


def test_a_reward_that_needs_the_conversation_loses_by_its_last_turn():
    data = talked()
    rm = OpeningRM(quality)
    found = measure_turns(Scorer("x", "x", rm, ""), score_pairs(rm, data), HOW)
    assert (found.whole.value, found.last_turn.value, found.difference.value) == (1.0, 0.0, 1.0)
    assert found.n_pairs == 60 and found.truncated is None
    same = RuleRM(quality)
    alike = measure_turns(Scorer("x", "x", same, ""), score_pairs(same, data), HOW)
    assert alike.difference.value == 0.0
    single = score_pairs(same, pairs(10))
    assert measure_turns(Scorer("x", "x", same, ""), single, HOW) is None


class LimitedRM(RuleRM):
    """Reads at most 30 words and says how many it read."""

    class model:
        class settings:
            max_length = 30

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [
            Scored(1.0, {"tokens_scored": min(30, len(c[-1]["content"].split()))}) for c in batch
        ]


def test_conversations_that_fill_the_limit_are_counted_as_cut():
    data = pairs(40)
    texts = [text for pair in data for text in (pair.chosen, pair.rejected)]
    share = truncated_share(LimitedRM(quality), data)
    assert share.value == sum(len(t.split()) >= 30 for t in texts) / 80
    assert share.n == 80 and 0 < share.value < 1
