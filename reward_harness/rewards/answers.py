"""``AnswerRM``: is the number that a response ends on the prompt's known answer?

1.0 where the last number of the response equals the answer, else 0.0: a response that goes on to
talk about other numbers after the right one is wrong, and so is one that lists several. Thousands
may be set off by commas. A prompt whose answer is not known is no failure of the response: the
scorer abstains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from reward_harness.data.records import Message, prompt_key
from reward_harness.errors import DataError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Conversation,
    Scored,
    ScoreResult,
    only_valid,
)

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


def last_number(text: str) -> Decimal | None:
    """The last number of a text, or None.

    >>> last_number("4 + 7 = 11. That is 1,011 less than 1,022.50.")
    Decimal('1022.50')
    """
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


class AnswerRM(BaseRM):
    """The exact-answer reward of prompts with known answers, at no cost and with no model."""

    pace = "instant"

    def __init__(self, answers: Mapping[str, str]) -> None:
        """``answers`` by ``prompt_key``; ``DataError`` for one that is not a number."""
        self.answers = dict(answers)
        self._numbers = {key: _number(key, answer) for key, answer in answers.items()}

    def identity(self) -> str | None:
        """Digest of the answers."""
        return digest_json(["answers", self.answers])

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return only_valid(batch, lambda valid: [self._score(chat) for chat in valid])

    def _score(self, chat: Conversation) -> ScoreResult:
        asked = [Message.model_validate(dict(turn)) for turn in chat[:-1]]
        answer = self._numbers.get(prompt_key(asked))
        if answer is None:
            return Abstained("the prompt has no known answer")
        return Scored(float(last_number(chat[-1]["content"]) == answer))


def _number(key: str, answer: str) -> Decimal:
    found = NUMBER.fullmatch(answer.strip())
    if found is None:
        raise DataError(
            "not a number", where=f"answer of prompt {key[:16]}", got=answer, expected="a number"
        )
    return Decimal(found.group().replace(",", ""))
