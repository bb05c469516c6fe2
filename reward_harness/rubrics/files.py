"""Rubrics in files: reading and writing ``{"__shared__" or prompt id: rubric}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from reward_harness.errors import DataError
from reward_harness.rubrics.types import Rubric

SHARED = "__shared__"


def read_rubrics(path: Path) -> dict[str, Rubric]:
    """Rubrics by prompt id; a file that is one rubric holds the shared one. ``DataError``."""
    try:
        body: Any = json.loads(path.read_bytes())
        if isinstance(body, dict) and "criteria" in body:
            body = {SHARED: body}
        found = {
            str(name): Rubric.model_validate(rubric)
            for name, rubric in cast("dict[str, Any]", body).items()
        }
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise DataError(
            "not a file of rubrics",
            where=str(path),
            got=" ".join(str(error).splitlines()[:3]),
            expected='a rubric, or {"__shared__" or prompt id: rubric}',
        ) from error
    if not found:
        raise DataError("no rubric in it", where=str(path))
    return found


def write_rubrics(path: Path, rubrics: Mapping[str, Rubric]) -> None:
    """Readable JSON, equal bytes for equal rubrics."""
    body = {name: rubrics[name].model_dump(mode="json") for name in sorted(rubrics)}
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
