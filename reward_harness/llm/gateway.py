"""The one way to an OpenAI-compatible endpoint: limits, retries, budget, and no key in any text.

``chat`` returns the reply's text, or ``Failed`` once its retries are used up; an answer that no
retry can change (400, 401, 403, 404 …) and too many failures in a row raise ``LLMError``; a spend
cap raises ``BudgetExceeded`` before the request that would break it. This is the only retry layer.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
from httpx_aiohttp import AiohttpTransport

from reward_harness.errors import BudgetExceeded, LLMError
from reward_harness.llm.backends import read_key
from reward_harness.rewards.base import Failed
from reward_harness.sections import Endpoint

RETRIED = {408, 409, 429}
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 8.0
JITTER = 0.2
RETRY_AFTER_MAX_S = 60.0
FAILURES_IN_A_ROW = 8
FAILURES_AT_START = 3
"""Requests that may fail in a row before the first one ever succeeded."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Spend caps; a call is one HTTP request, retries included."""

    max_calls: int | None = None
    max_usd: float | None = None


@dataclass(slots=True)
class Usage:
    """What was asked so far; ``usd`` is None until an endpoint reports a cost."""

    calls: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    calls_by_role: dict[str, int] = field(default_factory=dict[str, int])
    cached_by_role: dict[str, int] = field(default_factory=dict[str, int])

    def count_cached(self, role: str, answers: int = 1) -> None:
        """Note questions that the store answered."""
        self.cached += answers
        self.cached_by_role[role] = self.cached_by_role.get(role, 0) + answers

    def count_call(self, role: str) -> None:
        """Note one HTTP request."""
        self.calls += 1
        self.calls_by_role[role] = self.calls_by_role.get(role, 0) + 1


class Gateway:
    """Requests to one endpoint, at most ``endpoint.concurrency`` in flight."""

    def __init__(
        self,
        endpoint: Endpoint,
        caps: Caps | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.caps = caps or Caps()
        self.usage = Usage()
        self._key = read_key(endpoint)
        self._sleep = sleep
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._failures = 0
        self._answered = False
        self._broken: LLMError | None = None

    def model_of(self, role: str) -> str:
        """The model that plays ``role``."""
        return self.endpoint.role_models.get(role, self.endpoint.model)

    def sampling(self) -> dict[str, Any]:
        """The request fields that decide how an answer is drawn."""
        chosen: dict[str, Any] = {"temperature": self.endpoint.temperature}
        if self.endpoint.reasoning_effort is not None:
            chosen["reasoning_effort"] = self.endpoint.reasoning_effort
        return chosen

    async def chat(
        self, role: str, messages: Sequence[Mapping[str, str]], vote: int = 0
    ) -> str | Failed:
        """One completion's text; equal votes are told apart by their ``seed``."""
        body = {"model": self.model_of(role), "messages": list(messages), **self.sampling()}
        if vote:
            body["seed"] = vote
        problem = ""
        for attempt in range(self.endpoint.max_retries + 1):
            if attempt:
                self.usage.retries += 1
            async with self._slots:
                self._admit(role)
                outcome = await self._post(body)
            if isinstance(outcome, str):
                self._failures, self._answered = 0, True
                return outcome
            problem = outcome.reason
            if attempt < self.endpoint.max_retries:
                await self._sleep(outcome.wait_s or backoff_s(attempt))
        self._note_failure(problem)
        return Failed(f"the endpoint gave no answer: {problem}", retriable=True)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _admit(self, role: str) -> None:
        """Raise where the circuit is open or a cap is reached; else count the call."""
        if self._broken is not None:
            raise self._broken
        caps, usage = self.caps, self.usage
        advice = "What was paid for is kept: raise the cap and run the same command to go on."
        if caps.max_calls is not None and usage.calls >= caps.max_calls:
            raise BudgetExceeded("call budget used up", got=f"{usage.calls} calls", fix=advice)
        if caps.max_usd is not None and (usage.usd or 0.0) >= caps.max_usd:
            raise BudgetExceeded("money budget used up", got=f"{usage.usd} USD", fix=advice)
        usage.count_call(role)

    async def _post(self, body: Mapping[str, Any]) -> str | _Retry:
        try:
            response = await self._connected().post("chat/completions", json=body)
        except httpx.TimeoutException:
            return _Retry(f"no answer within {self.endpoint.timeout_s:g} s")
        except httpx.TransportError as error:
            return _Retry(self._redact(f"{type(error).__name__}: {error}"))
        if response.status_code in RETRIED or response.status_code >= 500:
            return _Retry(self._told(response), retry_after_s(response.headers))
        if response.status_code >= 300:
            raise self._refused(response)
        return self._read(response)

    def _read(self, response: httpx.Response) -> str | _Retry:
        try:
            reply = response.json()
            text = reply["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return _Retry("the answer is not a chat completion")
        self._count_tokens(reply.get("usage"))
        return text if isinstance(text, str) else _Retry("the completion has no text")

    def _count_tokens(self, reported: Any) -> None:
        told = cast("dict[str, Any]", reported) if isinstance(reported, dict) else {}
        self.usage.prompt_tokens += int(told.get("prompt_tokens") or 0)
        self.usage.completion_tokens += int(told.get("completion_tokens") or 0)
        if (cost := told.get("cost")) is not None:
            self.usage.usd = (self.usage.usd or 0.0) + float(cost)
        elif self.caps.max_usd is not None:
            raise LLMError(
                "the endpoint reports no cost, so max_usd cannot be kept",
                where=self.endpoint.base_url,
                fix="Use max_calls with this endpoint.",
            )

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=self.endpoint.concurrency)
            self._client = httpx.AsyncClient(
                transport=AiohttpTransport(limits=limits),
                base_url=self.endpoint.base_url.rstrip("/") + "/",
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=self.endpoint.timeout_s,
            )
        return self._client

    def _note_failure(self, problem: str) -> None:
        self._failures += 1
        allowed = FAILURES_IN_A_ROW if self._answered else FAILURES_AT_START
        if self._failures < allowed or self._broken is not None:
            return
        self._broken = LLMError(
            f"the endpoint failed {self._failures} times in a row, last: {problem}",
            where=self.endpoint.base_url,
            fix="Check the endpoint and run the same command again: what was answered is kept.",
        )

    def _refused(self, response: httpx.Response) -> LLMError:
        key_advice = f"Check the key in {self.endpoint.api_key_env}."
        advice = {401: key_advice, 403: key_advice, 404: "Check base_url and model."}
        return LLMError(
            f"the endpoint refused the request: {self._told(response)}",
            where=self.endpoint.base_url,
            fix=advice.get(response.status_code, "Check model and sampling options."),
        )

    def _told(self, response: httpx.Response) -> str:
        text = " ".join(response.text.split())[:200]
        return self._redact(f"HTTP {response.status_code} {text}".strip())

    def _redact(self, text: str) -> str:
        """The text without the key: endpoints like to quote it."""
        return text.replace(self._key, "<key>")


@dataclass(frozen=True, slots=True)
class _Retry:
    """An attempt that may be made again, after ``wait_s`` if the endpoint asked for it."""

    reason: str
    wait_s: float | None = None


def backoff_s(attempt: int) -> float:
    """Seconds to wait after failed attempt ``attempt`` (from 0): .5·2ⁱ up to 8, ±20 %."""
    base = min(BACKOFF_BASE_S * 2**attempt, BACKOFF_MAX_S)
    return base * random.uniform(1 - JITTER, 1 + JITTER)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that ``Retry-After`` asks for, in seconds or as a date; at most a minute."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(wait, 0.0), RETRY_AFTER_MAX_S)
