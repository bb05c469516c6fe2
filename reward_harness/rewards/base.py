"""What a reward is: one interface, and the three results a scorer can have.

A scorer answers ``Scored``, ``Abstained`` (it has no opinion) or ``Failed`` (it could not be
asked): never 0.0 in place of a missing score, because a 0.0 becomes a training label. A subclass
implements ``score_batch_results``, or just ``score`` of one conversation; one that chooses by
prompt id overrides ``score_items``.

    >>> rm.score([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
    0.75
    >>> rm.score(prompt="2+2?", response="4")
    0.75

The logger ``reward_harness`` tells at DEBUG what was asked of which reward, never a text.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, overload

from reward_harness.errors import ScoringError

logger = logging.getLogger("reward_harness")

Conversation = Sequence[Mapping[str, str]]
"""``[{role, content}, …]``; the last message is the assistant's, and is what gets scored."""

ROLES = ("system", "user", "assistant")

INVALID_CONVERSATION = "invalid_conversation"
PROMPT_NOT_FOUND = "prompt_not_found"
SCORING_FAILED = "scoring_failed"


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and what it was made of (``raw_logits, normalized_score, tokens_scored, criteria,
    …``).
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Abstained:
    """The scorer looked and has no opinion, for example because every criterion was skipped."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The scorer could not be asked or understood; ``retriable`` if asking again may help.

    ``code`` is the machine-readable cause that the server hands on as ``error_code``.
    """

    error: str
    retriable: bool = False
    code: str = SCORING_FAILED


ScoreResult = Scored | Abstained | Failed


Pace = Literal["instant", "batched", "waiting"]


@dataclass(frozen=True, slots=True)
class Item:
    """One conversation to score; ``prompt_id`` where the caller knows which prompt it answers."""

    conversation: Conversation
    prompt_id: str | None = None


def reason_of(result: Abstained | Failed) -> str:
    """Why there is no score."""
    return result.reason if isinstance(result, Abstained) else result.error


def conversation_of(prompt: str | Conversation, response: str) -> list[dict[str, str]]:
    """A prompt (text or turns) followed by the response that is to be scored."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else map(dict, prompt)
    return [*turns, {"role": "assistant", "content": response}]


def invalid(conversation: Any) -> Failed | None:
    """What makes ``conversation`` unfit to be scored, or None; an empty response is fit."""
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence):
        got = type(cast("Any", conversation)).__name__
        return Failed(f"a conversation is a list of messages, got {got}", code=INVALID_CONVERSATION)
    messages = cast("Sequence[Any]", conversation)
    for position, message in enumerate(messages):
        if not _is_message(message):
            return Failed(
                f"message {position} is not {{role: {'|'.join(ROLES)}, content: text}}",
                code=INVALID_CONVERSATION,
            )
    if not messages or messages[-1]["role"] != "assistant":
        return Failed("the last message must be the assistant's", code=INVALID_CONVERSATION)
    return None


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    found = cast("Mapping[str, Any]", message)
    return found.get("role") in ROLES and isinstance(found.get("content"), str)


def only_valid(
    batch: Sequence[Conversation], score: Callable[[list[Conversation]], Sequence[ScoreResult]]
) -> list[ScoreResult]:
    """Results in order: ``score`` is asked about the valid conversations, the others are
    ``Failed``.

    A value that is not finite is a failure too, whatever the scorer is.
    """
    found: list[ScoreResult | None] = [invalid(conversation) for conversation in batch]
    valid = [number for number, problem in enumerate(found) if problem is None]
    results = score([batch[number] for number in valid]) if valid else []
    for number, result in zip(valid, results, strict=True):
        found[number] = finite(result)
    return cast("list[ScoreResult]", found)


def finite(result: ScoreResult) -> ScoreResult:
    """``result``, or ``Failed`` where its value is NaN or infinite."""
    if isinstance(result, Scored) and not math.isfinite(result.value):
        return Failed(f"the score is {result.value}")
    return result


def logistic(value: float) -> float:
    """1 / (1 + e⁻ˣ), without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


