"""Readers of ranked prompts: canonical, rubric dataset ``{"prompts": [...]}``, Prometheus sets.

Ranks, qualities and sources are labels of a candidate; what is left of its metadata stays in
``metadata``. No judge or grader is ever shown any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import mean
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from reward_harness.data.files import validated
from reward_harness.data.readers.rows import (
    Read,
    Reader,
    Row,
    Rows,
    reader_of,
    record_problem,
    user,
)
from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import DataError


def _canonical(rows: Rows, name: str) -> Iterator[Read]:
    for line, value in rows:
        try:
            yield line, validated(RankedPrompt, value, None)
        except DataError as problem:
            yield line, problem


class CandidateMetadata(Row):
    """Labels that the rubric dataset keeps under ``metadata``; others are carried along."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rank: int | None = Field(default=None, ge=1, strict=True)
    quality: float | None = None


class RubricCandidate(Row):
    """One response of the rubric dataset."""

    candidate_id: str
    text: str
    source: str = ""
    metadata: CandidateMetadata = CandidateMetadata()


class RubricPrompt(Row):
    """One prompt of the rubric dataset; ``prompt`` is text or a list of messages."""

    prompt_id: str
    prompt: str | list[Message]
    candidates: list[RubricCandidate]


def rubric_prompt(row: RubricPrompt, prompt_id: str, source: str) -> RankedPrompt:
    """The row with its candidates' rank and quality lifted out of their metadata."""
    return RankedPrompt(
        prompt_id=row.prompt_id,
        prompt=user(row.prompt) if isinstance(row.prompt, str) else row.prompt,
        candidates=[
            Candidate(
                candidate_id=c.candidate_id,
                text=c.text,
                source=c.source,
                rank=c.metadata.rank,
                quality=c.metadata.quality,
                metadata=dict(c.metadata.__pydantic_extra__ or {}),
            )
            for c in row.candidates
        ],
    )


class PrometheusRow(Row):
    """A response graded 1 to 5 several times by GPT-4, inside the prompt of the grader."""

    idx: int
    response_source: str
    instruction: str
    gpt4_score: list[int] = Field(min_length=1)


PROMETHEUS_PARTS = re.compile(
    r"###The instruction to evaluate:\n(?P<prompt>.*?)\n+"
    r"###Response to evaluate:\n(?P<response>.*?)\n+###Reference Answer",
    re.DOTALL,
)


def _prometheus(rows: Rows, name: str) -> Iterator[Read]:
    """Rows of one ``idx`` are the responses to one prompt.

    The record has the line of the first of them.
    """
    groups: dict[int, list[tuple[int, PrometheusRow, str, str]]] = {}
    for line, value in rows:
        try:
            row = validated(PrometheusRow, value, None)
            groups.setdefault(row.idx, []).append((line, row, *_prometheus_parts(row)))
        except DataError as problem:
            yield line, problem
    for idx, group in groups.items():
        yield group[0][0], _graded_prompt(f"{name}-{idx}", group)


def _prometheus_parts(row: PrometheusRow) -> tuple[str, str]:
    found = PROMETHEUS_PARTS.search(row.instruction)
    if found is None:
        raise DataError(
            "instruction and response cannot be told apart",
            got=row.instruction[:80],
            expected="the headings of a Prometheus prompt (###Response to evaluate: …)",
        )
    return found["prompt"].strip(), found["response"].strip()


def _graded_prompt(
    prompt_id: str, group: list[tuple[int, PrometheusRow, str, str]]
) -> RankedPrompt | DataError:
    """Quality is the mean grade; rank 1 is the highest, and equal grades share a rank."""
    prompts = {prompt for _, _, prompt, _ in group}
    if len(prompts) != 1:
        return DataError(
            "responses of one idx have different prompts", got=len(prompts), expected="1"
        )
    grades = [mean(row.gpt4_score) for _, row, _, _ in group]
    labels: list[dict[str, Any]] = [
        {"rank": 1 + sum(other > grade for other in grades), "quality": grade} for grade in grades
    ]
    try:
        return RankedPrompt(
            prompt_id=prompt_id,
            prompt=user(prompts.pop()),
            candidates=[
                Candidate(
                    candidate_id=row.response_source, text=text, source=row.response_source, **label
                )
                for (_, row, _, text), label in zip(group, labels, strict=True)
            ],
        )
    except ValidationError as error:
        return record_problem(error)


CANONICAL = Reader(RankedPrompt, _canonical)
RUBRIC_DATASET = reader_of(RankedPrompt, RubricPrompt, rubric_prompt, top_level="prompts")
PROMETHEUS = Reader(RankedPrompt, _prometheus)
