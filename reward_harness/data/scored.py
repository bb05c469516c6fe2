"""Responses with a score in [0, 1]: what a reward is distilled from.

One JSON line each. ``criteria`` keep the mean and spread of every criterion over the times it was
graded, so that a pair made from two responses leads back to the raw numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from reward_harness.data.files import json_lines, refuse_repeated_id, validated, write_lines
from reward_harness.data.records import Message, Text
from reward_harness.hashing import canonical_json
from reward_harness.manifest import Frozen


class Spread(Frozen):
    """Mean and unbiased standard deviation of ``n`` gradings; with one, the deviation is 0."""

    mean: float
    std: float = Field(ge=0)
    n: int = Field(ge=1)


class ScoredResponse(Frozen):
    """A response, its mean score in [0, 1] over repeated scorings, and their spread."""

    response_id: Text
    prompt: list[Message] = Field(min_length=1)
    response: Text
    score: float = Field(ge=0, le=1)
    std: float = Field(default=0.0, ge=0)
    n: int = Field(default=1, ge=1)
    criteria: dict[str, Spread] = Field(default_factory=dict[str, Spread])
    source: str = ""


def write_scored(path: Path, rows: Iterable[ScoredResponse]) -> None:
    """Canonical JSON lines."""
    write_lines(path, (canonical_json(row.model_dump(mode="json")) + b"\n" for row in rows))


def read_scored(path: Path) -> list[ScoredResponse]:
    """All rows; ``DataError`` with file and line for one that is not valid or repeats an id."""
    rows: list[ScoredResponse] = []
    lines: dict[str, int] = {}
    for line, value in json_lines(path):
        where = f"{path}:{line}"
        row = validated(ScoredResponse, value, where)
        refuse_repeated_id(row.response_id, line, lines, where)
        rows.append(row)
    return rows
