"""Canonical records: the only shapes in which data moves between stages.

Every record refuses unknown fields and empty text. A candidate's ``source``, ``rank`` and
``quality`` are labels: judges and graders are given ``text`` only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from reward_harness.hashing import digest_json
from reward_harness.manifest import Frozen

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class PreferencePair(Frozen):
    """Two responses to one prompt, the first preferred.

    ``margin`` where the source grades the strength.
    """

    pair_id: Text
    prompt: list[Message] = Field(min_length=1)
    chosen: Text
    rejected: Text
    source: str
    margin: float | None = None

    @model_validator(mode="after")
    def _sides_differ(self) -> PreferencePair:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text")
        return self


class Candidate(Frozen):
    """One response to a prompt; rank 1 is best, ties share a rank."""

    candidate_id: Text
    text: Text
    source: str = ""
    rank: int | None = Field(default=None, ge=1, strict=True)
    quality: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class RankedPrompt(Frozen):
    """A prompt with at least two candidate responses."""

    prompt_id: Text
    prompt: list[Message] = Field(min_length=1)
    candidates: list[Candidate] = Field(min_length=2)

    @model_validator(mode="after")
    def _candidate_ids_differ(self) -> RankedPrompt:
        ids = [c.candidate_id for c in self.candidates]
        if len(set(ids)) != len(ids):
            raise ValueError(f"duplicate candidate_id in prompt {self.prompt_id!r}")
        return self


class SFTExample(Frozen):
    """A prompt and the response to imitate."""

    example_id: Text
    prompt: list[Message] = Field(min_length=1)
    response: Text
    source: str = ""


class RLPrompt(Frozen):
    """A prompt to roll out on; ``answer`` where a program can check the result."""

    prompt_id: Text
    prompt: list[Message] = Field(min_length=1)
    answer: str | None = None
    source: str = ""


class StepwiseExample(Frozen):
    """A solution in steps with one label a step: 1 right, 0 neutral, -1 wrong."""

    example_id: Text
    prompt: list[Message] = Field(min_length=1)
    steps: list[Text] = Field(min_length=1)
    labels: list[Literal[1, 0, -1]] = Field(min_length=1)
    source: str = ""

    @model_validator(mode="after")
    def _one_label_a_step(self) -> StepwiseExample:
        if len(self.steps) != len(self.labels):
            raise ValueError(f"{len(self.steps)} steps but {len(self.labels)} labels")
        return self


Record = PreferencePair | RankedPrompt | SFTExample | RLPrompt | StepwiseExample


def prompt_key(prompt: list[Message]) -> str:
    """Identity of a prompt by its content: what groups records into one split."""
    return digest_json([[m.role, m.content] for m in prompt])
