"""One round of questions: all asked concurrently, failed ones again at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from reward_harness.rewards.base import Failed

T = TypeVar("T")
REQUEUED = 5


async def ask_round(asks: Sequence[Callable[[], Awaitable[T | Failed]]]) -> list[T | Failed]:
    """Answers in order; what failed and may be tried again is, at most ``REQUEUED`` times.

    An exception is raised only when no request is in flight any more, so that nothing that was
    paid for is lost to a cancelled sibling.
    """
    answers: list[T | Failed] = [Failed("not asked yet", retriable=True)] * len(asks)
    waiting = list(range(len(asks)))
    for _ in range(1 + REQUEUED):
        given = await asyncio.gather(*(asks[i]() for i in waiting), return_exceptions=True)
        for i, answer in zip(waiting, given, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            answers[i] = cast("T | Failed", answer)
        waiting = [i for i in waiting if isinstance(a := answers[i], Failed) and a.retriable]
        if not waiting:
            break
    return answers
