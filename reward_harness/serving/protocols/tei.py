"""text-embeddings-inference: ``/predict`` as huggingface_hub's ``InferenceClient`` asks it.

``inputs`` is a text, a pair ``[prompt, response]``, or a batch ``[[text], [prompt, response], …]``.
The answer to one input is a list of labels, of which a reward has one; to a batch, a list of such
lists. As there, a score is a probability (its sigmoid) unless ``raw_scores`` is true. ``truncate``
is accepted and changes nothing: an artifact cuts what its model cannot read as it did when its
gates were measured.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, Discriminator, Tag

from reward_harness.data.rendered import conversation_of_text
from reward_harness.rewards.base import Conversation, conversation_of
from reward_harness.serving.protocols.pooling import LABEL
from reward_harness.serving.protocols.scoring import reply, require_short, scored, sigmoid
from reward_harness.serving.wire import UnicodeText, Wire

router = APIRouter()


def _text_or_pair(texts: list[str]) -> list[str]:
    if len(texts) not in (1, 2):
        raise ValueError("one text or a pair of texts; a batch is a list of lists")
    return texts


def _form(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    return "pair" if value and isinstance(value[0], str) else "batch"


TextOrPair = Annotated[list[UnicodeText], AfterValidator(_text_or_pair)]
Inputs = Annotated[
    Annotated[UnicodeText, Tag("text")]
    | Annotated[TextOrPair, Tag("pair")]
    | Annotated[list[TextOrPair], Tag("batch")],
    Discriminator(_form),
]


class PredictBody(Wire):
    """One input or a batch; an empty list is an empty batch."""

    inputs: Inputs
    raw_scores: bool = False


@router.post("/predict")
async def predict(body: PredictBody, request: Request) -> Response:
    """One label with the score, for each input."""
    inputs, batch = _inputs(body.inputs)
    require_short(request, (text for texts in inputs for text in texts))
    answers = await scored(request, [_conversation(texts) for texts in inputs])
    found: list[list[dict[str, Any]]] = [
        [{"score": score if body.raw_scores else sigmoid(score), "label": LABEL}]
        for score in answers.scores
    ]
    return reply(answers, found if batch else found[0])


def _inputs(given: str | list[str] | list[list[str]]) -> tuple[list[list[str]], bool]:
    """The inputs, each a text or a pair, and whether they came as a batch."""
    if isinstance(given, str):
        return [[given]], False
    flat = [text for text in given if isinstance(text, str)]
    if flat:
        return [flat], False
    return [texts for texts in given if not isinstance(texts, str)], True


def _conversation(texts: list[str]) -> Conversation:
    return conversation_of_text(texts[0]) if len(texts) == 1 else conversation_of(*texts)
