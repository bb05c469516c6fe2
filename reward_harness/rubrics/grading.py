"""From a rubric and response texts to score results: programmatic checks at once, model-graded
criteria by a ``Grader``.

A grader sees texts only: the prompt, one response, and the criteria. ``grade_batch`` is the
synchronous entry, ``grade_rubric`` the asynchronous one; a rubric without model-graded criteria
needs no grader and no event loop.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from reward_harness.data.records import Message
from reward_harness.llm.event_loop import run_sync
from reward_harness.rewards.base import Failed, Scored, ScoreResult
from reward_harness.rubrics.types import Criterion, Grades, Rubric, Scale, score


class Grader(Protocol):
    """Grades the model-graded criteria of one response."""

    async def grade(
        self, prompt: str, response: str, criteria: Sequence[Criterion], scale: Scale, vote: int = 0
    ) -> Grades | Failed:
        """One grade in [0, 1], or None for "does not apply", for each criterion; never a made-up
        number.
        """
        ...


def prompt_text(prompt: Sequence[Message] | Sequence[Mapping[str, str]]) -> str:
    """A prompt as the one text that graders and judges see: the turn itself, or a transcript of
    several.
    """
    turns = [
        (m.role, m.content) if isinstance(m, Message) else (m["role"], m["content"]) for m in prompt
    ]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in turns)


def check_grades(
    criteria: Sequence[Criterion], prompt: str, response: str
) -> dict[str, float | None]:
    """Grades of the programmatic criteria among ``criteria``."""
    return {
        c.criterion_id: c.check.grade(prompt, response) for c in criteria if c.check is not None
    }


def combine_votes(votes: Sequence[Grades]) -> dict[str, float | None]:
    """Median grade of each criterion; None where most votes said that it does not apply."""
    combined: dict[str, float | None] = {}
    for name in votes[0]:
        given = [g for vote in votes if (g := vote.get(name)) is not None]
        combined[name] = (
            statistics.median(given) if 2 * len(given) >= len(votes) and given else None
        )
    return combined


async def grade_response(
    rubric: Rubric, prompt: str, response: str, grader: Grader | None = None
) -> ScoreResult:
    """Score one response: ``Scored`` with ``criteria`` in its details and, of the votes that gave a
    score, ``vote_scores``, their ``variance`` and ``per_vote_grades`` in the same order.
    """
    checked = check_grades(rubric.criteria, prompt, response)
    asked = rubric.llm_criteria
    if not asked:
        return score(rubric, checked)
    if grader is None:
        return Failed("the rubric has model-graded criteria, and no grader was given")
    answers = await asyncio.gather(
        *(grader.grade(prompt, response, asked, rubric.scale, vote) for vote in range(rubric.votes))
    )
    votes: list[dict[str, float | None]] = []
    for answer in answers:
        if isinstance(answer, Failed):
            return answer
        votes.append({**checked, **answer})
    return _of_votes(rubric, votes)


def _of_votes(rubric: Rubric, votes: Sequence[Grades]) -> ScoreResult:
    result = score(rubric, combine_votes(votes))
    if not isinstance(result, Scored):
        return result
    scored = [(r.value, vote) for vote in votes if isinstance(r := score(rubric, vote), Scored)]
    each = [value for value, _ in scored]
    details = {
        **result.details,
        "vote_scores": each,
        "per_vote_grades": [dict(vote) for _, vote in scored],
        "variance": statistics.pvariance(each) if each else 0.0,
    }
    return Scored(result.value, details)


async def grade_rubric(
    rubric: Rubric, prompt: str, responses: Sequence[str], grader: Grader | None = None
) -> list[ScoreResult]:
    """Score several responses to one prompt, concurrently."""
    return list(
        await asyncio.gather(*(grade_response(rubric, prompt, r, grader) for r in responses))
    )


async def grade_items(
    rubric: Rubric, items: Sequence[tuple[str, str]], grader: Grader | None = None
) -> list[ScoreResult]:
    """Score ``(prompt, response)`` pairs, concurrently, in order."""
    return list(await asyncio.gather(*(grade_response(rubric, p, r, grader) for p, r in items)))


def grade_batch(
    rubric: Rubric, items: Sequence[tuple[str, str]], grader: Grader | None = None
) -> list[ScoreResult]:
    """Score ``(prompt, response)`` pairs from synchronous code, in order; a failed item fails
    alone.
    """
    if not rubric.needs_llm:
        return [score(rubric, check_grades(rubric.criteria, p, r)) for p, r in items]
    return run_sync(grade_items(rubric, items, grader))
