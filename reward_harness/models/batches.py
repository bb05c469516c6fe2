"""Batches by token budget: sequences of like length together, to spend little on padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import torch

CPU_PADDING = 0.1
T = TypeVar("T")


def length_batches(
    lengths: Sequence[int], budget: int, padding: float | None = None
) -> Iterator[list[int]]:
    """Indices in order of length; a batch's size times its longest length stays within ``budget``,
    and its padding within the share ``padding`` of its real tokens.

    Ties keep their order, so batches depend on the lengths only. A sequence longer than the budget
    is a batch of one.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batch: list[int] = []
    real = 0
    for index in order:
        width, real = lengths[index], real + lengths[index]
        padded = (len(batch) + 1) * width
        if batch and (padded > budget or (padding is not None and padded > (1 + padding) * real)):
            yield batch
            batch, real = [], width
        batch.append(index)
    if batch:
        yield batch


def in_batches(
    lengths: Sequence[int],
    budget: int,
    compute: Callable[[list[int]], Iterable[T]],
    padding: float | None = None,
) -> list[T]:
    """What ``compute`` gives for the indices of each of ``length_batches``, in order of indices."""
    found: dict[int, T] = {}
    for batch in length_batches(lengths, budget, padding):
        found.update(zip(batch, compute(batch), strict=True))
    return [found[index] for index in range(len(lengths))]


def padding_on(device: torch.device) -> float | None:
    """What padding a pass may have: a CPU computes it like any token, a GPU wants large batches."""
    return CPU_PADDING if device.type == "cpu" else None


def pad_batch(
    rows: Sequence[Sequence[int]], pad: int, side: Literal["left", "right"] = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(ids, mask)``, both (B, T) int64, filled with ``pad`` and 0 on the given side."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, where] = torch.tensor(list(row), dtype=torch.long)
        mask[index, where] = 1
    return ids, mask


def position_ids(mask: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Positions (B, T) that count real tokens only, from ``first`` (see ``first_position``):
    without them left padding shifts positions.
    """
    return (mask.cumsum(dim=1) - 1).clamp(min=0) + first


def first_position(backbone: torch.nn.Module) -> int:
    """The position of a sequence's first token: RoBERTa and MPNet have a position for padding, too,
    and count from the one after it.
    """
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0
