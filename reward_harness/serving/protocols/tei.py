"""text-embeddings-inference: ``/predict`` as huggingface_hub's ``InferenceClient`` asks it.

``inputs`` is a text, a pair ``[prompt, response]``, or a batch ``[[text], [prompt, response], …]``.
The answer to one input is a list of labels, of which a reward has one; to a batch, a list of such
lists. As there, a score is a probability (its sigmoid) unless ``raw_scores`` is true, and a text
beyond the server's limit is an error unless ``truncate`` is true: then its beginning is cut, so
that the response stays. What a model itself can read is the artifact's own affair.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator

from reward_harness.data.rendered import conversation_of_text
from reward_harness.rewards.base import Conversation, conversation_of
from reward_harness.serving.context import context_of
from reward_harness.serving.protocols.pooling import LABEL
from reward_harness.serving.protocols.scoring import reply, scored, sigmoid
from reward_harness.serving.protocols.texts import cut
from reward_harness.serving.wire import UnicodeText, Wire

router = APIRouter()


def _text_or_pair(texts: list[str]) -> list[str]:
    if len(texts) not in (1, 2):
        raise ValueError("one text or a pair of texts; a batch is a list of lists")
    return texts


def _no_empty_pair(texts: list[str]) -> list[str]:
    return _text_or_pair(texts) if texts else texts


TextOrPair = Annotated[list[UnicodeText], AfterValidator(_text_or_pair)]


class PredictBody(Wire):
    """One input or a batch; an empty list is an empty batch."""

    inputs: (
        UnicodeText
        | Annotated[list[UnicodeText], AfterValidator(_no_empty_pair)]
        | list[TextOrPair]
    )
    raw_scores: bool = False
    truncate: bool = False


@router.post("/predict")
async def predict(body: PredictBody, request: Request) -> Response:
    """One label with the score, for each input."""
    inputs, batch = _inputs(body)
    conversations = [_conversation(texts) for texts in inputs]
    if body.truncate:
        limit = context_of(request).settings.limits.text_chars
        conversations = [cut(conversation, limit) for conversation in conversations]
    answers = await scored(request, conversations)
    found: list[list[dict[str, Any]]] = [
        [{"score": score if body.raw_scores else sigmoid(score), "label": LABEL}]
        for score in answers.scores
    ]
    return reply(answers, found if batch else found[0])


def _inputs(body: PredictBody) -> tuple[list[list[str]], bool]:
    """The inputs, each a text or a pair, and whether they came as a batch."""
    given = body.inputs
    if isinstance(given, str):
        return [[given]], False
    single = [text for text in given if isinstance(text, str)]
    if single:
        return [single], False
    return [texts for texts in given if not isinstance(texts, str)], True


def _conversation(texts: list[str]) -> Conversation:
    return conversation_of_text(texts[0]) if len(texts) == 1 else conversation_of(*texts)
