"""``RubricRM``: a rubric as a reward, graded exactly as the search graded it.

Rubrics are held by prompt id, ``__shared__`` being the one for every other prompt. A prompt is
known by the id the caller gives or by its text; where there is neither a rubric of its own nor a
shared one the item is ``Failed`` with the code ``prompt_not_found``. Graders see the prompt's and
the response's text only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from reward_harness.data.records import Message, prompt_key
from reward_harness.errors import ArtifactError
from reward_harness.llm.event_loop import run_sync
from reward_harness.rewards.base import (
    PROMPT_NOT_FOUND,
    BaseRM,
    Conversation,
    Failed,
    Item,
    Scored,
    ScoreResult,
    finite,
    invalid,
)
from reward_harness.rubrics.extraction import WHOLE_TEXTS, extract
from reward_harness.rubrics.files import SHARED
from reward_harness.rubrics.grading import Grader, grade_batch, grade_response, prompt_text
from reward_harness.rubrics.types import Rubric
from reward_harness.search_sections import GradedParts


class RubricRM(BaseRM):
    """Rubrics by prompt id, with the grader for their model-graded criteria.

    Args:
        rubrics: ``{prompt_id or "__shared__": rubric}``.
        grader: needed exactly where a rubric has model-graded criteria.
        prompt_ids: ``{prompt_key(prompt): prompt_id}``, so that a prompt is recognised by its
        content.
        graded: which part of prompt and response is graded.
    """

    def __init__(
        self,
        rubrics: Mapping[str, Rubric],
        grader: Grader | None = None,
        prompt_ids: Mapping[str, str] | None = None,
        *,
        graded: GradedParts = WHOLE_TEXTS,
    ) -> None:
        if grader is None and any(rubric.needs_llm for rubric in rubrics.values()):
            raise ArtifactError(
                "the rubric has model-graded criteria, and no grader was given",
                fix="Load it with load_rm, or pass a grader built from its runtime snapshot.",
            )
        self.rubrics = dict(rubrics)
        self.grader = grader
        self.prompt_ids = dict(prompt_ids or {})
        self.graded = graded
        self.pace = "instant" if grader is None else "waiting"

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; model-graded ones are asked concurrently."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``; an item's ``prompt_id`` chooses its rubric."""
        results: list[ScoreResult | None] = [None] * len(items)
        by_rubric: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            chosen = invalid(item.conversation) or self._rubric_id(item)
            if isinstance(chosen, Failed):
                results[number] = chosen
            else:
                by_rubric.setdefault(chosen, []).append(number)
        for name, numbers in by_rubric.items():
            texts = [self._texts(items[number].conversation) for number in numbers]
            graded = grade_batch(self.rubrics[name], texts, self.grader)
            for number, result in zip(numbers, graded, strict=True):
                results[number] = _with_rubric(result, name)
        return [result for result in results if result is not None]

    async def ascore(self, messages: Any, return_details: bool = False) -> Any:
        """``score`` on the running event loop for one conversation; a list goes to a thread."""
        if not messages or not isinstance(messages[0], Mapping):
            return await super().ascore(messages, return_details)
        chosen = invalid(messages) or self._rubric_id(Item(messages))
        if isinstance(chosen, Failed):
            result: ScoreResult = chosen
        else:
            prompt, response = self._texts(messages)
            graded = await grade_response(self.rubrics[chosen], prompt, response, self.grader)
            result = _with_rubric(graded, chosen)
        scored = self.require(result)
        return (scored.value, self.details(scored)) if return_details else scored.value

    def _texts(self, conversation: Conversation) -> tuple[str, str]:
        """What graders see: the prompt as one text, and the response, extracted."""
        prompt = prompt_text(conversation[:-1]) if len(conversation) > 1 else ""
        response = conversation[-1]["content"]
        return extract(self.graded.prompt, prompt), extract(self.graded.response, response)

    def close(self) -> None:
        """Close the grader's connections and store, if it has any."""
        if (aclose := getattr(self.grader, "aclose", None)) is not None:
            run_sync(aclose())

    def _rubric_id(self, item: Item) -> str | Failed:
        if item.prompt_id in self.rubrics:
            return str(item.prompt_id)
        known = self.prompt_ids.get(_key(item.conversation)) if self.prompt_ids else None
        if known in self.rubrics:
            return str(known)
        if SHARED in self.rubrics:
            return SHARED
        named = f"prompt {item.prompt_id!r}" if item.prompt_id else "this prompt"
        return Failed(f"no rubric for {named}, and no shared rubric", code=PROMPT_NOT_FOUND)


def _key(conversation: Conversation) -> str:
    roles: dict[str, Literal["system", "user", "assistant"]] = {
        "system": "system",
        "user": "user",
        "assistant": "assistant",
    }
    return prompt_key(
        [
            Message.model_construct(role=roles[m["role"]], content=m["content"])
            for m in conversation[:-1]
        ]
    )


def _with_rubric(result: ScoreResult, rubric_id: str) -> ScoreResult:
    if isinstance(result, Scored):
        return finite(Scored(result.value, {**result.details, "rubric": rubric_id}))
    return result
