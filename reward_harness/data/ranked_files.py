"""Ranked prompts from any file in a format that the project reads, the format told by the content.

JSON Lines: canonical records, ``{prompt, candidates: […]}`` rows (a prompt that is text; labels
beside a candidate's text or under its ``metadata``; ids and candidates that are plain texts are
completed), pairs ``{prompt, chosen, rejected}``, Prometheus grades. JSON: ``{"prompts": […]}`` or a
list of such rows. Anything else is a ``DataError`` that names file, line and field.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from reward_harness.data.derive import derive
from reward_harness.data.files import (
    json_document,
    json_lines,
    located,
    record_id,
    refuse_repeated_id,
)
from reward_harness.data.readers import READERS
from reward_harness.data.readers.rows import numbered
from reward_harness.data.records import RankedPrompt, Record
from reward_harness.errors import DataError

LABELS = ("rank", "quality")
TOP_LEVEL = "prompts"
FIX = "Repair the row, or leave it out of the file."
Rows = list[tuple[int, Any]]


def read_ranked(path: Path) -> list[RankedPrompt]:
    """All records of the file as ranked prompts, in their order."""
    document = _is_document(path)
    rows = list(_items(path) if document else json_lines(path))
    if not rows:
        raise DataError("no records", where=str(path), expected="at least one ranked prompt")
    name = path.name.split(".")[0]
    reader = _reader_of(rows[0][1])
    if reader in ("ranked-prompts", "rubric-dataset"):
        rows = [(line, _completed(row, numbered(name, line))) for line, row in rows]
    records: list[Record] = []
    lines: dict[str, int] = {}
    for line, read in READERS[reader].read(rows, name):
        where = f"{path}: item {line}" if document else f"{path}:{line}"
        if isinstance(read, DataError):
            raise located(read, where, FIX)
        refuse_repeated_id(record_id(read), line, lines, where)
        records.append(read)
    return derive(records, RankedPrompt)


def _is_document(path: Path) -> bool:
    """Whether the file is one JSON value, not one a line: its first line alone is no row."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            first = next((line for line in stream if line.strip()), b"")
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot be read", where=str(path), got=str(error)) from error
    try:
        value = json.loads(first)
    except ValueError:
        return ".json" in path.suffixes
    return isinstance(value, list) or (isinstance(value, dict) and TOP_LEVEL in value)


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError("not valid JSON", where=str(path), expected=str(error)) from error
    if isinstance(value, list):
        return iter(enumerate(cast("list[Any]", value), start=1))
    return json_document(path, TOP_LEVEL)


def _reader_of(row: Any) -> str:
    """The name of the reader that the first row asks for."""
    fields = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
    if "gpt4_score" in fields:
        return "prometheus"
    if "chosen" in fields and "rejected" in fields:
        return "trl-preference" if "prompt" in fields else "hh-rlhf"
    return "rubric-dataset" if isinstance(fields.get("prompt"), str) else "ranked-prompts"


def _completed(row: Any, prompt_id: str) -> Any:
    """A row with the ids it lacks, and with labels where the reader of its format looks."""
    if not isinstance(row, dict) or not isinstance(row.get("candidates"), list):
        return row
    fields = {"prompt_id": prompt_id, **cast("dict[str, Any]", row)}
    nested = isinstance(fields.get("prompt"), str)
    fields["candidates"] = [
        _candidate(candidate, number, nested)
        for number, candidate in enumerate(cast("list[Any]", fields["candidates"]), start=1)
    ]
    return fields


def _candidate(candidate: Any, number: int, nested: bool) -> Any:
    if isinstance(candidate, str):
        candidate = {"text": candidate}
    if not isinstance(candidate, dict):
        return candidate
    fields = {"candidate_id": f"c{number}", **cast("dict[str, Any]", candidate)}
    beside = {name: fields.pop(name) for name in LABELS if nested and name in fields}
    metadata = fields.get("metadata") or {}
    if beside and isinstance(metadata, dict):
        fields["metadata"] = {**cast("dict[str, Any]", metadata), **beside}
    return fields
