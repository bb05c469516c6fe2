"""The rubric formats of others, as pure conversions from and to ``Rubric``.

============= ===================================================== ==================
format        one entry                                             files
============= ===================================================== ==================
own           a rubric; ``{"prompt_id", "rubric"}``;                .json, .jsonl
              ``{name: rubric}``; a search's output
paper         ``{prompt, rubrics: [{criterion, weight}]}``          .json, .jsonl
              (arXiv 2509.21500)
open-instruct ``{query, rubrics: [{description, weight}]}``         .json, .jsonl
verifiers     ``criteria = [{name, text, weight, choices}]``        .toml, one rubric
============= ===================================================== ==================

A negative weight is a fault: polarity −1. The verifiers library refuses negative weights and
scores ``choices`` from worst to best, ``["no", "yes"]`` if there are none (``Criterion`` in its
``v1/judges/rubric.py``): there a fault is a criterion whose choices run the other way. Unknown keys
of foreign formats are passed over; own rubrics refuse them. Foreign formats hold less than a rubric
is: ``losses`` says what.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from reward_harness.data.files import shown, validated
from reward_harness.data.records import Text
from reward_harness.errors import DataError
from reward_harness.rubrics.types import Criterion, Rubric, Scale

SHARED = "__shared__"
"""The name of a rubric that holds for every prompt."""

Format = Literal["own", "paper", "open-instruct", "verifiers"]
Named = tuple[str, Rubric]
Weight = Annotated[float, Field(strict=True, allow_inf_nan=False)]

DEFAULT_SCALE: Scale = Rubric.model_fields["scale"].default
"""Formats that name no scale mean this one."""

CHOICES: dict[Scale, tuple[str, ...]] = {
    "binary": ("no", "yes"),
    "likert_1_5": ("1", "2", "3", "4", "5"),
    "likert_0_5": ("0", "1", "2", "3", "4", "5"),
}
"""How a scale is written in the verifiers format, worst first; ``unit_0_1`` has no such choices."""


class Foreign(BaseModel):
    """Base of other people's formats: what is not known is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PaperItem(Foreign):
    criterion: Text
    weight: Weight = 1.0


class PaperEntry(Foreign):
    prompt: Text = SHARED
    rubrics: list[PaperItem] = Field(min_length=1)


class OpenInstructItem(Foreign):
    description: Text
    weight: Weight = 1.0


class OpenInstructEntry(Foreign):
    query: Text
    rubrics: list[OpenInstructItem] = Field(min_length=1)


class VerifiersItem(Foreign):
    name: Text
    text: Text
    weight: Annotated[Weight, Field(ge=0)] = 1.0
    choices: tuple[str, ...] = CHOICES["binary"]


class VerifiersFile(Foreign):
    criteria: list[VerifiersItem] = Field(min_length=1)


class OwnEntry(Foreign):
    prompt_id: Text
    rubric: Rubric


def entry_of(value: Any, where: str) -> Named:
    """One entry of any format that JSON holds."""
    keys: set[str] = set(cast("dict[str, Any]", value)) if isinstance(value, dict) else set()
    if "rubric" in keys:
        own = validated(OwnEntry, value, where)
        return own.prompt_id, own.rubric
    if "criteria" in keys:
        return SHARED, validated(Rubric, value, where)
    if {"query", "rubrics"} <= keys:
        asked = validated(OpenInstructEntry, value, where)
        return asked.query, _signed([(item.description, item.weight) for item in asked.rubrics])
    if "rubrics" in keys:
        paper = validated(PaperEntry, value, where)
        return paper.prompt, _signed([(item.criterion, item.weight) for item in paper.rubrics])
    raise DataError(
        "not an entry of a known rubric format",
        where=where,
        got=f"keys {sorted(keys)[:8]}" if keys else shown(value),
        expected="a rubric, {prompt_id, rubric}, {prompt, rubrics} or {query, rubrics}",
    )


def from_verifiers(body: Any, where: str) -> Rubric:
    """The rubric of a verifiers file."""
    items = validated(VerifiersFile, body, where).criteria
    names = [item.name for item in items]
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise DataError("two criteria of one name", where=where, got=repeated)
    read = [_scale(item, f"{where}: criterion {item.name}") for item in items]
    scales: set[Scale] = {scale for scale, _ in read}
    if len(scales) > 1:
        raise DataError(
            "the criteria of a rubric are graded on one scale", where=where, got=sorted(scales)
        )
    criteria = [
        Criterion(criterion_id=item.name, text=item.text, weight=item.weight, polarity=polarity)
        for item, (_, polarity) in zip(items, read, strict=True)
    ]
    return _rubric(criteria, scales.pop())


