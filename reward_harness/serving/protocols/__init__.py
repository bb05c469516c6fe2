"""The protocols of other projects' reward servers, on the same port as the native one.

| client | route | module |
|---|---|---|
| OpenRLHF | ``/get_reward`` | ``openrlhf`` |
| verl, vLLM, SGLang | ``/classify``, ``/pooling``, ``/v1/embeddings`` | ``pooling`` |
| vLLM, TEI | ``/score`` and ``/v1/score`` with pairs, ``/rerank`` | ``pairs`` |
| TEI | ``/predict`` | ``tei`` |
| LLaMA-Factory | ``/v1/score/evaluation`` | ``llama_factory`` |
| slime | ``/score`` with ``response`` | ``slime`` |

A missing score is an HTTP error in all of them, never a 0.0.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Discriminator, Tag

from reward_harness.serving.protocols import llama_factory, openrlhf, pairs, pooling, tei
from reward_harness.serving.protocols.pairs import (
    DataPairs,
    QueryPairs,
    TextPairs,
    score_pairs,
)
from reward_harness.serving.protocols.slime import SampleBody, score_sample
from reward_harness.serving.wire import ScoreBody

ROUTERS = (openrlhf.router, pooling.router, pairs.router, tei.router, llama_factory.router)

KEYS = {"candidate": "native", "text_1": "text", "data_1": "data", "queries": "queries"} | {
    "response": "slime"
}


def _protocol_of(body: Any) -> str:
    """Which protocol's ``/score`` a body is, by the key that only that protocol has."""
    if not isinstance(body, dict):
        return "native"
    return next((name for key, name in KEYS.items() if key in body), "native")


AnyScoreBody = Annotated[
    Annotated[ScoreBody, Tag("native")]
    | Annotated[TextPairs, Tag("text")]
    | Annotated[DataPairs, Tag("data")]
    | Annotated[QueryPairs, Tag("queries")]
    | Annotated[SampleBody, Tag("slime")],
    Discriminator(_protocol_of),
]


async def score_foreign(
    body: TextPairs | DataPairs | QueryPairs | SampleBody, request: Request
) -> Response:
    """``POST /score`` in a protocol that is not the native one."""
    if isinstance(body, SampleBody):
        return await score_sample(body, request)
    return await score_pairs(body, request)
