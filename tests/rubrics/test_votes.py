"""Several votes on one response: which of them count, and what a dataset of gradings keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from reward_harness.data.records import Message
from reward_harness.rewards.base import Scored
from reward_harness.rubrics.grading import grade_response
from reward_harness.rubrics.types import Criterion, Grades, Rubric
from reward_harness.stages.distillation import Sampled, raw_rows, scored_row


class Votes:
    """Answers each vote with the grades it was made with."""

    def __init__(self, *votes: Grades) -> None:
        self.votes = votes

    async def grade(self, prompt, response, criteria, scale, vote=0) -> Grades:
        return self.votes[vote]


def graded(missing: str, *votes: Grades) -> Scored:
    criteria = [Criterion(criterion_id=name, text=f"criterion {name}") for name in ("a", "b")]
    rubric = Rubric.model_validate(
        {"rubric_id": "r", "criteria": criteria, "votes": len(votes), "missing": missing}
    )
    result = asyncio.run(grade_response(rubric, "prompt", "response", Votes(*votes)))
    assert isinstance(result, Scored)
    return result


def kept(result: Scored) -> Sequence[tuple[float, dict]]:
    """(score, grades) of the raw rows and what the dataset's row says of the same gradings."""
    sample = Sampled(
        sample_id="1/0",
        prompt_id="1",
        prompt=[Message(role="user", content="prompt")],
        response="response",
    )
    rows = raw_rows(sample, result)
    whole = scored_row(sample, result)
    assert whole.n == len(rows)
    assert whole.score == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    return [(row["score"], row["criteria"]) for row in rows]


NOTHING: Grades = {"a": None, "b": None}


def test_an_abstaining_vote_shifts_no_grading_to_anothers_score():
    low, high = {"a": 0.0, "b": 0.2}, {"a": 1.0, "b": 0.8}
    result = graded("skip", NOTHING, low, high)
    assert result.details["vote_scores"] == pytest.approx([0.1, 0.9])
    assert result.details["per_vote_grades"] == [low, high]
    assert kept(result) == [(pytest.approx(0.1), low), (pytest.approx(0.9), high)]


def test_votes_that_score_only_together_are_one_grading():
    result = graded("error", {"a": 1.0, "b": None}, {"a": None, "b": 0.5})
    assert (result.value, result.details["vote_scores"]) == (0.75, [])
    assert kept(result) == [(0.75, {"a": 1.0, "b": 0.5})]