def to_verifiers(rubric: Rubric) -> str:
    """The text of a verifiers file."""
    choices = CHOICES.get(rubric.scale, CHOICES["binary"])
    tables = [
        "\n".join(
            [
                "[[criteria]]",
                f"name = {_toml_text(criterion.criterion_id)}",
                f"text = {_toml_text(criterion.text)}",
                f"weight = {criterion.weight!r}",
                f"choices = [{', '.join(map(_toml_text, choices[:: criterion.polarity]))}]",
            ]
        )
        for criterion in rubric.criteria
    ]
    return "\n\n".join(tables) + "\n"


def losses(rubric: Rubric, format: Format) -> list[str]:
    """What of a rubric the format does not hold; written without it, it may grade differently."""
    if format == "own":
        return []
    lost = [
        name
        for name in ("check_points", "positive_examples", "negative_examples")
        if any(getattr(c, name) for c in rubric.criteria)
    ]
    held = CHOICES if format == "verifiers" else (DEFAULT_SCALE,)
    if rubric.scale not in held:
        lost.append(f"scale {rubric.scale}")
    if rubric.missing != "no":
        lost.append(f"missing {rubric.missing}")
    if rubric.votes != 1:
        lost.append(f"votes {rubric.votes}")
    return lost


def refuse_checks(name: str, rubric: Rubric, format: Format) -> None:
    """``DataError`` for a programmatic criterion in a foreign format: none can hold it."""
    checks = [c.criterion_id for c in rubric.criteria if c.check is not None]
    if checks and format != "own":
        raise DataError(
            f"the format {format} holds no criterion that code computes",
            where=f"rubric {shown(name)}, criterion {checks[0]}",
            fix="Convert to the format own, or leave such criteria out.",
        )


def _signed(items: Sequence[tuple[str, float]]) -> Rubric:
    criteria = [_criterion(text, w, f"c{i}") for i, (text, w) in enumerate(items, 1)]
    return _rubric(criteria, DEFAULT_SCALE)


def _rubric(criteria: Sequence[Criterion], scale: Scale) -> Rubric:
    unnamed = Rubric(rubric_id="r", criteria=tuple(criteria), scale=scale)
    return unnamed.model_copy(update={"rubric_id": f"r-{unnamed.digest[:12]}"})


def _criterion(text: str, weight: float, name: str) -> Criterion:
    """A negative weight (−0.0 too) is a fault of that weight."""
    fault = math.copysign(1.0, weight) < 0
    return Criterion(criterion_id=name, text=text, weight=abs(weight), polarity=-1 if fault else 1)


def _scale(item: VerifiersItem, where: str) -> tuple[Scale, Literal[1, -1]]:
    """The scale that the choices are, and −1 where their worst is its highest."""
    given = tuple(choice.strip().casefold() for choice in item.choices)
    for scale, choices in CHOICES.items():
        if given == choices:
            return scale, 1
        if given == choices[::-1]:
            return scale, -1
    raise DataError(
        "choices of no known scale",
        where=where,
        got=list(item.choices),
        expected="no, yes; 0 to 5 or 1 to 5 as texts; or one of these from its end",
    )


def _own_entry(name: str, rubric: Rubric) -> dict[str, Any]:
    return {"prompt_id": name, "rubric": rubric.model_dump(mode="json")}


def _paper_entry(name: str, rubric: Rubric) -> dict[str, Any]:
    items = [{"criterion": c.text, "weight": c.polarity * c.weight} for c in rubric.criteria]
    return {"prompt": name, "rubrics": items}


def _open_instruct_entry(name: str, rubric: Rubric) -> dict[str, Any]:
    items = [{"description": c.text, "weight": c.polarity * c.weight} for c in rubric.criteria]
    return {"query": name, "rubrics": items}


ENTRY_WRITERS: dict[str, Callable[[str, Rubric], dict[str, Any]]] = {
    "own": _own_entry,
    "paper": _paper_entry,
    "open-instruct": _open_instruct_entry,
}


def _toml_text(text: str) -> str:
    """A TOML basic string: JSON's, but that TOML also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
