"""Limits that all gateways of a process share at one endpoint: requests in flight, pace, pauses.

What is shared is the count (requests in flight, when the next one is due), by ``base_url``; each
gateway brings its own limit to it, so two of them never exceed the looser one together, nor either
one its own. Gateways may live in different event loops and threads.

The pace is even: with 60 requests a minute one starts each second, and no burst is saved up. Tokens
are known only with the reply, so a request first reserves what requests cost on average so far and
settles the difference afterwards.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import cache

FIRST_GUESS_TOKENS = 500.0
"""Tokens of a request before any reply told: grading prompts of a page."""
MEMORY = 0.9
"""Weight of the past in the running mean of tokens."""


@dataclass(slots=True, eq=False)
class _Waiter:
    limit: int
    loop: asyncio.AbstractEventLoop
    granted: asyncio.Future[None]


class Slots:
    """Requests in flight; waiting ones are served in order of arrival."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def acquire(self, limit: int) -> None:
        """Wait until fewer than ``limit`` are in flight, and be one of them."""
        with self._lock:
            if not self._waiting and self.in_flight < limit:
                self.in_flight += 1
                return
            loop = asyncio.get_running_loop()
            waiter = _Waiter(limit, loop, loop.create_future())
            self._waiting.append(waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def release(self) -> None:
        """End one request."""
        with self._lock:
            self.in_flight -= 1
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self.in_flight < self._waiting[0].limit:
            waiter = self._waiting.popleft()
            if waiter.granted.cancelled() or waiter.loop.is_closed():
                continue
            self.in_flight += 1
            waiter.loop.call_soon_threadsafe(self._hand_over, waiter)

    def _hand_over(self, waiter: _Waiter) -> None:
        if waiter.granted.done():
            self.release()
        else:
            waiter.granted.set_result(None)

    def _withdraw(self, waiter: _Waiter) -> None:
        """A cancelled waiter leaves; if its turn had just come, the turn goes to the next one."""
        if waiter.granted.done() and not waiter.granted.cancelled():
            self.release()
            return
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self._grant()


class Pace:
    """When the next request (or token) is due; ``reserve`` never waits itself."""

    def __init__(self) -> None:
        self._free_at_s = 0.0
        self._lock = threading.Lock()

    def reserve(self, amount: float, per_minute: int, now_s: float) -> float:
        """Take the next turn for ``amount``; seconds from ``now_s`` until it comes."""
        with self._lock:
            start = max(now_s, self._free_at_s)
            self._free_at_s = start + amount * 60.0 / per_minute
            return start - now_s

    def settle(self, difference: float, per_minute: int) -> None:
        """Correct a reservation by what it turned out to cost more (or less)."""
        with self._lock:
            self._free_at_s += difference * 60.0 / per_minute


@dataclass(slots=True)
class Limits:
    """What one endpoint's gateways share."""

    slots: Slots = field(default_factory=Slots)
    requests: Pace = field(default_factory=Pace)
    tokens: Pace = field(default_factory=Pace)
    expected_tokens: float = FIRST_GUESS_TOKENS
    paused_until_s: float = 0.0

    def reserve(
        self, per_minute: int | None, tokens_per_minute: int | None, now_s: float
    ) -> tuple[float, float]:
        """``(seconds to wait, tokens reserved)`` for one request."""
        wait_s, tokens = 0.0, 0.0
        if per_minute is not None:
            wait_s = self.requests.reserve(1.0, per_minute, now_s)
        if tokens_per_minute is not None:
            tokens = self.expected_tokens
            wait_s = max(wait_s, self.tokens.reserve(tokens, tokens_per_minute, now_s))
        return wait_s, tokens

    def pause_until(self, time_s: float) -> None:
        """Begin no request before ``time_s``: the endpoint said so (``Retry-After``)."""
        self.paused_until_s = max(self.paused_until_s, time_s)

    def settle(self, reserved: float, used: int, tokens_per_minute: int) -> None:
        """Note what a request used that had ``reserved`` tokens; 0 if it was not answered."""
        self.tokens.settle(used - reserved, tokens_per_minute)
        if used:
            self.expected_tokens = MEMORY * self.expected_tokens + (1 - MEMORY) * used


@cache
def limits_at(base_url: str) -> Limits:
    """The process's limits at an endpoint."""
    return Limits()
