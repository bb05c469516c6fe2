"""``ProcessRM``: a score for each step of a response, and one for the whole of it.

    prod   Π pᵢ        min   the weakest step       last   the step before the answer
    mean   Σ pᵢ / n    model the model's own score of the response read as one step

For steps of .9, .8, .7 that is .504, .7, .7, .8. Scores of steps are probabilities of being right
("Let's verify step by step", Lightman et al. 2023, arXiv 2305.20050). A response without a step is
``Abstained``, a step without a finite score is ``Failed``: neither is a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from reward_harness.errors import ScoringError, SpecError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Conversation,
    Failed,
    Scored,
    ScoreResult,
    conversation_of,
    invalid,
    logistic,
    only_valid,
)

Aggregation = Literal["prod", "min", "last", "mean", "model"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
STEP_DELIMITER = "\n\n"
STEP_TOKEN = "<extra_0>"
"""What Qwen2.5-Math-PRM reads after each step."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The turns before a response, and the response in steps."""

    prompt: Conversation
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepScores:
    """A score in [0, 1] for each step, and how many tokens were read for them."""

    values: tuple[float, ...]
    tokens: int = 0


class StepScorer(Protocol):
    """What scores steps: a process reward model in this process or behind a server."""

    def score_solutions(self, solutions: Sequence[Solution]) -> Sequence[StepScores | Failed]:
        """One result for each solution, with a value for each of its steps."""
        ...

    def identity(self) -> str | None:
        """Digest of all that its scores depend on, or None where that is not known."""
        ...


class PrefixSteps:
    """Any reward as a step scorer: a step is worth what the response is worth up to its end.

    Rewards outside [0, 1] are squashed by the logistic function when ``logistic`` is set.
    """

    def __init__(self, rm: BaseRM, logistic: bool = False, delimiter: str = STEP_DELIMITER) -> None:
        self.rm, self.logistic, self.delimiter = rm, logistic, delimiter

    def score_solutions(self, solutions: Sequence[Solution]) -> list[StepScores | Failed]:
        """One result for each solution, all prefixes in one batch."""
        prefixes = [
            conversation_of(solution.prompt, self.delimiter.join(solution.steps[: end + 1]))
            for solution in solutions
            for end in range(len(solution.steps))
        ]
        results = iter(self.rm.score_batch_results(prefixes))
        return [self._one([next(results) for _ in solution.steps]) for solution in solutions]

    def _one(self, results: Sequence[ScoreResult]) -> StepScores | Failed:
        values: list[float] = []
        for result in results:
            if isinstance(result, Failed):
                return result
            if isinstance(result, Abstained):
                return Failed(f"no score for a step: {result.reason}")
            values.append(logistic(result.value) if self.logistic else result.value)
        return StepScores(tuple(values))

    def identity(self) -> str | None:
        """Digest of the reward and of how it is used."""
        inner = self.rm.identity()
        return inner and digest_json(["prefix", inner, self.logistic, self.delimiter])


class ProcessRM(BaseRM):
    """A step scorer as a reward; ``score_steps`` gives each step's score."""

    pace = "batched"

    def __init__(
        self,
        scorer: StepScorer,
        aggregation: Aggregation = "prod",
        step_delimiter: str = STEP_DELIMITER,
    ) -> None:
        if aggregation not in AGGREGATIONS or not step_delimiter:
            raise SpecError(
                "not a way to score steps",
                got=f"aggregation {aggregation!r}, step_delimiter {step_delimiter!r}",
                expected=f"one of {', '.join(AGGREGATIONS)}, and a delimiter",
            )
        self.scorer = scorer
        self.aggregation: Aggregation = aggregation
        self.step_delimiter = step_delimiter

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order, with ``steps`` in its details."""
        return only_valid(batch, self._score)

    def score_steps(
        self, prompt: str | Conversation, response: str, step_delimiter: str | None = None
    ) -> list[float]:
        """A score in [0, 1] for each step; steps are what stands between delimiters, if anything.

        ``ScoringError`` where there is no step, or no score for one.
        """
        conversation = conversation_of(prompt, response)
        steps = split_steps(response, step_delimiter or self.step_delimiter)
        problem = invalid(conversation) or (None if steps else Failed("the response has no steps"))
        if problem is None:
            [scores] = self._step_scores([Solution(conversation[:-1], steps)])
            if isinstance(scores, StepScores):
                return list(scores.values)
            problem = scores
        raise ScoringError("no score for the steps", where=self.artifact_id, got=problem.error)

    def identity(self) -> str | None:
        """Digest of the scorer and of how steps are made and aggregated."""
        inner = self.scorer.identity()
        return self.digest or (
            inner and digest_json([inner, self.aggregation, self.step_delimiter])
        )

    def _score(self, batch: list[Conversation]) -> list[ScoreResult]:
        solutions = [self._solution(conversation) for conversation in batch]
        asked = [solution for solution in solutions if solution.steps]
        scored = iter(self._step_scores(asked) if asked else [])
        return [
            self._result(next(scored)) if solution.steps else Abstained("the response has no steps")
            for solution in solutions
        ]

    def _solution(self, conversation: Conversation) -> Solution:
        response = conversation[-1]["content"]
        steps = split_steps(response, self.step_delimiter)
        if self.aggregation == "model" and steps:
            steps = (response.strip(),)
        return Solution(conversation[:-1], steps)

    def _result(self, scores: StepScores | Failed) -> ScoreResult:
        if isinstance(scores, Failed):
            return scores
        value = aggregate(scores.values, self.aggregation)
        details = {
            "steps": list(scores.values),
            "normalized_score": value,
            "tokens_scored": scores.tokens,
        }
        return Scored(value, details)

    def _step_scores(self, solutions: Sequence[Solution]) -> list[StepScores | Failed]:
        """The scorer's answers; one that does not fit its question is ``Failed``."""
        answers = self.scorer.score_solutions(solutions)
        return [
            _checked(solution, answer) for solution, answer in zip(solutions, answers, strict=True)
        ]


def split_steps(response: str, delimiter: str = STEP_DELIMITER) -> tuple[str, ...]:
    """The steps of a response: its parts between delimiters, without blanks around or between."""
    return tuple(part for text in response.split(delimiter) if (part := text.strip()))


def with_step_tokens(solution: Solution) -> list[dict[str, str]]:
    """The solution as a conversation with ``STEP_TOKEN`` after each step and nowhere else."""
    prompt = [
        {**turn, "content": turn["content"].replace(STEP_TOKEN, "")} for turn in solution.prompt
    ]
    steps = [step.replace(STEP_TOKEN, "") + STEP_TOKEN for step in solution.steps]
    return [*prompt, {"role": "assistant", "content": "".join(steps)}]


def aggregate(values: Sequence[float], how: Aggregation) -> float:
    """One number for all steps; ``SpecError`` if there are none."""
    if not values:
        raise SpecError("no steps to aggregate")
    if how == "prod":
        return math.prod(values)
    if how == "min":
        return min(values)
    if how == "mean":
        return math.fsum(values) / len(values)
    return values[-1]


def _checked(solution: Solution, answer: StepScores | Failed) -> StepScores | Failed:
    if isinstance(answer, Failed):
        return answer
    if len(answer.values) != len(solution.steps):
        return Failed(f"{len(answer.values)} scores for {len(solution.steps)} steps")
    bad = next((value for value in answer.values if not 0 <= value <= 1), None)
    return answer if bad is None else Failed(f"a step's score is {bad}, not in [0, 1]")
