"""Packaging the known answers of prompts as a reward-model artifact."""

from __future__ import annotations

from collections.abc import Iterable

from reward_harness.data.records import RLPrompt, prompt_key
from reward_harness.errors import DataError
from reward_harness.rewards.answers import AnswerRM
from reward_harness.rm.artifact import AnswersRuntime, RMArtifact, ScoringPolicy, sealed


def answers_artifact(prompts: Iterable[RLPrompt]) -> RMArtifact:
    """The exact-answer reward of ``prompts``; ``DataError`` where one has no number to end on."""
    answers: dict[str, str] = {}
    for prompt in prompts:
        if prompt.answer is None:
            raise DataError(
                "a prompt without an answer cannot be rewarded for it",
                where=f"prompt {prompt.prompt_id!r} of {prompt.source or 'rl_prompts'}",
                expected="an answer to every prompt of dataset.rl_prompts",
                fix="Use a source with answers (sums, gsm8k), or serve another reward.",
            )
        answers[prompt_key(prompt.prompt)] = prompt.answer
    AnswerRM(answers)
    return sealed(
        RMArtifact(
            artifact_id="",
            kind="answers",
            scoring_policy=ScoringPolicy(aggregation="exact_answer"),
            runtime_snapshot=AnswersRuntime(answers=answers),
        )
    )
