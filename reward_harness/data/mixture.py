"""Mixing sources by ratio: the largest mixture that repeats no record.

Of every source the records are taken in an order that their ids and the seed decide, so that the
mixture of another ratio shares what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reward_harness.data.files import ID_FIELDS, record_id
from reward_harness.data.records import Record
from reward_harness.errors import DataError
from reward_harness.hashing import unit_interval

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Part(Generic[R]):
    """A source's records and its weight."""

    source: str
    weight: float
    records: Sequence[R]


def mixed(parts: Sequence[Part[R]], seed: int) -> list[R]:
    """Records of all parts in the ratio of their weights, named by ``from_source``.

    Counts are rounded down, so a ratio is met to within one record; ``DataError`` where a part
    would get none. A part of weight 0 gives nothing.
    """
    weighed = [part for part in parts if part.weight]
    total = sum(part.weight for part in weighed)
    size = min(len(part.records) * total / part.weight for part in weighed)
    found: list[R] = []
    for part in weighed:
        count = int(size * part.weight / total + 1e-9)
        if count == 0:
            raise DataError(
                "a source has no part in the mixture",
                where=part.source,
                got=f"weight {part.weight:g} of {total:g}, {len(part.records)} records",
                fix="Raise its weight, or take more of the others.",
            )
        order = sorted(
            part.records, key=lambda r: (unit_interval("mix", seed, record_id(r)), record_id(r))
        )
        kept = {record_id(record) for record in order[:count]}
        found += [from_source(r, part.source) for r in part.records if record_id(r) in kept]
    return found


def from_source(record: R, source: str) -> R:
    """The record under the id ``<source>/<id>``, and with that ``source`` where it names one."""
    update = {ID_FIELDS[type(record)]: f"{source}/{record_id(record)}"}
    if "source" in type(record).model_fields:
        update["source"] = source
    return record.model_copy(update=update)
