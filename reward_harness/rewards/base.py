"""What a reward is: one interface, and the three results a scorer can have.

A scorer answers ``Scored``, ``Abstained`` (it has no opinion) or ``Failed`` (it could not be asked): never 0.0 in place
of a missing score, because a 0.0 becomes a training label.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from reward_harness.errors import ScoringError

Conversation = Sequence[Mapping[str, str]]
"""``[{role, content}, …]``; the last message is the assistant's, and is what gets scored."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and what it was made of (``raw_logits, normalized_score, tokens_scored, criteria, …``)."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Abstained:
    """The scorer looked and has no opinion, for example because every criterion was skipped."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The scorer could not be asked or understood; ``retriable`` if asking again may help."""

    error: str
    retriable: bool = False


ScoreResult = Scored | Abstained | Failed


class BaseRM(ABC):
    """A reward: subclasses implement ``score_batch_results`` only."""

    artifact_id: str | None = None
    digest: str | None = None

    @abstractmethod
    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; a bad item never fails the batch."""

    def score_batch(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[float | None]:
        """Scores in order; None where there is none."""
        results = self.score_batch_results(batch, batch_size, progress)
        return [r.value if isinstance(r, Scored) else None for r in results]

    @overload
    def score(self, messages: Conversation, return_details: bool = False) -> float: ...
    @overload
    def score(self, messages: Sequence[Conversation], return_details: bool = False) -> list[float]: ...
    def score(self, messages: Any, return_details: bool = False) -> Any:
        """Score one conversation (a float) or a list of them (a list); ``ScoringError`` where there is no score.

        With ``return_details`` each score becomes ``(score, details)``.
        """
        single = bool(messages) and isinstance(messages[0], Mapping)
        results = self.score_batch_results([messages] if single else messages)
        scores = [_value(r, self.artifact_id) for r in results]
        found = list(zip(scores, [dict(r.details) for r in results], strict=True)) if return_details else scores  # type: ignore[union-attr]
        return found[0] if single else found


def _value(result: ScoreResult, artifact_id: str | None) -> float:
    if isinstance(result, Scored):
        return result.value
    reason = result.reason if isinstance(result, Abstained) else result.error
    raise ScoringError("no score", where=artifact_id, got=reason)
