"""What every request passes first: request id, key, size and load limits; and what is recorded of
it last.

A plain ASGI layer: the body is read here, up to the limit, and replayed to the route, so that no
route can be made to hold more than the limit in memory. An error that no route expected ends here
as 500: its kind and place are logged, never its message, which could quote what was sent.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_harness.serving.audit import AuditLine, AuditLog, log_failure
from reward_harness.serving.direct import DirectRoute
from reward_harness.serving.settings import ServerSettings, authorized
from reward_harness.serving.telemetry import Telemetry
from reward_harness.serving.wire import ServerError, error_body

OPEN_ROUTES = ("/healthz",)
RETRIED_ONLY_ON_5XX = ("/classify", "/v1/embeddings", "/get_reward")
"""Routes of trainers whose clients give up at any 4xx: too much load is 503 there, not 429."""
REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
OTHER = "other"


@dataclass(slots=True)
class Trace:
    """What a request leaves in the log; routes fill in what they learn."""

    request_id: str
    endpoint: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 500
    begun: bool = False
    artifact_id: str | None = None
    digest: str | None = None
    prompt_id: str | None = None
    error_code: str | None = None
    body: str | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds since the request came in."""
        return (time.perf_counter() - self.started) * 1000


class Front:
    """The ASGI layer; ``routes`` are the paths that metrics may name, ``direct`` those answered
    from here.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        telemetry: Telemetry,
        audit: AuditLog,
        routes: frozenset[str],
        direct: Mapping[str, DirectRoute],
    ) -> None:
        self._app, self._settings = app, settings
        self._telemetry, self._audit, self._routes = telemetry, audit, routes
        self._direct = direct
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = Trace(_request_id(headers), scope["path"])
        scope.setdefault("state", {})["trace"] = trace

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status, trace.begun = message["status"], True
                told = MutableHeaders(scope=message)
                told["x-request-id"] = trace.request_id
                if trace.digest is not None:
                    told["x-artifact-digest"] = trace.digest
            await send(message)

        try:
            await self._admitted(scope, headers, receive, answer)
        except ServerError as error:
            await _refuse(error, trace, scope, receive, answer)
        except Exception as error:  # noqa: BLE001  the server's boundary: no message is logged
            log_failure(f"{trace.endpoint} failed", error)
            told = ServerError(500, "internal_error", "the server failed; its log says why")
            await _refuse(told, trace, scope, receive, answer)
        finally:
            self._record(trace)

    async def _admitted(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in OPEN_ROUTES and not authorized(
            headers.get("authorization"), self._settings.key
        ):
            raise ServerError(
                401, "unauthorized", "a valid key is needed", {"WWW-Authenticate": "Bearer, Basic"}
            )
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._settings.limits.in_flight:
            status = 503 if path in RETRIED_ONLY_ON_5XX else 429
            told = "too many requests at once"
            raise ServerError(status, "overloaded", told, {"Retry-After": "1"})
        self._in_flight += 1
        self._telemetry.in_flight.set(self._in_flight)
        try:
            try:
                async with asyncio.timeout(self._settings.limits.read_s):
                    body = await self._read(headers, receive)
            except TimeoutError as error:
                raise ServerError(408, "body_too_slow", "the body did not come in time") from error
            if self._settings.audit_bodies:
                scope["state"]["trace"].body = body.decode("utf-8", "replace")
            again = _replay(body, receive)
            if (route := self._direct.get(path)) is None:
                await self._app(scope, again, send)
            else:
                response = await route.answer(body, Request(scope, again))
                await response(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._telemetry.in_flight.set(self._in_flight)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._settings.limits.body_bytes
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ServerError(400, "disconnected", "the client went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _record(self, trace: Trace) -> None:
        endpoint = trace.endpoint if trace.endpoint in self._routes else OTHER
        self._telemetry.count_request(endpoint, trace.status, trace.latency_ms / 1000)
        if not self._audit.kept:
            return
        self._audit.write(
            AuditLine(
                request_id=trace.request_id,
                endpoint=endpoint,
                artifact_id=trace.artifact_id,
                prompt_id=trace.prompt_id,
                latency_ms=round(trace.latency_ms, 3),
                status=trace.status,
                error_code=trace.error_code,
                body=trace.body,
            )
        )


async def _refuse(
    error: ServerError, trace: Trace, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer with an error, unless an answer has begun."""
    trace.error_code = error.code
    if trace.begun:
        return
    body = error_body(error, trace.request_id)
    await JSONResponse(body, error.status, headers=error.headers)(scope, receive, send)


def _too_large(limit: int) -> ServerError:
    return ServerError(413, "body_too_large", f"the body has more than {limit} bytes")


def _request_id(headers: Headers) -> str:
    """The client's id if it is a harmless one, so that both sides' logs can be joined."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _replay(body: bytes, receive: Receive) -> Receive:
    """A channel that gives the whole body once, then what the client does next."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
