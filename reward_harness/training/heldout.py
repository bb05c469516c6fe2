"""How well a reward model ranks pairs that it was not trained on, beside the rules it must beat.

Accuracy counts a tie as wrong. "Longer wins" and "shorter wins" go by the number of characters: a
reward model that does not beat them has learned length. Pairs of one prompt are not independent:
where prompts repeat, intervals resample whole prompts and ``n`` counts prompts; else they are
Wilson's and ``n`` counts pairs. Pairs of a few sources (a mixture) have an accuracy for each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reward_harness.data.records import PreferencePair, prompt_key
from reward_harness.evaluation.statistics import Interval, cluster_bootstrap_mean, wilson
from reward_harness.hashing import derive_seed
from reward_harness.manifest import Metric

MOST_SOURCES = 4
"""Above it, sources are labels of responses rather than parts of a mixture."""


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
    prompts = [prompt_key(pair.prompt) for pair in pairs]
    generator = np.random.default_rng(derive_seed(seed, "heldout"))
    ahead = [float(x) - float(y) for x, y in zip(right, best, strict=True)]
    lead = cluster_bootstrap_mean(ahead, prompts, generator)
    loss = sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins) / len(margins)
    return {
        "accuracy": share_of(right, prompts, generator).metric("max"),
        "longer_wins": share_of(longer, prompts, generator).metric(),
        "shorter_wins": share_of(shorter, prompts, generator).metric(),
        "lead_over_length": lead.metric("max"),
        "loss": Metric(value=loss, n=len(margins), direction="min"),
        "margin_mean": Metric(value=sum(margins) / len(margins), n=len(margins), direction="max"),
        **_by_source(pairs, right, prompts, generator),
    }


def _by_source(
    pairs: Sequence[PreferencePair],
    right: Sequence[bool],
    prompts: Sequence[str],
    generator: np.random.Generator,
) -> dict[str, Metric]:
    """``accuracy_<source>`` of each source of a mixture; nothing for one source, or for many."""
    places: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        places.setdefault(re.sub(r"\W+", "_", pair.source), []).append(index)
    if not 1 < len(places) <= MOST_SOURCES:
        return {}
    return {
        f"accuracy_{name}": share_of(
            [right[i] for i in found], [prompts[i] for i in found], generator
        ).metric("max")
        for name, found in sorted(places.items())
    }


def share_of(
    chosen: Sequence[bool], prompts: Sequence[str], generator: np.random.Generator
) -> Interval:
    """The share of True with its interval; see the module's docstring for ``n``."""
    if len(set(prompts)) == len(prompts):
        return wilson(sum(chosen), len(chosen))
    return cluster_bootstrap_mean([float(x) for x in chosen], prompts, generator)


def as_json(splits: dict[str, dict[str, Metric]]) -> dict[str, Any]:
    """``heldout.json``: the measures of each split."""
    return {
        split: {name: metric.model_dump() for name, metric in measures.items()}
        for split, measures in splits.items()
    }
