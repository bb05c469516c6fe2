"""The one way to an OpenAI-compatible endpoint: limits, retries, budget, and no key in any text.

``chat`` returns the reply's text, or ``Failed`` once its retries are used up; an answer that no
retry can change (400, 401, 403, 404 …) raises ``EndpointRefused``, too many failures in a row
``LLMError``; a spend cap raises ``BudgetExceeded`` before the request that would break it. With
``fail_soft`` an endpoint that stays away makes requests ``Failed`` at once for a while. This is the
only retry layer.

A gateway belongs to the event loop of its first request, as its connections do; its limits are
shared with all gateways of the process at the same ``base_url``.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from reward_harness.errors import EndpointRefused, SpecError
from reward_harness.llm.backends import read_key
from reward_harness.llm.budget import Caps as Caps
from reward_harness.llm.budget import Usage as Usage
from reward_harness.llm.budget import check_caps
from reward_harness.llm.circuit import Circuit
from reward_harness.llm.connection import Connection, Reply
from reward_harness.llm.limits import limits_at
from reward_harness.rewards.base import Failed
from reward_harness.search_sections import Endpoint

RETRIED = {408, 409, 429}
REFUSED_FOR_ALL = {401, 403, 404}
RETRY_AFTER_MAX_S = 60.0
OWN_FIELDS = {"model", "messages", "seed", "stream", "n"}
"""Request fields that ``extra_body`` may not set: answers are read and stored by them."""


class Gateway:
    """Requests to one endpoint, at most ``endpoint.concurrency`` in flight."""

    def __init__(
        self,
        endpoint: Endpoint,
        caps: Caps | None = None,
        *,
        key: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if taken := sorted(OWN_FIELDS & set(endpoint.extra_body)):
            raise SpecError("extra_body sets what the search sets itself", got=", ".join(taken))
        self.endpoint = endpoint
        self.caps = caps or Caps()
        self.usage = Usage()
        self._key = key or read_key(endpoint)
        self._sleep, self._clock = sleep, clock
        self._connection = Connection(endpoint, self._key)
        self._limits = limits_at(endpoint.base_url.rstrip("/"))
        self._circuit = Circuit(endpoint, clock)
        self._turn = asyncio.Lock()

    def model_of(self, role: str) -> str:
        """The model that plays ``role``."""
        return self.endpoint.role_models.get(role, self.endpoint.model)

    def sampling(self) -> dict[str, Any]:
        """The request fields that decide how an answer is drawn."""
        chosen: dict[str, Any] = {"temperature": self.endpoint.temperature}
        if self.endpoint.reasoning_effort is not None:
            chosen["reasoning_effort"] = self.endpoint.reasoning_effort
        return chosen | self.endpoint.extra_body

    async def chat(
        self, role: str, messages: Sequence[Mapping[str, str]], vote: int = 0
    ) -> str | Failed:
        """One completion's text; equal votes are told apart by their ``seed``."""
        if not self._circuit.admits():
            return Failed(self._circuit.reason, retriable=True)
        body = {"model": self.model_of(role), "messages": list(messages), **self.sampling()}
        if vote:
            body["seed"] = vote
        content, probe, problem = encode(body), not self._circuit.closed(), ""
        attempts = 1 if probe else self.endpoint.max_retries + 1
        for attempt in range(attempts):
            outcome = await self._attempt(role, content, probe)
            if isinstance(outcome, _Answer):
                self._circuit.note_answer()
                return outcome.text
            if outcome is None:
                return Failed(self._circuit.reason, retriable=True)
            problem = outcome.reason
            self._circuit.note_failed_attempt(problem)
            if attempt + 1 < attempts:
                if not outcome.paused:
                    await self._sleep(backoff_s(self.endpoint, attempt))
                self.usage.retries += 1
        self._circuit.note_failure(problem)
        return Failed(f"the endpoint gave no answer: {problem}", retriable=True)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()

    async def _attempt(self, role: str, content: bytes, probe: bool) -> _Answer | _Retry | None:
        """One request; None where the soft circuit opened before its turn."""
        endpoint, slots = self.endpoint, self._limits.slots
        reserved, outcome = 0.0, None
        if endpoint.requests_per_minute or endpoint.tokens_per_minute:
            reserved = await self._keep_pace()
        await slots.acquire(endpoint.concurrency)
        try:
            await self._wait_while_paused()
            if not probe and not self._circuit.closed():
                return None
            check_caps(self.caps, self.usage)
            self.usage.count_call(role)
            outcome = await self._post(content)
            return outcome
        finally:
            slots.release()
            if endpoint.tokens_per_minute:
                used = outcome.tokens if isinstance(outcome, _Answer) else 0
                self._limits.settle(reserved, used, endpoint.tokens_per_minute)

    async def _wait_while_paused(self) -> None:
        """Wait as long as the endpoint asked for, whichever request it told; the slot is held, so
        that no other request takes its turn meanwhile.
        """
        while (left_s := self._limits.paused_until_s - self._clock()) > 0:
            await self._sleep(left_s)

    async def _keep_pace(self) -> float:
        """Wait for the next turn of the pace; the tokens reserved for it.

        One request waits at a time, so that all others notice a reached cap at once.
        """
        endpoint = self.endpoint
        async with self._turn:
            check_caps(self.caps, self.usage)
            wait_s, reserved = self._limits.reserve(
                endpoint.requests_per_minute, endpoint.tokens_per_minute, self._clock()
            )
            if wait_s > 0:
                await self._sleep(wait_s)
        return reserved

    async def _post(self, content: bytes) -> _Answer | _Retry:
        try:
            response = await self._connection.post(content)
        except TimeoutError as error:
            told = self._redact(f" ({error})" if str(error) else "")
            return _Retry(f"no answer within {self.endpoint.timeout_s:g} s{told}")
        except aiohttp.ClientError as error:
            return _Retry(self._redact(f"{type(error).__name__}: {error}"))
        if response.status in RETRIED or response.status >= 500:
            asked_s = retry_after_s(response.headers)
            if asked_s is not None:
                self._limits.pause_until(self._clock() + asked_s)
            return _Retry(self._told(response), paused=asked_s is not None)
        if response.status >= 300:
            raise self._refused(response)
        return self._read(response)

    def _read(self, response: Reply) -> _Answer | _Retry:
        try:
            reply = decode(response.content)
            text = reply["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return _Retry("the answer is not a chat completion")
        tokens = self.usage.count_reply(reply.get("usage"), self.caps, self.endpoint.base_url)
        if not isinstance(text, str):
            return _Retry("the completion has no text")
        return _Answer(text, tokens)

    def _refused(self, response: Reply) -> EndpointRefused:
        key_advice = f"Check the key in {self.endpoint.api_key_env}."
        advice = {401: key_advice, 403: key_advice, 404: "Check base_url and model."}
        error = EndpointRefused(
            f"the endpoint refused the request: {self._told(response)}",
            where=self.endpoint.base_url,
            fix=advice.get(response.status, "Check model and sampling options."),
        )
        if response.status in REFUSED_FOR_ALL:
            self._circuit.note_refusal(error)
        return error

    def _told(self, response: Reply) -> str:
        text = " ".join(response.text.split())[:200]
        return self._redact(f"HTTP {response.status} {text}".strip())

    def _redact(self, text: str) -> str:
        """The text without the key: endpoints like to quote it."""
        return text.replace(self._key, "<key>")


@dataclass(frozen=True, slots=True)
class _Answer:
    """A completion's text and what the endpoint says it took."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Retry:
    """An attempt that may be made again; ``paused`` if the endpoint said when."""

    reason: str
    paused: bool = False


def encode(body: Mapping[str, Any]) -> bytes:
    """A request's JSON."""
    try:
        return orjson.dumps(body)
    except TypeError:  # half a surrogate pair in a text: only the standard library escapes it
        return json.dumps(body).encode()


def decode(content: bytes) -> Any:
    """A reply's JSON; ``ValueError`` if it is none."""
    try:
        return orjson.loads(content)
    except ValueError:  # what is lenient JSON only: NaN, half a surrogate pair
        return json.loads(content)


def backoff_s(endpoint: Endpoint, attempt: int) -> float:
    """Seconds to wait after failed attempt ``attempt`` (from 0): base·2ⁱ, capped, with jitter."""
    wait_s = min(endpoint.retry_backoff_base_s * 2.0**attempt, endpoint.retry_backoff_max_s)
    return wait_s * random.uniform(1 - endpoint.retry_jitter, 1 + endpoint.retry_jitter)


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
