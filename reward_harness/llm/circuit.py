"""The circuit breaker: an endpoint that keeps failing is left alone.

Hard (the default): once it is open, every request raises the same error. Soft (``fail_soft``):
requests fail at once for a cool-down, then a single one is let through; its answer closes the
circuit again, its failure starts the next cool-down.
"""

from __future__ import annotations

from collections.abc import Callable

from reward_harness.errors import LLMError

FAILURES_IN_A_ROW = 8
FAILURES_AT_START = 3
"""Requests that may fail in a row before the first one ever succeeded."""
COOL_DOWN_S = 30.0


class Circuit:
    """Failures in a row at ``where``, each after all its retries."""

    def __init__(self, where: str, soft: bool, clock: Callable[[], float]) -> None:
        self._where, self._soft, self._clock = where, soft, clock
        self._failures = 0
        self._answered = False
        self._open: LLMError | None = None
        self._fatal = False
        self._probe_at_s = 0.0

    def closed(self) -> bool:
        """Whether a request that has begun may go on; raises where the circuit is hard and open."""
        if self._open is None:
            return True
        if self._soft and not self._fatal:
            return False
        raise self._open

    def admits(self) -> bool:
        """Whether a new request may begin; in the soft circuit one after each cool-down may."""
        if self.closed():
            return True
        if self._clock() < self._probe_at_s:
            return False
        self._probe_at_s = self._clock() + COOL_DOWN_S
        return True

    @property
    def reason(self) -> str:
        """Why requests fail at once."""
        return str(self._open)

    def note_answer(self) -> None:
        """The endpoint answered: all is well."""
        self._failures, self._answered = 0, True
        if not self._fatal:
            self._open = None

    def note_refusal(self, error: LLMError) -> None:
        """The endpoint refuses for good (key, address): no later request will fare better."""
        self._open, self._fatal = error, True

    def note_failure(self, problem: str) -> None:
        """A request failed after all its retries."""
        self._failures += 1
        allowed = FAILURES_IN_A_ROW if self._answered else FAILURES_AT_START
        if self._failures < allowed or self._fatal:
            return
        if self._open is None or self._soft:
            self._probe_at_s = self._clock() + COOL_DOWN_S
            self._open = LLMError(
                f"the endpoint failed {self._failures} times in a row, last: {problem}",
                where=self._where,
                fix="Check the endpoint and run the same command again: what was answered is kept.",
            )
