"""JSON Lines files of records: canonical writing, and reading whose errors name line and field.

A file is one record a line, in canonical JSON (sorted keys, no white space), optionally
gzip-compressed by the name's ``.gz``. Equal records make equal bytes. Nothing is dropped in
silence: a line that is no record, or that repeats the id of another, is a ``DataError``.

    >>> write_records(path, [RLPrompt(prompt_id="1", prompt=question, answer="4")])
    >>> read_records(path, RLPrompt)[0].answer
    '4'
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
)
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json, digest_lines

R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)

ID_FIELDS: dict[type[Record], str] = {
    PreferencePair: "pair_id",
    RankedPrompt: "prompt_id",
    SFTExample: "example_id",
    RLPrompt: "prompt_id",
    StepwiseExample: "example_id",
}
SHOWN_CHARACTERS = 120


def record_id(record: Record) -> str:
    """The id that must be unique within a file."""
    return getattr(record, ID_FIELDS[type(record)])


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write canonical JSON lines.

    Gzip (without a time stamp, so that bytes repeat) if the name ends in ``.gz``.
    """
    lines = (canonical_json(r.model_dump(mode="json")) + b"\n" for r in records)
    write_lines(path, lines)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines that end in a newline already, compressed if the name says so."""
    if path.suffix != ".gz":
        with path.open("wb") as plain:
            plain.writelines(lines)
        return
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.writelines(lines)


def read_records(path: Path, record_type: type[R]) -> list[R]:
    """All records of a canonical file; ``DataError`` names file, line, field, got and expected."""
    records: list[R] = []
    lines: dict[str, int] = {}
    for line, value in json_lines(path):
        where = f"{path}:{line}"
        record = validated(record_type, value, where)
        refuse_repeated_id(record_id(record), line, lines, where)
        records.append(record)
    return records


def records_digest(records: Iterable[Record]) -> str:
    """sha256 of the canonical lines: what a source's ``sha256`` pins."""
    return digest_lines(r.model_dump(mode="json") for r in records)


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line; a blank line holds no record and is passed over."""
    try:
        with _opened(path) as stream:
            for number, raw in enumerate(stream, start=1):
                if raw.strip():
                    yield number, _parsed(raw, f"{path}:{number}")
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot be read", where=str(path), got=str(error)) from error


def json_document(path: Path, top_level: str) -> Iterator[tuple[int, Any]]:
    """(position from 1, item) of the list under ``top_level`` in a JSON file."""
    try:
        with _opened(path) as stream:
            value = _parsed(stream.read(), str(path))
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot be read", where=str(path), got=str(error)) from error
    items = value.get(top_level) if isinstance(value, dict) else None
    if not isinstance(items, list):
        found = f"keys {sorted(value)[:8]}" if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"top-level key {top_level!r} with a list is missing",
            where=str(path),
            got=found,
            expected=f'{{"{top_level}": [...]}}',
        )
    yield from enumerate(items, start=1)


def validated(model: type[M], value: Any, where: str | None) -> M:
    """``value`` as a ``model``.

    The first problem pydantic finds becomes a ``DataError`` at ``where``.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _field_error(error, where) from error


def refuse_repeated_id(found: str, line: int, lines: dict[str, int], where: str) -> None:
    """Note that ``found`` stands on ``line``; ``DataError`` if an earlier line has the same id."""
    if found in lines:
        raise DataError(
            "id is used twice",
            where=where,
            got=found,
            expected=f"an id other than that of line {lines[found]}",
        )
    lines[found] = line


def located(error: DataError, where: str, fix: str | None = None) -> DataError:
    """The same error at a place its raiser did not know."""
    return DataError(
        error.what, where=where, got=error.got, expected=error.expected, fix=fix or error.fix
    )


def shown(value: Any) -> str:
    """A value short enough for one line of an error."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        got = shown(raw.decode("utf-8", errors="replace").strip())
        raise DataError("not valid JSON", where=where, got=got, expected=str(error)) from error


def _field_error(error: ValidationError, where: str | None) -> DataError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return DataError(
            f"field {field!r} is missing{more}", where=where, expected=f"a field {field!r}"
        )
    what = f"field {field!r} is not valid{more}" if field else f"record is not valid{more}"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "string_pattern_mismatch":
        rule = "text that is not blank"
    return DataError(what, where=where, got=shown(first["input"]), expected=rule)
