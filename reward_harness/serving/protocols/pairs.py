"""Scores of pairs: vLLM's ``/score`` bodies, and ``/rerank`` as vLLM and TEI have it.

The first text of a pair is the prompt, the second the response. One prompt goes with many
responses, or as many prompts with as many responses. ``/rerank`` is TEI's if the body has
``texts``, and vLLM's (Jina's, Cohere's) if it has ``documents``.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Tag

from reward_harness.rewards.base import conversation_of
from reward_harness.serving.context import trace_of
from reward_harness.serving.protocols.scoring import listed, ranked, reply, scored, sigmoid
from reward_harness.serving.protocols.texts import Text, Texts, text_of, texts_of
from reward_harness.serving.wire import ServerError, UnicodeText, Wire

router = APIRouter()


class Pairs(Wire):
    """What all bodies of ``/score`` share."""

    use_activation: bool | None = None


class TextPairs(Pairs):
    """``text_1``, ``text_2``."""

    text_1: Texts
    text_2: Texts


class DataPairs(Pairs):
    """``data_1``, ``data_2``."""

    data_1: Texts
    data_2: Texts


class QueryPairs(Pairs):
    """``queries``, ``documents`` (or ``items``)."""

    queries: Texts
    documents: Texts | None = None
    items: Texts | None = None


AnyPairs = TextPairs | DataPairs | QueryPairs


def prompts_and_responses(body: AnyPairs) -> tuple[list[str], list[str]]:
    """Both sides of all pairs, equally long; ``ServerError`` where they do not fit together."""
    if isinstance(body, TextPairs):
        first, second = body.text_1, body.text_2
    elif isinstance(body, DataPairs):
        first, second = body.data_1, body.data_2
    else:
        first, second = body.queries, body.documents if body.documents is not None else body.items
    if second is None:
        raise ServerError(422, "invalid_request", "queries need documents")
    prompts, responses = texts_of(first), texts_of(second)
    if len(prompts) == 1:
        prompts *= len(responses)
    if len(prompts) != len(responses):
        raise ServerError(
            422,
            "invalid_request",
            f"{len(prompts)} prompts do not fit {len(responses)} responses: 1:1, 1:N or N:N",
        )
    return prompts, responses


@router.post("/v1/score")
async def score_pairs(body: AnyPairs, request: Request) -> Response:
    """One score for each pair."""
    prompts, responses = prompts_and_responses(body)
    pairs = [conversation_of(p, r) for p, r in zip(prompts, responses, strict=True)]
    answers = await scored(request, pairs)
    data = [
        {
            "index": index,
            "object": "score",
            "score": sigmoid(score) if body.use_activation else score,
        }
        for index, score in enumerate(answers.scores)
    ]
    return listed(request, answers, data)


class DocumentsBody(Wire):
    """``/rerank`` of vLLM; ``top_n`` 0 means all."""

    query: Text
    documents: Texts
    top_n: int | None = None
    use_activation: bool | None = None


class TextsBody(Wire):
    """``/rerank`` of text-embeddings-inference."""

    query: UnicodeText
    texts: list[UnicodeText]
    raw_scores: bool = False
    return_text: bool = False


def _dialect(body: Any) -> str:
    return "texts" if isinstance(body, dict) and "texts" in body else "documents"


RerankBody = Annotated[
    Annotated[TextsBody, Tag("texts")] | Annotated[DocumentsBody, Tag("documents")],
    Discriminator(_dialect),
]


@router.post("/rerank")
@router.post("/v1/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(body: RerankBody, request: Request) -> Response:
    """Responses to one prompt, best first."""
    if isinstance(body, TextsBody):
        return await _rerank_texts(body, request)
    prompt, responses = text_of(body.query), texts_of(body.documents)
    answers = await scored(request, [conversation_of(prompt, text) for text in responses])
    order = ranked(answers.scores)
    results = [
        {
            "index": index,
            "document": {"text": responses[index], "multi_modal": None},
            "relevance_score": sigmoid(answers.scores[index])
            if body.use_activation
            else answers.scores[index],
        }
        for index in (order[: body.top_n] if body.top_n and body.top_n > 0 else order)
    ]
    return reply(
        answers,
        {
            "id": trace_of(request).request_id,
            "model": answers.artifact_id,
            "usage": {"prompt_tokens": answers.tokens, "total_tokens": answers.tokens},
            "results": results,
        },
    )


async def _rerank_texts(body: TextsBody, request: Request) -> Response:
    conversations = [conversation_of(body.query, text) for text in body.texts]
    answers = await scored(request, conversations)
    found: list[dict[str, Any]] = []
    for index in ranked(answers.scores):
        score = answers.scores[index]
        text = {"text": body.texts[index]} if body.return_text else {}
        found.append(
            {"index": index, **text, "score": score if body.raw_scores else sigmoid(score)}
        )
    return reply(answers, found)
