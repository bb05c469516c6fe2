"""LLaMA-Factory: ``reward_model_type: api``, ``reward_model: http://host:8100/v1/score/evaluation``.

Its PPO trainer sends whole decoded conversations and reads ``scores`` without looking at the
status (``train/ppo/ppo_utils.py``): an error has no ``scores``, so the trainer stops at it.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from reward_harness.data.rendered import conversation_of_text
from reward_harness.serving.context import trace_of
from reward_harness.serving.protocols.scoring import reply, require_short, scored
from reward_harness.serving.wire import UnicodeText, Wire

router = APIRouter()


class EvaluationBody(Wire):
    """Rendered conversations."""

    messages: list[UnicodeText]


@router.post("/v1/score/evaluation")
async def evaluate(body: EvaluationBody, request: Request) -> Response:
    """One score for each conversation."""
    require_short(request, body.messages)
    answers = await scored(request, [conversation_of_text(text) for text in body.messages])
    return reply(
        answers,
        {
            "id": f"scoreval-{trace_of(request).request_id}",
            "object": "score.evaluation",
            "model": answers.artifact_id,
            "scores": answers.scores,
        },
    )
