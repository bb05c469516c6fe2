"""Routes that take one JSON body and answer it: documented by FastAPI, but called by the front
itself, because routing and dependencies cost a small request more than its score.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from reward_harness.serving.wire import ServerError, first_problem

INVALID_REQUEST = "invalid_request"


class DirectRoute(APIRoute):
    """A route whose endpoint is ``async def endpoint(body: Model, request: Request)``."""

    async def answer(self, content: bytes, request: Request) -> Response:
        """Validate the body, call the endpoint; ``ServerError`` 422 for what is no such body."""
        try:
            body = self._body.validate_python(_parsed(content))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise ServerError(422, INVALID_REQUEST, first_problem(found, "body.")) from error
        return await self.endpoint(body, request)

    @cached_property
    def _body(self) -> TypeAdapter[Any]:
        return TypeAdapter(get_type_hints(self.endpoint, include_extras=True)["body"])


def _parsed(content: bytes) -> Any:
    """The body's JSON; half a surrogate pair, which orjson refuses, is for the models to see."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ServerError(422, INVALID_REQUEST, "body: not valid JSON") from error
