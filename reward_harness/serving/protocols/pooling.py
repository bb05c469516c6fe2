"""vLLM's ``/classify`` and ``/pooling``, and SGLang's ``/v1/embeddings``: one text, one number.

verl's reward loop asks ``/classify`` where its engine is vLLM and ``/v1/embeddings`` where it is
SGLang. The text is a rendered conversation (``reward_harness.data.rendered``); ``messages`` are
turns. ``use_activation: true`` asks for the sigmoid of the score; left out, it means the pooler's
default, which is none for a reward. A ``model`` is accepted, whatever it says: the artifact in
force answers.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, model_validator

from reward_harness.data.rendered import conversation_of_text
from reward_harness.rewards.base import Conversation
from reward_harness.serving.protocols.scoring import listed, require_short, scored, sigmoid
from reward_harness.serving.protocols.texts import Message, OneOrMany, turns_of
from reward_harness.serving.wire import Wire

LABEL = "LABEL_0"
"""What a transformers head with one label calls it."""

router = APIRouter()


def _no_token_ids(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("token ids are not understood here; send text")
    return value


class PoolingBody(Wire):
    """Texts, or one conversation as ``messages``."""

    input: Annotated[OneOrMany | None, BeforeValidator(_no_token_ids)] = None
    messages: list[Message] | None = None
    use_activation: bool | None = None
    encoding_format: Literal["float", "base64"] = "float"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("either input or messages is needed")
        return self

    def conversations(self, request: Request) -> list[Conversation]:
        """What is scored."""
        if self.messages is not None:
            return [turns_of(self.messages)]
        texts = [self.input] if isinstance(self.input, str) else self.input or []
        require_short(request, texts)
        return [conversation_of_text(text) for text in texts]

    def shown(self, scores: list[float]) -> list[float]:
        """Scores as the client asked to see them."""
        return [sigmoid(score) for score in scores] if self.use_activation else scores

    def encoded(self, value: float) -> list[float] | str:
        """One number as a vector: a list, or the base64 of little-endian float32."""
        if self.encoding_format == "float":
            return [value]
        return base64.b64encode(struct.pack("<f", value)).decode("ascii")


@router.post("/classify")
async def classify(body: PoolingBody, request: Request) -> Response:
    """``probs`` holds the score, as the one class that a reward has."""
    return await _pooled(
        body, request, lambda value: {"label": LABEL, "probs": [value], "num_classes": 1}
    )


@router.post("/pooling")
async def pooling(body: PoolingBody, request: Request) -> Response:
    """The score as a pooled vector of length one."""
    return await _pooled(
        body, request, lambda value: {"object": "pooling", "data": body.encoded(value)}
    )


@router.post("/v1/embeddings")
async def embeddings(body: PoolingBody, request: Request) -> Response:
    """The score as an embedding of length one, as SGLang serves a reward model."""
    return await _pooled(
        body, request, lambda value: {"object": "embedding", "embedding": body.encoded(value)}
    )


async def _pooled(
    body: PoolingBody, request: Request, entry: Callable[[float], dict[str, Any]]
) -> Response:
    answers = await scored(request, body.conversations(request))
    data = [
        {"index": index, **entry(value)} for index, value in enumerate(body.shown(answers.scores))
    ]
    return listed(request, answers, data)
