"""Dynamic batching: requests that arrive while a forward pass runs are scored together in the next
one.

One worker thread takes all that waits, up to ``max_items``, and hands it to the reward, which sorts
by length and packs by token budget. Nobody waits on a timer: an idle worker starts at once, and
under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from reward_harness.rewards.base import BaseRM, Failed, Item, ScoreResult
from reward_harness.serving.audit import log_failure

MAX_ITEMS = 256
CLOSING = Failed("the server is shutting down", retriable=True, code="shutting_down")


@dataclass(frozen=True, slots=True)
class _Waiting:
    items: Sequence[Item]
    future: Future[list[ScoreResult]] = field(default_factory=Future[list[ScoreResult]])


class Scorer:
    """Asynchronous access to one reward; ``close`` finishes what was accepted."""

    def __init__(self, rm: BaseRM, max_items: int = MAX_ITEMS) -> None:
        self.rm = rm
        self._max_items = max_items
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None
        if rm.pace == "batched":
            self._worker = threading.Thread(target=self._work, name="scorer", daemon=True)
            self._worker.start()

    async def score(self, items: Sequence[Item]) -> list[ScoreResult]:
        """One result for each item, in order."""
        if self.rm.pace == "instant":
            # microseconds of pure computation: a thread would cost more than the score
            return score_safely(self.rm, items)
        if self.rm.pace == "waiting":
            return await asyncio.to_thread(score_safely, self.rm, items)
        waiting = _Waiting(items)
        with self._wake:
            if self._closed:
                return [CLOSING for _ in items]
            self._waiting.append(waiting)
            self._wake.notify()
        return await asyncio.wrap_future(waiting.future)

    def close(self) -> None:
        """Accept nothing more, score what waits, stop the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._worker is not None:
            self._worker.join()
        self.rm.close()

    def _work(self) -> None:
        while batch := self._take():
            items = [item for waiting in batch for item in waiting.items]
            results = score_safely(self.rm, items)
            start = 0
            for waiting in batch:
                end = start + len(waiting.items)
                if not waiting.future.cancelled():
                    waiting.future.set_result(results[start:end])
                start = end

    def _take(self) -> list[_Waiting]:
        """All that waits, up to ``max_items``; empty once the scorer is closed and done."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            taken: list[_Waiting] = []
            size = 0
            while self._waiting and (not taken or size < self._max_items):
                taken.append(self._waiting.popleft())
                size += len(taken[-1].items)
            return taken


def score_safely(rm: BaseRM, items: Sequence[Item]) -> list[ScoreResult]:
    """Score; whatever a reward raises becomes ``Failed``, so that the worker and the batch live
    on.
    """
    try:
        return rm.score_items(items)
    except Exception as error:  # noqa: BLE001  the worker's boundary: a reward may be anybody's
        log_failure(f"reward {rm.artifact_id} failed", error)
        return [Failed(f"{type(error).__name__}: {error}") for _ in items]
