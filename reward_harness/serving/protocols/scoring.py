"""What every protocol does between its request and its answer: score all, or fail as a whole.

None of these protocols has a place for an item without a score, and their clients read a number or
an HTTP status. So an item that cannot be scored fails its request; the answer to a request that
succeeded has a score for every item, and two headers that name the artifact which gave them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from fastapi import Request, Response

from reward_harness.rewards.base import Abstained, Conversation, Failed, Item, Scored
from reward_harness.serving.context import Context, context_of, trace_of
from reward_harness.serving.protocols.texts import chars_of
from reward_harness.serving.wire import TEXT_TOO_LONG, ServerError, error_of

DIGEST_HEADER = "X-Artifact-Digest"
ARTIFACT_HEADER = "X-Artifact-Id"

ErrorOf = Callable[[Abstained | Failed], ServerError]


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of one request, in order, and the artifact that gave them."""

    artifact_id: str
    digest: str
    results: list[Scored]

    @property
    def scores(self) -> list[float]:
        """The values, in the reward's own scale."""
        return [result.value for result in self.results]

    @property
    def tokens(self) -> int:
        """Tokens read, where the reward counts them; a rubric reads none."""
        return sum(int(result.details.get("tokens_scored", 0)) for result in self.results)


async def scored(
    request: Request, conversations: Sequence[Conversation], error: ErrorOf = error_of
) -> Answers:
    """A score for each conversation; ``ServerError`` if one of them has none.

    An item for which asking again is useless decides over one that may be scored later.
    """
    context, trace = context_of(request), trace_of(request)
    _require_within_limits(context, conversations)
    with context.source.lease() as served:
        artifact = served.artifact.artifact_id
        trace.artifact_id = artifact
        items = [Item(conversation) for conversation in conversations]
        results = await served.scorer.score(items) if items else []
        labels = Counter("scored" if isinstance(r, Scored) else error_of(r).code for r in results)
        for label, count in labels.items():
            context.telemetry.items.labels(label).inc(count)
        missing = [result for result in results if not isinstance(result, Scored)]
        if missing:
            lasting = [m for m in missing if not (isinstance(m, Failed) and m.retriable)]
            raise error((lasting or missing)[0])
        return Answers(artifact, served.digest, cast("list[Scored]", list(results)))


def reply(answers: Answers, body: Any) -> Response:
    """``body`` as JSON, with the artifact in the headers."""
    headers = {ARTIFACT_HEADER: answers.artifact_id, DIGEST_HEADER: answers.digest}
    return Response(orjson.dumps(body), 200, headers, media_type="application/json")


def listed(request: Request, answers: Answers, data: list[dict[str, Any]]) -> Response:
    """The OpenAI list that vLLM answers with."""
    body = {
        "id": trace_of(request).request_id,
        "object": "list",
        "created": int(time.time()),
        "model": answers.artifact_id,
        "data": data,
        "usage": usage(answers),
    }
    return reply(answers, body)


def usage(answers: Answers) -> dict[str, Any]:
    """Tokens read, in the OpenAI form."""
    read = answers.tokens
    return {
        "prompt_tokens": read,
        "total_tokens": read,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


def sigmoid(value: float) -> float:
    """A score as a probability, without overflow."""
    return 0.5 * (1.0 + math.tanh(value / 2.0))


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices from the best score to the worst; equals keep their order."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def require_short(request: Request, texts: Iterable[str]) -> None:
    """``ServerError`` 413 for a text that is too long, before anybody looks for turns in it."""
    limit = context_of(request).settings.limits.text_chars
    if any(len(text) > limit for text in texts):
        raise _too_long(limit)


def _require_within_limits(context: Context, conversations: Sequence[Conversation]) -> None:
    limits = context.settings.limits
    if len(conversations) > limits.batch_items:
        raise ServerError(413, "batch_too_large", f"a batch has at most {limits.batch_items} items")
    if any(chars_of(conversation) > limits.text_chars for conversation in conversations):
        raise _too_long(limits.text_chars)


def _too_long(limit: int) -> ServerError:
    return ServerError(413, TEXT_TOO_LONG, f"prompt and response have more than {limit} characters")
