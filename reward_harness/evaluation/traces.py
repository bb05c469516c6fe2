"""Reading a trainer's ``metrics.jsonl`` back: how long it ran and how its main number moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_harness.evaluation.results import Trace

QUANTITIES = {
    "sft": ("loss",),
    "bt": ("loss",),
    "dpo": ("rewards/margins", "margin", "loss"),
    "iterative_dpo": ("judge_mean", "rewards/margins", "loss"),
    "grpo": ("reward_mean", "reward"),
    "ppo": ("reward_mean",),
}
"""The number that tells whether training worked, by method; the first that the rows have."""


def read_trace(path: Path, method: str) -> Trace:
    """The trace of a run of ``method``; means over the first and last third of its steps."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_bytes().splitlines() if line
    ]
    for quantity in QUANTITIES[method]:
        values = [float(v) for row in rows if isinstance(v := row.get(quantity), int | float)]
        if values:
            third = max(1, len(values) // 3)
            first, last = sum(values[:third]) / third, sum(values[-third:]) / third
            return Trace(steps=len(values), quantity=quantity, first=first, last=last)
    return Trace(steps=len(rows))
