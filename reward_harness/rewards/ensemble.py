"""``EnsembleRM``: the weighted mean of several rewards, lowered where they disagree.

score = Σ wᵢ·rᵢ / Σ wᵢ − λ·s, with s the unbiased standard deviation over members
(uncertainty-weighted optimisation, Coste et al. 2023, arXiv 2310.02743). An item that any member
gave no score has none: a mean over the rest would be on another scale.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from reward_harness.errors import SpecError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Conversation,
    Failed,
    Item,
    Pace,
    Scored,
    ScoreResult,
)

SLOWEST_FIRST: tuple[Pace, ...] = ("waiting", "batched", "instant")


class EnsembleRM(BaseRM):
    """Members with weights ≥ 0; ``penalty`` is λ.

    >>> EnsembleRM([(a, 1), (b, 1), (c, 1)], penalty=0.5)  # members say 1, 2, 3: 2 − 0.5·1 = 1.5
    """

    def __init__(self, members: Sequence[tuple[BaseRM, float]], penalty: float = 0.0) -> None:
        weights = [weight for _, weight in members]
        if not members or min(weights) < 0 or sum(weights) <= 0 or not math.isfinite(sum(weights)):
            raise SpecError(
                "not usable ensemble weights",
                got=str(weights),
                expected="at least one member, weights ≥ 0 with a positive sum",
            )
        self.members = tuple(members)
        self.penalty = penalty
        self.pace = slowest([rm for rm, _ in members])

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``, handing prompt ids on to the members."""
        columns = [member.score_items(items, batch_size) for member, _ in self.members]
        return [self._combine(row) for row in zip(*columns, strict=True)]

    def identity(self) -> str | None:
        """The artifact's digest, or that of members, weights and penalty."""
        inner = [(member.identity(), weight) for member, weight in self.members]
        if self.digest is not None or any(name is None for name, _ in inner):
            return self.digest
        return digest_json(["ensemble", inner, self.penalty])

    def close(self) -> None:
        """Close the members."""
        for member, _ in self.members:
            member.close()

    def _combine(self, row: Sequence[ScoreResult]) -> ScoreResult:
        values = [result.value for result in row if isinstance(result, Scored)]
        if len(values) < len(row):
            return missing(row)
        weights = [weight for _, weight in self.members]
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return Scored(mean - self.penalty * spread, {"members": values, "std": spread})


def slowest(rewards: Sequence[BaseRM]) -> Pace:
    """The pace of rewards that are asked together."""
    paces = {rm.pace for rm in rewards}
    return next(pace for pace in SLOWEST_FIRST if pace in paces)


def missing(row: Sequence[ScoreResult]) -> ScoreResult:
    """The result of a whole of which at least one part has no score."""
    failed = next((result for result in row if isinstance(result, Failed)), None)
    if failed is not None:
        return failed
    return Abstained(next(r.reason for r in row if isinstance(r, Abstained)))
