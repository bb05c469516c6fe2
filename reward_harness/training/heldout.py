"""How well a reward model ranks pairs that it was not trained on, beside the rules it must beat.

Accuracy counts a tie as wrong (intervals need whole counts). "Longer wins" and "shorter wins" go by
the number of characters: a reward model that does not beat them has learned length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reward_harness.data.records import PreferencePair
from reward_harness.evaluation.statistics import paired_bootstrap_difference, wilson
from reward_harness.hashing import derive_seed
from reward_harness.manifest import Metric


def heldout_measures(
    pairs: Sequence[PreferencePair],
    chosen: Sequence[float],
    rejected: Sequence[float],
    seed: int,
) -> dict[str, Metric]:
    """Accuracy, loss, mean margin and the length baselines of scored pairs."""
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    right = [margin > 0 for margin in margins]
    longer = [len(pair.chosen) > len(pair.rejected) for pair in pairs]
    shorter = [len(pair.chosen) < len(pair.rejected) for pair in pairs]
    best = longer if sum(longer) > sum(shorter) else shorter
    generator = np.random.default_rng(derive_seed(seed, "heldout"))
    lead = paired_bootstrap_difference(
        [float(x) for x in right], [float(x) for x in best], generator
    )
    loss = sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins) / len(margins)
    return {
        "accuracy": wilson(sum(right), len(right)).metric("max"),
        "longer_wins": wilson(sum(longer), len(longer)).metric(),
        "shorter_wins": wilson(sum(shorter), len(shorter)).metric(),
        "lead_over_length": lead.metric("max"),
        "loss": Metric(value=loss, n=len(margins), direction="min"),
        "margin_mean": Metric(value=sum(margins) / len(margins), n=len(margins), direction="max"),
    }


def as_json(splits: dict[str, dict[str, Metric]]) -> dict[str, Any]:
    """``heldout.json``: the measures of each split."""
    return {
        split: {name: metric.model_dump() for name, metric in measures.items()}
        for split, measures in splits.items()
    }
