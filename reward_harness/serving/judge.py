"""The judge behind a server: its spend is capped for the server's whole life, and what it raises
ends one item.

A search stops at a reached cap, and at an endpoint that keeps failing. A server goes on: it answers
503 to what it would have to ask, still serves what the verdict store knows, and tries the endpoint
again after a cool-down (the gateway's soft circuit).
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.errors import BudgetExceeded, LLMError
from reward_harness.llm.budget import Caps, Usage
from reward_harness.rewards.base import BaseRM, Failed
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rubrics.grading import Grader
from reward_harness.rubrics.types import Criterion, Grades, Scale
from reward_harness.serving.wire import SPEND_CAP

JUDGE_REFUSED = "judge_refused"


class ServedGrader:
    """A grader that raises nothing which concerns more than the item it was asked about."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader

    async def grade(
        self, prompt: str, response: str, criteria: Sequence[Criterion], scale: Scale, vote: int = 0
    ) -> Grades | Failed:
        """As the grader's own; a reached cap or a refused key is ``Failed``."""
        try:
            return await self._grader.grade(prompt, response, criteria, scale, vote)
        except BudgetExceeded as error:
            return Failed(f"the server may spend no more on its judge: {error}", code=SPEND_CAP)
        except LLMError as error:
            return Failed(str(error), code=JUDGE_REFUSED)

    async def aclose(self) -> None:
        """Close the grader's connections, if it has any."""
        if (aclose := getattr(self._grader, "aclose", None)) is not None:
            await aclose()


def serve_judge(rm: BaseRM, caps: Caps, usage: Usage) -> None:
    """Prepare the judge of a model-graded rubric; ``usage`` counts what all artifacts spend."""
    if not isinstance(rm, RubricRM) or rm.grader is None:
        return
    from reward_harness.llm.gateway import Gateway
    from reward_harness.llm.roles import ModelRoles

    if isinstance(rm.grader, ModelRoles) and isinstance(rm.grader.gateway, Gateway):
        endpoint = rm.grader.gateway.endpoint.model_copy(update={"fail_soft": True})
        rm.grader.gateway = Gateway(endpoint, caps)
        rm.grader.gateway.usage = usage
    rm.grader = ServedGrader(rm.grader)
