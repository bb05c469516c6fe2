"""One round of questions: all asked concurrently, failed ones again at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from reward_harness.rewards.base import Failed

T = TypeVar("T")
REQUEUED = 5


def unseen() -> None:
    """Nobody watches."""


@dataclass(slots=True)
class Tally:
    """How far the questions of a generation are: ``changed`` is told of every answer.

    The questions of a later round count from the moment when it begins.
    """

    asked: int = 0
    answered: int = 0
    changed: Callable[[], None] = unseen

    def begin(self) -> None:
        """Count from the start: a generation begins."""
        self.asked = self.answered = 0

    def note_answer(self) -> None:
        """One question has its answer, or will get none."""
        self.answered += 1
        self.changed()


async def ask_round(
    asks: Sequence[Callable[[], Awaitable[T | Failed]]], tally: Tally | None = None
) -> list[T | Failed]:
    """Answers in order; what failed and may be tried again is, at most ``REQUEUED`` times.

    An exception is raised only when no request is in flight any more, so that nothing that was
    paid for is lost to a cancelled sibling.
    """
    counted = tally or Tally()
    counted.asked += len(asks)

    async def one(index: int) -> T | Failed:
        answer = await asks[index]()
        if not _may_succeed_later(answer):
            counted.note_answer()
        return answer

    answers: list[T | Failed] = [Failed("not asked yet", retriable=True)] * len(asks)
    waiting = list(range(len(asks)))
    for _ in range(1 + REQUEUED):
        given = await asyncio.gather(*map(one, waiting), return_exceptions=True)
        for i, answer in zip(waiting, given, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            answers[i] = cast("T | Failed", answer)
        waiting = [i for i in waiting if _may_succeed_later(answers[i])]
        if not waiting:
            break
    for _ in waiting:
        counted.note_answer()
    return answers


def _may_succeed_later(answer: object) -> bool:
    return isinstance(answer, Failed) and answer.retriable
