"""slime: ``--rm-type remote_rm --rm-url http://host:8100/score``.

One sample a request (``slime/rollout/rm_hub``); the answer is the number itself. A prompt is a
text, rendered or not, or turns; ``label`` belongs to verifiable tasks and is not read.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from reward_harness.data.rendered import conversation_of_query
from reward_harness.rewards.base import conversation_of
from reward_harness.serving.protocols.scoring import reply, require_short, scored
from reward_harness.serving.protocols.texts import Prompt, turns_of
from reward_harness.serving.wire import UnicodeText, Wire


class SampleBody(Wire):
    """A sample of a rollout."""

    prompt: Prompt
    response: UnicodeText
    label: Any = None


async def score_sample(body: SampleBody, request: Request) -> Response:
    """The score, and nothing else."""
    if isinstance(body.prompt, str):
        require_short(request, [body.prompt, body.response])
        conversation = conversation_of_query(body.prompt + body.response, body.prompt)
    else:
        conversation = conversation_of(turns_of(body.prompt), body.response)
    answers = await scored(request, [conversation])
    return reply(answers, answers.scores[0])
