"""Criterion and Rubric: what a response is graded on, and how grades become a score.

Grades are numbers in [0, 1] everywhere in memory; a model's answer in the rubric's declared
scale is mapped once, where it is parsed (``unit_grade``). A rubric's identity is its content:
ids, order and metadata do not enter ``digest``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from reward_harness.data.records import Text
from reward_harness.hashing import digest_json
from reward_harness.manifest import Frozen
from reward_harness.rewards.base import Abstained, Failed, Scored, ScoreResult
from reward_harness.rubrics.checks import Check

Scale = Literal["binary", "unit_0_1", "likert_1_5", "likert_0_5"]
Missing = Literal["no", "skip", "error"]
Grades = Mapping[str, float | None]
"""``{criterion_id: grade in [0, 1]}``; None: the grader said that a criterion does not apply."""

SCALE_BOUNDS: dict[str, tuple[float, float]] = {
    "binary": (0.0, 1.0),
    "unit_0_1": (0.0, 1.0),
    "likert_1_5": (1.0, 5.0),
    "likert_0_5": (0.0, 5.0),
}


class Criterion(Frozen):
    """One thing to look at. ``kind`` programmatic means that ``check`` computes it; polarity -1
    marks a fault.
    """

    criterion_id: Text
    text: Text
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    kind: Literal["llm", "programmatic"] = "llm"
    polarity: Literal[1, -1] = 1
    check_points: tuple[str, ...] = ()
    positive_examples: tuple[str, ...] = ()
    negative_examples: tuple[str, ...] = ()
    check: Check | None = None

    @model_validator(mode="after")
    def _kind_fits_check(self) -> Criterion:
        if (self.kind == "programmatic") != (self.check is not None):
            raise ValueError("a programmatic criterion has a check, and no other one has")
        return self

    @property
    def grading_content(self) -> dict[str, Any]:
        """What a grade depends on: all but id, weight and polarity; the text of a check is only a
        label.
        """
        if self.check is not None:
            return {"check": self.check.model_dump(mode="json")}
        return {
            "text": self.text,
            "check_points": list(self.check_points),
            "positive_examples": list(self.positive_examples),
            "negative_examples": list(self.negative_examples),
        }

    @property
    def grading_digest(self) -> str:
        """Key of this criterion's grades: criteria that ask the same have one."""
        return digest_json(self.grading_content)

    @property
    def content(self) -> dict[str, Any]:
        """Everything but the id."""
        return {"grading": self.grading_content, "weight": self.weight, "polarity": self.polarity}


class Rubric(Frozen):
    """Weighted criteria with the scale their grades are given in and what a missing grade means."""

    rubric_id: Text
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    scale: Scale = "likert_0_5"
    missing: Missing = "no"
    votes: int = Field(default=1, ge=1)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _criterion_ids_differ(self) -> Rubric:
        ids = [c.criterion_id for c in self.criteria]
        if len(set(ids)) != len(ids):
            raise ValueError(f"duplicate criterion_id in rubric {self.rubric_id!r}")
        return self

    @cached_property
    def digest(self) -> str:
        """Identity by content: two rubrics that score alike by construction have one digest."""
        criteria = sorted((c.content for c in self.criteria), key=digest_json)
        return digest_json(
            {
                "criteria": criteria,
                "scale": self.scale,
                "missing": self.missing,
                "votes": self.votes,
            }
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, which would take the digest of the old content along."""
        copy = super().model_copy(update=update, deep=deep)
        vars(copy).pop("digest", None)
        return copy

    @property
    def llm_criteria(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.criteria if c.kind == "llm")

    @cached_property
    def criterion_ids(self) -> frozenset[str]:
        """Ids of all criteria."""
        return frozenset(c.criterion_id for c in self.criteria)

    @property
    def needs_llm(self) -> bool:
        return bool(self.llm_criteria)


def unit_grade(scale: Scale, value: float) -> float:
    """A grade of ``scale`` mapped linearly to [0, 1] (0-5: 1.5 -> .3); ``ValueError`` outside the
    scale.
    """
    low, high = SCALE_BOUNDS[scale]
    if not low <= value <= high:
        raise ValueError(f"grade {value:g} is outside {scale} ({low:g} to {high:g})")
    return (value - low) / (high - low)


def scale_grade(scale: Scale, unit: float) -> float:
    """The inverse of ``unit_grade``."""
    low, high = SCALE_BOUNDS[scale]
    return low + unit * (high - low)


def score(rubric: Rubric, grades: Grades) -> ScoreResult:
    """Σ wᵢ·gᵢ / Σ wᵢ over the graded criteria, with 1 − g for polarity −1; all weights 0 count as
    equal.

    ``grades`` are in [0, 1] by criterion id. A missing or None grade is g = 0 ("no": not met,
    and a fault is not there), left out ("skip") or an error ("error"). With every criterion left
    out the result is ``Abstained``.
    """
    if not grades.keys() <= rubric.criterion_ids:
        unknown = grades.keys() - rubric.criterion_ids
        return Failed(
            f"grades for criteria that the rubric does not have: {', '.join(sorted(unknown))}"
        )
    kept: list[tuple[float, float]] = []
    for criterion in rubric.criteria:
        grade = grades.get(criterion.criterion_id)
        if grade is None and rubric.missing == "error":
            return Failed(f"criterion {criterion.criterion_id!r} has no grade", retriable=True)
        if grade is None and rubric.missing == "skip":
            continue
        shown = grade or 0.0
        kept.append((criterion.weight, shown if criterion.polarity == 1 else 1 - shown))
    if not kept:
        return Abstained("every criterion was skipped")
    total = sum([weight for weight, _ in kept])
    if total == 0:
        kept, total = [(1.0, value) for _, value in kept], float(len(kept))
    earned = sum([weight * value for weight, value in kept])
    return Scored(earned / total, {"criteria": dict(grades)})
