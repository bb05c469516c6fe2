"""How a report makes its intervals: one seed, a generator for each named measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_harness.hashing import derive_seed


@dataclass(frozen=True, slots=True)
class Resampling:
    """Seed of the report, number of resamples, and confidence of its intervals."""

    seed: int
    samples: int
    confidence: float

    def rng(self, *names: str) -> np.random.Generator:
        """A generator that depends on the seed and the names only."""
        return np.random.default_rng(derive_seed(self.seed, "evaluation", *names))
