"""What every reader is made of.

A row model, a conversion, and the loop that keeps line and problem together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from reward_harness.data.files import validated
from reward_harness.data.records import Message, Record
from reward_harness.errors import DataError

Rows = Iterable[tuple[int, Any]]
Read = tuple[int, "Record | DataError"]


class Row(BaseModel):
    """Base of published row formats: the fields we read, typed; others are not ours to judge."""

    model_config = ConfigDict(extra="ignore", frozen=True)


RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True, slots=True)
class Reader:
    """One published format.

    Attributes:
        record: the record type it gives.
        read: (rows, source name) to (line, record or problem).
        top_level: for a JSON document, the key of its list; None for JSON Lines.
    """

    record: type[Record]
    read: Callable[[Rows, str], Iterator[Read]]
    top_level: str | None = None


def reader_of(
    record: type[Record],
    row_type: type[RowType],
    convert: Callable[[RowType, str, str], Record],
    top_level: str | None = None,
) -> Reader:
    """A reader that makes one record of each row.

    ``convert`` is given (row, record id, source name).
    """

    def read(rows: Rows, name: str) -> Iterator[Read]:
        for line, value in rows:
            yield line, _converted(line, value, name)

    def _converted(line: int, value: Any, name: str) -> Record | DataError:
        try:
            return convert(validated(row_type, value, None), numbered(name, line), name)
        except DataError as problem:
            return problem
        except ValidationError as error:
            return record_problem(error)

    return Reader(record, read, top_level)


def numbered(name: str, line: int) -> str:
    """The id of a row that brings none: stable, because sources are pinned."""
    return f"{name}-{line:06d}"


def record_problem(error: ValidationError) -> DataError:
    """A row that is well formed but makes no valid record, told in the record's terms."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    blank = first["type"] in {"string_pattern_mismatch", "string_too_short"}
    return DataError(
        f"field {field!r} is blank" if blank else f"field {field or 'record'!r} is not valid",
        got=None if blank else str(first["input"])[:120],
        expected="text that is not blank" if blank else rule,
    )


def user(text: str) -> list[Message]:
    """A prompt of one user turn."""
    return [Message(role="user", content=text)]
