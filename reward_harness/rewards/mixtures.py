"""Rewards made of rewards by a formula: ``MixedRM`` and ``CompositeRM``.

    MixedRM       (1 − η)·conservative + η·aggressive, η clamped to [0, 1]
    CompositeRM   w_bt·σ(r_bt) + w_prog·r_prog + w_conc·r_conc

``LinearSchedule`` moves η with the training step: the start value up to the end of the warm-up,
then linear, then the end value. Where a part has no score the whole has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_harness.errors import SpecError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    BaseRM,
    Conversation,
    Item,
    Scored,
    ScoreResult,
    logistic,
)
from reward_harness.rewards.ensemble import missing, slowest
from reward_harness.rewards.programmatic import ProgrammaticRM

Schedule = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class LinearSchedule:
    """From ``start`` to ``end`` over ``ramp`` steps after ``warmup`` steps.

    With warm-up 2, ramp 4, .1 → .9: .1 at step 2, .5 at step 4, .9 from step 6.
    """

    start: float = 0.1
    end: float = 0.9
    warmup: int = 2
    ramp: int = 4

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.ramp < 0:
            raise SpecError(
                "not a schedule",
                got=f"warmup={self.warmup}, ramp={self.ramp}",
                expected="numbers of steps, ≥ 0",
            )

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0."""
        if step >= self.warmup + self.ramp:
            return self.end
        share = max(0, step - self.warmup) / self.ramp if self.ramp else 0.0
        return self.start + share * (self.end - self.start)


class MixedRM(BaseRM):
    """Two rewards mixed by η, a number or a schedule over ``step``.

    The trainer moves the schedule with ``at_step``; until then it stands at step 0.
    """

    def __init__(
        self, conservative: BaseRM, aggressive: BaseRM, eta: float | Schedule = LinearSchedule()
    ) -> None:
        self.conservative, self.aggressive = conservative, aggressive
        self._eta = eta
        self.step = 0
        self.pace = slowest([conservative, aggressive])

    @property
    def eta(self) -> float:
        """The aggressive reward's share at the present step."""
        value = self._eta(self.step) if callable(self._eta) else self._eta
        return min(max(value, 0.0), 1.0)

    def at_step(self, step: int) -> MixedRM:
        """The same reward, from now on with the schedule's value at ``step``."""
        self.step = step
        return self

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``, handing prompt ids on."""
        eta = self.eta
        pairs = zip(
            self.conservative.score_items(items, batch_size),
            self.aggressive.score_items(items, batch_size),
            strict=True,
        )
        return [_mixed(low, high, eta) for low, high in pairs]

    def identity(self) -> str | None:
        """Digest of both rewards and of the present η."""
        inner = [self.conservative.identity(), self.aggressive.identity()]
        return None if None in inner else digest_json(["mixed", inner, self.eta])

    def close(self) -> None:
        """Close both rewards."""
        self.conservative.close()
        self.aggressive.close()


def _mixed(low: ScoreResult, high: ScoreResult, eta: float) -> ScoreResult:
    if not (isinstance(low, Scored) and isinstance(high, Scored)):
        return missing([low, high])
    value = (1 - eta) * low.value + eta * high.value
    return Scored(value, {"members": [low.value, high.value], "eta": eta})


class CompositeRM(BaseRM):
    """A learned reward, squashed by σ, with a programmatic rule and a conciseness rule beside it.

    Args:
        learned: a Bradley-Terry reward; its raw score is r_bt.
        programmatic, concise: rewards in [0, 1]; ``ProgrammaticRM``'s two rules unless given.
        weights: (w_bt, w_prog, w_conc), each ≥ 0.
    """

    def __init__(
        self,
        learned: BaseRM,
        programmatic: BaseRM | None = None,
        concise: BaseRM | None = None,
        weights: tuple[float, float, float] = (0.6, 0.2, 0.2),
    ) -> None:
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise SpecError(
                "not usable weights", got=str(weights), expected="numbers ≥ 0, not all 0"
            )
        self.parts = (
            learned,
            programmatic or ProgrammaticRM("binary"),
            concise or ProgrammaticRM("continuous"),
        )
        self.weights = weights
        self.pace = slowest(self.parts)

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order, with the three parts in its details."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``, handing prompt ids on."""
        columns = [part.score_items(items, batch_size) for part in self.parts]
        return [self._combined(row) for row in zip(*columns, strict=True)]

    def identity(self) -> str | None:
        """Digest of the parts and weights."""
        inner = [part.identity() for part in self.parts]
        known = None if None in inner else digest_json(["composite", inner, list(self.weights)])
        return self.digest or known

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()

    def _combined(self, row: Sequence[ScoreResult]) -> ScoreResult:
        values = [result.value for result in row if isinstance(result, Scored)]
        if len(values) < len(row):
            return missing(row)
        raw, rule, concise = values
        parts = {"bt": logistic(raw), "programmatic": rule, "concise": concise}
        value = sum(w * part for w, part in zip(self.weights, parts.values(), strict=True))
        return Scored(value, {"raw_logits": [raw], "parts": parts})
