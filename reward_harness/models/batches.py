"""Batches by token budget: sequences of like length together, to spend little on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in order of length; a batch's size times its longest length stays within ``budget``.

    Ties keep their order, so batches depend on the lengths only. A sequence longer than the budget
    is a batch of one.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


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


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions (B, T) that count real tokens only: without them left padding shifts positions."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
