"""In which order samples are seen, and how fast is learned at each step: seeds decide, no state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from reward_harness.hashing import derive_seed

SORTED_BATCHES = 16
"""Batches whose samples are sorted together by length: little padding, and a random order still."""


class Sample(Protocol):
    """One item of a batch: ``length`` of its longest row, its ``tokens``, its ``width`` padded."""

    @property
    def length(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def width(self) -> int: ...


def batches(lengths: Sequence[int], size: int, total: int | None, seed: int) -> Iterator[list[int]]:
    """``total`` batches (None: endless) of ``size`` samples in seeded, length-grouped order.

    Each epoch is a permutation, cut into runs of ``SORTED_BATCHES`` batches that are sorted by
    length inside; the batches of an epoch then come in random order.
    """
    made, epoch = 0, 0
    while True:
        generator = torch.Generator().manual_seed(derive_seed(seed, "bt", "epoch", epoch))
        order = torch.randperm(len(lengths), generator=generator).tolist()
        run = size * SORTED_BATCHES
        grouped = [
            index
            for start in range(0, len(order), run)
            for index in sorted(order[start : start + run], key=lengths.__getitem__)
        ]
        cut = [grouped[start : start + size] for start in range(0, len(grouped), size)]
        for index in torch.randperm(len(cut), generator=generator).tolist():
            if made == total:
                return
            made += 1
            yield cut[index]
        epoch += 1


def drawn(count: int, most: int, seed: int) -> list[int]:
    """Indices of at most ``most`` of ``count`` samples, by lot and ascending: files are written
    source after source, so that the first ones may be of one source alone.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "head samples"))
    return sorted(torch.randperm(count, generator=generator)[:most].tolist())


def learning_rate_factor(step: int, total: int, warmup_fraction: float) -> float:
    """Linear warm-up to 1, then a cosine that would reach 0 at ``total``; steps count from 0."""
    warmup = math.ceil(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
