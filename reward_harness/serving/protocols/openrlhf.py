"""OpenRLHF: ``--reward.remote_url http://host:8100/get_reward``.

Request and answer are those of its ``cli/serve_rm.py``; its client (``utils/agent.py``) sends one
query at a time, decoded with special tokens, and repeats whatever is not a 2xx five times. Every
failure to score is a 5xx, so that a retry in front of it (a proxy, another client) repeats it too.
``extra_logs`` has a number a query for each criterion that all of them were graded on.
"""

from __future__ import annotations

from typing import Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import model_validator

from reward_harness.data.rendered import conversation_of_query
from reward_harness.rewards.base import Abstained, Failed
from reward_harness.serving.protocols.scoring import Answers, reply, require_short, scored
from reward_harness.serving.wire import ServerError, UnicodeText, Wire, error_of

LOG_PREFIX = "criteria/"
"""Keeps a criterion's name from shadowing one of the trainer's own, such as ``reward``."""

router = APIRouter()


class GetRewardBody(Wire):
    """``query`` holds prompt and response, rendered; ``prompts`` the prompts alone."""

    query: list[UnicodeText]
    prompts: list[UnicodeText | None] | None = None
    labels: list[Any] | None = None

    @model_validator(mode="after")
    def _prompts_belong_to_queries(self) -> Self:
        if self.prompts and len(self.prompts) != len(self.query):
            raise ValueError(f"{len(self.query)} queries, but {len(self.prompts)} prompts")
        return self


@router.post("/get_reward")
async def get_reward(body: GetRewardBody, request: Request) -> Response:
    """One reward for each query; empty lists are legal."""
    require_short(request, body.query)
    prompts = body.prompts or [None] * len(body.query)
    conversations = [
        conversation_of_query(query, prompt)
        for query, prompt in zip(body.query, prompts, strict=True)
    ]
    answers = await scored(request, conversations, server_error)
    rewards = answers.scores
    return reply(answers, {"rewards": rewards, "scores": rewards, "extra_logs": _logs(answers)})


def server_error(result: Abstained | Failed) -> ServerError:
    """The error of a missing score, as a 5xx in any case."""
    error = error_of(result)
    if error.status >= 500:
        return error
    return ServerError(502, error.code, error.message)


def _logs(answers: Answers) -> dict[str, list[float]]:
    grades = [result.details.get("criteria", {}) for result in answers.results]
    logs = {
        f"{LOG_PREFIX}{name}": [graded.get(name) for graded in grades]
        for name in (grades[0] if grades else {})
    }
    return {name: values for name, values in logs.items() if None not in values}
