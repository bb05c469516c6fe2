"""Racing: what of the data a child is graded on before it may cost more.

Two rungs of successive halving. The *anchors*, a seeded quarter of the prompts with half of their
candidates, are where every child is graded and where all pairs are judged once for the whole
search: judgements do not depend on rubrics, so later generations find them there. Only children
that order the anchors better than the best rubric so far are graded on everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_harness.hashing import derive_seed

PROMPT_SHARE, MIN_PROMPTS = 0.25, 8
CANDIDATE_SHARE, MIN_CANDIDATES = 0.5, 6
PROMOTED = 2
"""Children of a generation that may be graded on everything."""
WORTH_GRADING = 0.02
"""Gain in agreement on the anchors that is worth the calls; any is where none is needed."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Some prompts with all of their candidates, or with ``candidates`` (seeded choice) of each."""

    prompts: tuple[int, ...]
    candidates: int | None = None


def anchors_of(prompts: Sequence[int], candidates: Sequence[int], seed: int) -> Cells | None:
    """The first rung; ``candidates`` has their number for each prompt. None: too little to race."""
    most = max(candidates)
    count = max(MIN_PROMPTS, math.ceil(len(prompts) * PROMPT_SHARE))
    share = max(MIN_CANDIDATES, math.ceil(most * CANDIDATE_SHARE))
    if count >= len(prompts) and share >= most:
        return None
    rng = np.random.default_rng(derive_seed(seed, "anchors"))
    chosen = rng.permutation(np.asarray(prompts, dtype=np.int64))[:count]
    return Cells(tuple(sorted(int(i) for i in chosen)), share if share < most else None)


def candidate_order(count: int, seed: int, prompt_id: str) -> tuple[int, ...]:
    """The order in which a prompt's candidates enter a rung."""
    rng = np.random.default_rng(derive_seed(seed, "candidates", prompt_id))
    return tuple(int(i) for i in rng.permutation(count))