class BaseRM:
    """A reward: a subclass implements ``score_batch_results``, or ``score`` of one conversation.

    Attributes:
        artifact_id: name of the artifact this reward was loaded from.
        digest: what a reward is recognised by, in a deployment and in a cache: the artifact's
            digest, or that of all its scores depend on; None where that is not known.
        pace: what a server does with it: ``instant`` is computed on the spot, ``batched`` is
            cheaper for many at once, ``waiting`` mostly waits for somebody else.
    """

    artifact_id: str | None = None
    digest: str | None = None
    pace: Pace = "waiting"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.score_batch_results is not BaseRM.score_batch_results
        if not own and cls.score is BaseRM.score:
            raise TypeError(f"{cls.__name__} implements neither score_batch_results nor score")

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; a bad item never fails the batch."""
        return only_valid(batch, lambda valid: [self._by_rule(c) for c in valid])

    def _by_rule(self, conversation: Conversation) -> ScoreResult:
        """The result of a subclass that only says how one conversation is scored."""
        try:
            value: Any = self.score(conversation)
        except ScoringError as error:
            return Failed(str(error))
        if value is None:
            return Abstained(f"{type(self).__name__} gave no score")
        return Scored(float(value))

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``, for a reward that can choose by the prompt's id."""
        return self.score_batch_results([item.conversation for item in items], batch_size)

    def score_batch(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[float | None]:
        """Scores in order; None where there is none. ``progress`` logs each ``batch_size`` done."""
        results: list[ScoreResult] = []
        step = max(1, batch_size if progress else len(batch))
        for start in range(0, len(batch), step):
            results += self._asked(batch[start : start + step], batch_size)
            if progress:
                logger.info("scored %d of %d conversations", len(results), len(batch))
        return [r.value if isinstance(r, Scored) else None for r in results]

    @overload
    def score(self, messages: Conversation, return_details: Literal[False] = False) -> float: ...
    @overload
    def score(
        self, messages: Sequence[Conversation], return_details: Literal[False] = False
    ) -> list[float]: ...
    @overload
    def score(
        self, messages: Conversation, return_details: Literal[True]
    ) -> tuple[float, dict[str, Any]]: ...
    @overload
    def score(
        self, messages: Sequence[Conversation], return_details: Literal[True]
    ) -> list[tuple[float, dict[str, Any]]]: ...
    @overload
    def score(
        self,
        *,
        prompt: str | Conversation,
        response: str,
        return_details: Literal[False] = False,
    ) -> float: ...
    @overload
    def score(
        self, *, prompt: str | Conversation, response: str, return_details: Literal[True]
    ) -> tuple[float, dict[str, Any]]: ...
    def score(
        self,
        messages: Any = None,
        return_details: bool = False,
        *,
        prompt: str | Conversation | None = None,
        response: str | None = None,
    ) -> Any:
        """Score one conversation (a float) or a list of them (a list); ``ScoringError`` where there
        is no score.

        ``prompt=`` and ``response=`` are short for a conversation of these two. With
        ``return_details`` each score becomes ``(score, details)``.
        """
        asked = _one_way(messages, prompt, response)
        single = bool(asked) and isinstance(asked[0], Mapping)
        scored = [self.require(result) for result in self._asked([asked] if single else asked)]
        found: list[Any] = [
            (s.value, self.details(s)) if return_details else s.value for s in scored
        ]
        return found[0] if single else found

    async def ascore(self, messages: Any, return_details: bool = False) -> Any:
        """``score`` off the event loop; subclasses that wait for a network do better."""
        if return_details:
            return await asyncio.to_thread(cast("Any", self.score), messages, return_details=True)
        return await asyncio.to_thread(cast("Any", self.score), messages)

    def score_steps(
        self, prompt: str | Conversation, response: str, step_delimiter: str = "\n\n"
    ) -> list[float]:
        """One score for each step of ``response``; ``ScoringError`` if this reward has none."""
        raise ScoringError(
            "this reward scores whole responses, not steps",
            where=self.artifact_id or type(self).__name__,
            fix="Load a process reward model, or wrap this one: ProcessRM(PrefixSteps(rm)).",
        )

    def identity(self) -> str | None:
        """Digest of all that the scores depend on, or None where that is not known."""
        return self.digest

    def close(self) -> None:
        """Let go of connections and files; the reward is not used again."""

    def require(self, result: ScoreResult) -> Scored:
        """``result`` if there is a score; ``ScoringError`` with the reason otherwise."""
        if isinstance(result, Scored):
            return result
        raise ScoringError("no score", where=self.artifact_id, got=reason_of(result))

    def details(self, scored: Scored) -> dict[str, Any]:
        """What ``return_details`` hands out beside the value."""
        return {"artifact_id": self.artifact_id, **scored.details}

    def _asked(self, batch: Sequence[Conversation], batch_size: int = 32) -> list[ScoreResult]:
        results = self.score_batch_results(batch, batch_size)
        without = sum(not isinstance(result, Scored) for result in results)
        logger.debug(
            "%s %s: %d scored, %d without a score",
            type(self).__name__,
            self.artifact_id or "",
            len(results) - without,
            without,
        )
        return results


def _one_way(messages: Any, prompt: str | Conversation | None, response: str | None) -> Any:
    """What is to be scored, given either as messages or as prompt and response."""
    if (messages is None) == (response is None) or (prompt is not None) != (response is not None):
        raise ScoringError(
            "nothing to score, or two things", expected="messages, or prompt= and response="
        )
    if messages is not None:
        return messages
    return conversation_of(cast("str | Conversation", prompt), cast("str", response))
