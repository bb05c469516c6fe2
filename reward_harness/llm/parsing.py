"""From a model's reply to a verdict; what does not fit is a ``ReplyError``, never a default.

Replies may be fenced, chatty or preceded by thinking: the last JSON object that has the wanted key
counts, because models restate their question before they answer it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from reward_harness.rubrics.types import SCALE_BOUNDS, Criterion, Scale, unit_grade

THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
YES = {"yes", "pass", "true", "y", "met", "是", "通过"}
NO = {"no", "fail", "false", "n", "not met", "否", "不通过"}
NOT_APPLICABLE = {"n/a", "na", "null", "none", "not applicable", "不适用"}
PREFERENCES: dict[str, Literal[1, -1, 0]] = {
    **dict.fromkeys(("left", "1", "+1", "1.0", "a", "左"), 1),
    **dict.fromkeys(("right", "-1", "-1.0", "b", "右"), -1),
    **dict.fromkeys(("tie", "0", "0.0", "equal", "neither", "平局"), 0),
}
MAX_WEIGHT = 10.0


class ReplyError(ValueError):
    """A reply that cannot be read; its text goes back to the model once."""


def json_objects(text: str) -> list[dict[str, Any]]:
    """All outermost JSON objects in a text, in order; braces in prose are stepped over."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            position = text.find("{", position + 1)
            continue
        found.append(cast("dict[str, Any]", value))
        position = text.find("{", end)
    return found


def find_object(reply: str, key: str) -> dict[str, Any]:
    """The last object with ``key``; ``ReplyError`` if there is none."""
    objects = json_objects(THINKING.sub("", reply))
    for candidate in reversed(objects):
        if key in candidate:
            return candidate
    raise ReplyError(
        f"no JSON object with {key!r} in the reply"
        + (f"; it has {sorted(objects[-1])[:6]}" if objects else "")
    )


def parse_grades(reply: str, ids: Sequence[str], scale: Scale) -> dict[str, float | None]:
    """``{id: grade in [0, 1] or None}`` with exactly the asked ids."""
    given = find_object(reply, "grades")["grades"]
    if isinstance(given, list):
        given = _by_id(cast("list[Any]", given))
    if not isinstance(given, Mapping):
        raise ReplyError("grades is not an object of criterion_id: grade")
    grades = {str(k): v for k, v in cast("Mapping[Any, Any]", given).items()}
    missing, unknown = sorted(set(ids) - set(grades)), sorted(set(grades) - set(ids))
    if missing or unknown:
        raise ReplyError(f"criterion ids missing: {missing}, unknown: {unknown}")
    return {name: parse_grade(grades[name], scale, name) for name in ids}


def _by_id(items: list[Any]) -> dict[str, Any]:
    entries = [cast("dict[str, Any]", i) for i in items if isinstance(i, dict)]
    return {str(e["criterion_id"]): e for e in entries if "criterion_id" in e}


def parse_grade(value: Any, scale: Scale, name: str) -> float | None:
    """One grade mapped to [0, 1]; None for "does not apply"."""
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value)
        value = next((inner[k] for k in ("grade", "score", "value") if k in inner), "")
    low, high = SCALE_BOUNDS[scale]
    if value is None or (isinstance(value, str) and value.strip().lower() in NOT_APPLICABLE):
        return None
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in YES or word in NO:
            return float(word in YES)
        try:
            value = float(word)
        except ValueError as error:
            raise ReplyError(f"grade of {name} is prose: {value[:60]!r}") from error
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ReplyError(f"grade of {name} is not a number: {str(value)[:60]!r}")
    try:
        return unit_grade(scale, float(value))
    except ValueError as error:
        raise ReplyError(
            f"grade of {name} must be from {low:g} to {high:g}, got {value}"
        ) from error


def parse_preference(reply: str) -> Literal[1, -1, 0]:
    """1 if the left response is preferred, -1 the right, 0 neither."""
    given = find_object(reply, "preference")["preference"]
    preference = PREFERENCES.get(str(given).strip().lower())
    if preference is None or isinstance(given, bool):
        raise ReplyError(f"preference must be 1, -1 or 0, got {str(given)[:60]!r}")
    return preference


def parse_criteria(
    reply: str, known: Sequence[Criterion] = (), limit: int = 12
) -> tuple[Criterion, ...]:
    """The proposed criteria, at most ``limit``, numbered anew; unknown keys are ignored.

    A criterion whose text stands word for word in ``known`` stays what it was there (its check,
    examples and points), with the proposed weight.
    """
    given = find_object(reply, "criteria")["criteria"]
    if not isinstance(given, list):
        raise ReplyError("criteria is not a list")
    by_text = {c.text.strip(): c for c in known}
    found: dict[str, Criterion] = {}
    for item in cast("list[Any]", given):
        if isinstance(item, dict) and (read := _criterion(cast("dict[str, Any]", item), by_text)):
            found.setdefault(read.text, read)
    if not found:
        raise ReplyError("no criterion with a text")
    kept = list(found.values())[:limit]
    return tuple(
        c.model_copy(update={"criterion_id": f"c{number}"}) for number, c in enumerate(kept, 1)
    )


def _criterion(item: dict[str, Any], known: Mapping[str, Criterion]) -> Criterion | None:
    text = item.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    text = text.strip()[:1000]
    weight = _weight(item.get("weight"))
    if (before := known.get(text)) is not None:
        return before if weight is None else before.model_copy(update={"weight": weight})
    return Criterion(
        criterion_id="c",
        text=text,
        weight=1.0 if weight is None else weight,
        polarity=-1 if str(item.get("polarity")).strip() in {"-1", "-1.0", "negative"} else 1,
        check_points=_strings(item.get("check_points")),
        positive_examples=_strings(item.get("positive_examples")),
        negative_examples=_strings(item.get("negative_examples")),
    )


def _weight(value: Any) -> float | None:
    try:
        weight = float(value)
    except (TypeError, ValueError):
        return None
    return min(weight, MAX_WEIGHT) if math.isfinite(weight) and weight >= 0 else None


def _strings(value: Any) -> tuple[str, ...]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return tuple(str(i)[:500] for i in items if isinstance(i, str) and i.strip())[:8]
