"""``ProgrammaticRM``: rewards computed by a rule, at no cost and with no model.

``binary`` and ``continuous`` favour a direct answer of at most 150 whitespace words: the first
gives 1.0 when the response is short enough and does not start with a hollow opener, else 0.0; the
second is ½·max(0, 1 − max(0, n − 150)/150) + ½·direct. Any other rule is a subclass of ``BaseRM``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from reward_harness.hashing import digest_json
from reward_harness.rewards.base import BaseRM, Conversation, Scored, ScoreResult, only_valid
from reward_harness.rubrics.wording import HOLLOW_OPENER

WORD_LIMIT = 150

Rule = Callable[[str], float]


def is_direct(response: str) -> bool:
    """Whether the response starts without a hollow opener."""
    return HOLLOW_OPENER.match(response) is None


def binary(response: str) -> float:
    """1.0 for at most ``WORD_LIMIT`` words and no hollow opener, else 0.0."""
    return float(len(response.split()) <= WORD_LIMIT and is_direct(response))


def continuous(response: str) -> float:
    """Half for length, falling linearly to 0 at twice ``WORD_LIMIT``; half for directness."""
    excess = max(0, len(response.split()) - WORD_LIMIT)
    return 0.5 * max(0.0, 1 - excess / WORD_LIMIT) + 0.5 * is_direct(response)


RULES: dict[str, Rule] = {"binary": binary, "continuous": continuous}


class ProgrammaticRM(BaseRM):
    """A rule over the response's text."""

    pace = "instant"

    def __init__(self, rule: Literal["binary", "continuous"] | Rule = "continuous") -> None:
        self.name = rule if isinstance(rule, str) else None
        self.rule = RULES[rule] if isinstance(rule, str) else rule

    def identity(self) -> str | None:
        """Digest of a rule that has a name; a function's content is not known."""
        return self.name and digest_json(["rule", self.name, WORD_LIMIT])

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return only_valid(batch, lambda valid: [Scored(self.rule(c[-1]["content"])) for c in valid])
