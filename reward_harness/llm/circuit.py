"""The circuit breaker: an endpoint that keeps failing is left alone.

Failures in a row are counted twice, because either count alone is slow somewhere: requests that
failed after all their retries (few are asked at a time), and single attempts (thousands wait, and
each has its first attempt before any has its last). An answer sets both to zero.

Hard (the default): once it is open, every request raises the same error. Soft (``fail_soft``):
requests fail at once for a cool-down, then a single one is let through; its answer closes the
circuit again, its failure starts the next cool-down.
"""

from __future__ import annotations

from collections.abc import Callable

from reward_harness.errors import LLMError
from reward_harness.search_sections import Endpoint

FAILURES_IN_A_ROW = 8
FAILURES_AT_START = 3
"""Requests that may fail in a row before the first one ever succeeded."""
COOL_DOWN_S = 30.0


class Circuit:
    """Failures in a row at ``endpoint``."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        self._endpoint, self._soft, self._clock = endpoint, endpoint.fail_soft, clock
        self._failures = self._attempts = 0
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
        self._failures, self._attempts, self._answered = 0, 0, True
        if not self._fatal:
            self._open = None

    def note_refusal(self, error: LLMError) -> None:
        """The endpoint refuses for good (key, address): no later request will fare better."""
        self._open, self._fatal = error, True

    def note_failed_attempt(self, problem: str) -> None:
        """An attempt failed; all that may be in flight at once can fail without meaning much."""
        self._attempts += 1
        a_request = self._endpoint.max_retries + 1
        if self._attempts >= self._allowed() * a_request + self._endpoint.concurrency:
            self._break(self._attempts, problem)

    def note_failure(self, problem: str) -> None:
        """A request failed after all its retries."""
        self._failures += 1
        if self._failures >= self._allowed():
            self._break(self._failures, problem)

    def _allowed(self) -> int:
        return FAILURES_IN_A_ROW if self._answered else FAILURES_AT_START

    def _break(self, times: int, problem: str) -> None:
        if self._fatal or (self._open is not None and not self._soft):
            return
        self._probe_at_s = self._clock() + COOL_DOWN_S
        self._open = LLMError(
            f"the endpoint failed {times} times in a row, last: {problem}",
            where=self._endpoint.base_url,
            fix="Check the endpoint and run the same command again: what was answered is kept.",
        )
