"""``ClassifierRM``: a trained reward head (Bradley-Terry or regression) as a reward.

The model does its own tokenisation, truncation and length-sorted batching
(``reward_harness.models.reward_head`` for the project's, ``outcome_model`` for published ones);
torch is imported when a model is loaded, not with this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reward_harness.rewards.base import BaseRM, Conversation, Scored, ScoreResult, only_valid


class OutcomeScorer(Protocol):
    """A model that gives each conversation one number."""

    def score_counted(self, conversations: Sequence[Conversation]) -> list[tuple[float, int]]:
        """``(score, tokens read)`` of each conversation, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Normalization:
    """Mean and standard deviation of the raw scores on held-out responses."""

    mean: float = 0.0
    std: float = 1.0


class ClassifierRM(BaseRM):
    """One forward pass a response; ``value`` is the raw logit, ``normalized_score`` is in its
    details.

    Calls from several threads take turns, so that a batch keeps all cores.
    """

    pace = "batched"

    def __init__(self, model: OutcomeScorer, normalization: Normalization | None = None) -> None:
        self.model = model
        self.normalization = normalization or Normalization()
        self.identify: Callable[[], str | None] = lambda: None
        self._turn = threading.Lock()

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", normalization: Normalization | None = None
    ) -> ClassifierRM:
        """Read a ``model/`` folder as ``bt_reward_model`` publishes it."""
        from reward_harness.models.reward_head import RewardModel

        return cls(RewardModel.load(folder, device=device), normalization)

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; ``batch_size`` is left to the model's token
        budget.
        """
        return only_valid(batch, self._forward)

    def identity(self) -> str | None:
        """The artifact's digest, or what ``identify`` tells of the model."""
        return self.digest or self.identify()

    def _raw(self, batch: list[Conversation]) -> list[tuple[float, int]]:
        """Logits and tokens, in order; equal conversations (the sides of many pairs) are computed
        once.
        """
        keys = [tuple((m["role"], m["content"]) for m in conversation) for conversation in batch]
        unique = dict(zip(keys, batch, strict=True))
        with self._turn:
            values = self.model.score_counted(list(unique.values()))
        by_key = dict(zip(unique, values, strict=True))
        return [by_key[key] for key in keys]

    def _forward(self, batch: list[Conversation]) -> list[ScoreResult]:
        values = self._raw(batch)
        scale = self.normalization.std or 1.0
        return [
            Scored(
                value,
                {
                    "raw_logits": [value],
                    "normalized_score": (value - self.normalization.mean) / scale,
                    "tokens_scored": tokens,
                },
            )
            for value, tokens in values
        ]
