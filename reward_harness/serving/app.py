"""The scoring server's routes: native protocol, health, version, metrics.

    GET  /healthz      open to all: is it up, and what does it serve
    GET  /version      the digest by which a deployment is recognised
    GET  /metrics      Prometheus
    GET  /v1/models    the artifact as an OpenAI-style model
    POST /score        one response; no score is an HTTP error, never a number
                       (bodies of other protocols: ``reward_harness.serving.protocols``)
    POST /batch_score  many; each result is {index, ok: true, …} or {index, ok: false, error_code,
    error_message}

``create_app`` gives a FastAPI application; ``python -m reward_harness.rm.server`` runs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from reward_harness.rewards.base import Scored, ScoreResult
from reward_harness.rm.artifact import RM_API_VERSION
from reward_harness.serving import telemetry
from reward_harness.serving.audit import AuditLog
from reward_harness.serving.context import Context
from reward_harness.serving.context import context_of as _context
from reward_harness.serving.context import trace_of as _trace
from reward_harness.serving.direct import INVALID_REQUEST, DirectRoute
from reward_harness.serving.front import Front, Trace
from reward_harness.serving.protocols import ROUTERS, AnyScoreBody, score_foreign
from reward_harness.serving.settings import ServerSettings
from reward_harness.serving.signing import content_hash, sign
from reward_harness.serving.source import Served, Source
from reward_harness.serving.wire import (
    INVALID_ITEM,
    TEXT_TOO_LONG,
    BatchBody,
    ScoreBody,
    ServerError,
    error_body,
    error_of,
    first_problem,
)

busy = APIRouter(route_class=DirectRoute)
router = APIRouter()


def create_app(source: Source, settings: ServerSettings | None = None) -> FastAPI:
    """The application; it follows ``source`` while it runs and finishes what is in flight at the
    end.
    """
    settings = settings or ServerSettings()
    context = Context(source, settings, telemetry.Telemetry())
    audit = AuditLog(settings.audit_log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        source.start()
        yield
        await source.stop()
        audit.close()

    app = FastAPI(title="Reward Harness", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.context = context
    parts = (busy, router, *ROUTERS)  # routes are tried in order: the busy ones first
    for part in parts:
        app.include_router(part)
    app.add_exception_handler(ServerError, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(HTTPException, _told)
    paths = frozenset(getattr(route, "path", "") for part in parts for route in part.routes)
    direct = {route.path: route for route in busy.routes if isinstance(route, DirectRoute)}
    app.add_middleware(
        Front,
        settings=settings,
        telemetry=context.telemetry,
        audit=audit,
        routes=paths,
        direct=direct,
    )
    return app


@busy.post("/score")
async def score(body: AnyScoreBody, request: Request) -> Response:
    """Score one response; other protocols' bodies are theirs to answer."""
    if not isinstance(body, ScoreBody):
        return await score_foreign(body, request)
    context, trace = _context(request), _trace(request)
    trace.prompt_id = body.prompt_id
    if body.chars > context.settings.limits.text_chars:
        raise _too_long(context)
    with context.source.lease() as served:
        trace.artifact_id, trace.digest = served.artifact.artifact_id, served.digest
        result = (await served.scorer.score([body.item()]))[0]
        _count(context, [result])
        if not isinstance(result, Scored):
            raise error_of(result)
        reply = _reply(served, body, result)
    return _json(
        {
            "request_id": trace.request_id,
            "digest": served.digest,
            **reply,
            **_signature(context, trace, body, result),
            "latency_ms": trace.latency_ms,
        }
    )


