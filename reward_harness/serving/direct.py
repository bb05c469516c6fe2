"""Routes that take one JSON body and answer it: documented by FastAPI, called without its
dependency machinery, which costs a small request more than its score.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError


class DirectRoute(APIRoute):
    """A route whose endpoint is ``async def endpoint(body: Model, request: Request)``."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Validate the body, call the endpoint; problems are FastAPI's own error."""
        adapter: TypeAdapter[Any] = TypeAdapter(
            get_type_hints(self.endpoint, include_extras=True)["body"]
        )

        async def handle(request: Request) -> Response:
            told = _parsed(await request.body())
            try:
                body = adapter.validate_python(told)
            except ValidationError as error:
                found = error.errors(include_url=False, include_input=False)
                raise RequestValidationError(_in_body(found)) from error
            return await self.endpoint(body, request)

        return handle


def _parsed(body: bytes) -> Any:
    """The body's JSON; half a surrogate pair, which orjson refuses, is for the models to see."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            problem = {"type": "json_invalid", "loc": ("body",), "msg": "not valid JSON"}
            raise RequestValidationError([problem]) from error


def _in_body(errors: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**cast("dict[str, Any]", error), "loc": ("body", *error["loc"])} for error in errors]
