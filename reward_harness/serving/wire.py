"""Bodies of the native protocol: ``/score``, ``/batch_score`` and the errors of every route.

Fields that a client sends beyond these are ignored; a field of ours with the wrong type is an
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from reward_harness.rewards.base import (
    INVALID_CONVERSATION,
    PROMPT_NOT_FOUND,
    Abstained,
    Failed,
    Item,
    conversation_of,
)

TEXT_TOO_LONG = "text_too_long"
ABSTAINED = "abstained"
INVALID_ITEM = "invalid_item"
SPEND_CAP = "spend_cap"


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("not Unicode text (a lone surrogate)") from error
    return text


UnicodeText = Annotated[str, AfterValidator(_encodable)]
"""JSON can hold half a surrogate pair, which no tokenizer, hash or answer can."""


class Wire(BaseModel):
    """Base of the wire's bodies: immutable, tolerant of unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Turn(Wire):
    """One turn of a prompt."""

    role: UnicodeText
    content: UnicodeText


class CandidateBody(Wire):
    """The response that is scored."""

    text: UnicodeText
    candidate_id: UnicodeText | None = None


class ScoreBody(Wire):
    """``POST /score``; a prompt is a text or turns."""

    prompt: UnicodeText | list[Turn]
    candidate: CandidateBody
    prompt_id: UnicodeText | None = None

    def item(self) -> Item:
        """What a reward scores."""
        turns = (
            self.prompt
            if isinstance(self.prompt, str)
            else [{"role": turn.role, "content": turn.content} for turn in self.prompt]
        )
        return Item(conversation_of(turns, self.candidate.text), self.prompt_id)

    @property
    def chars(self) -> int:
        """Length of all its text."""
        told = self.prompt if isinstance(self.prompt, str) else [t.content for t in self.prompt]
        return sum(map(len, [told] if isinstance(told, str) else told)) + len(self.candidate.text)


class BatchBody(Wire):
    """``POST /batch_score``; items are validated one by one, so that a bad one fails alone."""

    items: list[Any]


RETRIED = (408, 429, 503)


class ServerError(Exception):
    """A request that ends in an HTTP error."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}
        self.retriable = status in RETRIED and code != SPEND_CAP


def error_of(result: Abstained | Failed) -> ServerError:
    """The HTTP error of an item that has no score: 4xx if asking again is useless, 503 if not."""
    if isinstance(result, Abstained):
        return ServerError(422, ABSTAINED, result.reason)
    if result.code == PROMPT_NOT_FOUND:
        return ServerError(404, result.code, result.error)
    if result.code == INVALID_CONVERSATION:
        return ServerError(422, result.code, result.error)
    if result.code == SPEND_CAP:
        return ServerError(503, result.code, result.error)
    if result.retriable:
        return ServerError(503, result.code, result.error, {"Retry-After": "1"})
    return ServerError(502, result.code, result.error)


def first_problem(errors: Sequence[Any], within: str = "") -> str:
    """What pydantic found first: place and message, nothing that was sent."""
    first = errors[0]
    return f"{within}{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def error_body(error: ServerError, request_id: str) -> dict[str, Any]:
    """One error in both shapes: the OpenAI envelope and the native ``detail``."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {"message": error.message, "type": kind, "code": error.code, "param": None},
        "detail": {
            "error_code": error.code,
            "error_message": error.message,
            "request_id": request_id,
        },
    }