@busy.post("/batch_score")
async def batch_score(body: BatchBody, request: Request) -> Response:
    """Score many responses; a bad item fails alone."""
    context, trace = _context(request), _trace(request)
    limit = context.settings.limits.batch_items
    if len(body.items) > limit:
        raise ServerError(413, "batch_too_large", f"a batch has at most {limit} items")
    parsed = [_parsed(context, item) for item in body.items]
    good = [item for item in parsed if isinstance(item, ScoreBody)]
    with context.source.lease() as served:
        trace.artifact_id, trace.digest = served.artifact.artifact_id, served.digest
        found = await served.scorer.score([item.item() for item in good]) if good else []
        _count(context, found)
        scored = iter(found)
        results = [
            _entry(context, trace, index, item, served, scored) for index, item in enumerate(parsed)
        ]
        return _json(
            {
                "request_id": trace.request_id,
                "artifact_id": served.artifact.artifact_id,
                "digest": served.digest,
                "results": results,
                "latency_ms": trace.latency_ms,
            }
        )


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Whether the server is up, and what it serves."""
    artifact = _context(request).source.current.artifact
    return _json(
        {
            "status": "ok",
            "artifact_id": artifact.artifact_id,
            "source_session_id": artifact.source_session_id,
            "schema_version": artifact.schema_version,
            "rm_api_version": RM_API_VERSION,
        }
    )


@router.get("/version")
async def version(request: Request) -> Response:
    """The digest of the artifact in force."""
    served = _context(request).source.current
    return _json(
        {
            "digest": served.digest,
            "artifact_id": served.artifact.artifact_id,
            "kind": served.artifact.kind,
            "deploy_id": served.deploy_id,
            "schema_version": served.artifact.schema_version,
            "rm_api_version": RM_API_VERSION,
        }
    )


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The artifact in the form of an OpenAI model list."""
    name = _context(request).source.current.artifact.artifact_id
    model = {"id": name, "object": "model", "created": 0, "owned_by": "reward-harness"}
    return _json({"object": "list", "data": [model]})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus exposition."""
    return Response(_context(request).telemetry.render(), media_type=telemetry.CONTENT_TYPE)


def _parsed(context: Context, item: Any) -> ScoreBody | ServerError:
    try:
        body = ScoreBody.model_validate(item)
    except ValidationError as error:
        return ServerError(422, INVALID_ITEM, first_problem(error.errors()))
    return _too_long(context) if body.chars > context.settings.limits.text_chars else body


def _entry(
    context: Context,
    trace: Trace,
    index: int,
    item: ScoreBody | ServerError,
    served: Served,
    scored: Any,
) -> dict[str, Any]:
    if isinstance(item, ServerError):
        return _failed_entry(trace, index, item)
    result: ScoreResult = next(scored)
    if not isinstance(result, Scored):
        return _failed_entry(trace, index, error_of(result))
    signature = _signature(context, trace, item, result)
    return {"index": index, "ok": True, **_reply(served, item, result), **signature}


def _signature(context: Context, trace: Trace, body: ScoreBody, result: Scored) -> dict[str, str]:
    """The HMAC of one score, where the server has a key to sign with."""
    if context.settings.sign_key is None:
        return {}
    content = content_hash(body.item().conversation)
    key, digest = context.settings.sign_key, trace.digest or ""
    return {"signature": sign(key, trace.request_id, digest, content, result.value)}


def _failed_entry(trace: Trace, index: int, error: ServerError) -> dict[str, Any]:
    """The first failed item's code stands in the audit line, though the batch is answered."""
    trace.error_code = trace.error_code or error.code
    return {
        "index": index,
        "ok": False,
        "error_code": error.code,
        "error_message": error.message,
        "retriable": error.retriable,
    }


def _reply(served: Served, body: ScoreBody, result: Scored) -> dict[str, Any]:
    """What is known about one score; grades and votes where the reward has them."""
    details = result.details
    grades = details.get("criteria", {})
    return {
        "artifact_id": served.artifact.artifact_id,
        "prompt_id": body.prompt_id,
        "candidate_id": body.candidate.candidate_id,
        "score": result.value,
        "majority_grades": grades,
        "vote_scores": details.get("vote_scores", [result.value]),
        "per_vote_grades": details.get("per_vote_grades", [grades] if grades else []),
        "variance": details.get("variance", 0.0),
    }


def _count(context: Context, results: Sequence[ScoreResult]) -> None:
    labels = Counter("scored" if isinstance(r, Scored) else error_of(r).code for r in results)
    for label, number in labels.items():
        context.telemetry.items.labels(label).inc(number)


def _too_long(context: Context) -> ServerError:
    limit = context.settings.limits.text_chars
    return ServerError(413, TEXT_TOO_LONG, f"prompt and response have more than {limit} characters")


async def _told(request: Request, error: Exception) -> Response:
    """Any error as JSON; what was sent is never repeated in it."""
    if isinstance(error, RequestValidationError):
        told = ServerError(422, INVALID_REQUEST, first_problem(error.errors()))
    elif isinstance(error, HTTPException):
        told = ServerError(error.status_code, "http_error", str(error.detail))
    else:
        told = cast("ServerError", error)  # nothing else is registered; the front tells the rest
    trace = _trace(request)
    trace.error_code = told.code
    return _json(error_body(told, trace.request_id), told.status, told.headers)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
