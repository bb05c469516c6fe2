"""Which records train and which are held out: decided by prompt content and seed alone.

A prompt therefore lands in the same split in every dataset stage of an experiment, whatever the
source, the order or the other records are, and no prompt is in two splits. The price: shares hold
on average, not exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from reward_harness.data.records import Record, prompt_key
from reward_harness.errors import DataError
from reward_harness.hashing import unit_interval
from reward_harness.sections import SplitSpec

R = TypeVar("R", bound=Record)
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_of(key: str, seed: int, spec: SplitSpec) -> Split:
    """The split of a prompt by its ``prompt_key``."""
    place = unit_interval("split", seed, key)
    if place < spec.test:
        return "test"
    return "validation" if place < spec.test + spec.validation else "train"


def split_records(records: Sequence[R], seed: int, spec: SplitSpec) -> dict[Split, list[R]]:
    """All records by split, in their order.

    ``DataError`` if none is left to train on or to hold out.
    """
    found: dict[Split, list[R]] = {name: [] for name in SPLITS}
    for record in records:
        found[split_of(prompt_key(record.prompt), seed, spec)].append(record)
    for name in ("train", "test"):
        if not found[name]:
            raise DataError(
                f"the {name} split is empty",
                got=f"{len(records)} records of {_prompts(records)} prompts",
                expected="at least one prompt in train and in test",
                fix="Use more prompts, another seed, or other shares in dataset.split.",
            )
    return found


def first_prompts(records: Sequence[R], limit: int | None, seed: int) -> list[R]:
    """The records of ``limit`` prompts, in an order that only the seed and the prompts decide."""
    if limit is None:
        return list(records)
    keys = {prompt_key(r.prompt) for r in records}
    kept = set(sorted(keys, key=lambda key: (unit_interval("order", seed, key), key))[:limit])
    return [r for r in records if prompt_key(r.prompt) in kept]


def _prompts(records: Sequence[Record]) -> int:
    return len({prompt_key(r.prompt) for r in records})
