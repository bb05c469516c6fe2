"""A model's feedback under a constitution: preferences with confidence, drafts, revisions.

With an endpoint every answer goes through the gateway and the verdict store, so that a run that is
started again asks nothing twice. Without one, the principles' checks stand in: a response's score
is the share of principles that it keeps, and a revision takes out what the checks can see. (Bai et
al. 2022, arXiv 2212.08073, is where the two stages come from.)
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from pydantic import Field, ValidationError

from reward_harness.hashing import canonical_json, digest_json
from reward_harness.llm.parsing import ReplyError, find_object
from reward_harness.llm.roles import ModelRoles, both_orders
from reward_harness.llm.verdicts import Asker
from reward_harness.manifest import Frozen
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.checks import Check
from reward_harness.rubrics.wording import HOLLOW_OPENER
from reward_harness.spec import read_yaml, validation_error

T = TypeVar("T")
Confidence = Literal["low", "medium", "high"]
LEVELS: tuple[Confidence, ...] = ("low", "medium", "high")
CONSTITUTION_NAME = "constitution.yaml"
HIGH, MEDIUM = 0.15, 0.05
"""Differences of two scores from which the offline judge is sure, and fairly sure."""

SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"')\]]*|[^.!?\n]+$", re.MULTILINE)


class Principle(Frozen):
    """What a response shall be like; ``fault`` says that the check finds its breach."""

    name: str
    text: str
    check: Check
    fault: bool = False

    def kept(self, prompt: str, response: str) -> float:
        """In [0, 1], by the check alone."""
        grade = self.check.grade(prompt, response)
        return 1.0 - grade if self.fault else grade


class Constitution(Frozen):
    """Named principles and the system texts of those who apply them."""

    principles: tuple[Principle, ...] = Field(min_length=1)
    judge: str
    draft: str
    revise: str

    @property
    def digest(self) -> str:
        return digest_json(self.model_dump(mode="json"))

    @property
    def told(self) -> dict[str, str]:
        """Principles by name, as a model is told them."""
        return {principle.name: principle.text for principle in self.principles}

    def score(self, prompt: str, response: str) -> float:
        """Mean over principles of how far each is kept, by the checks alone."""
        return sum(p.kept(prompt, response) for p in self.principles) / len(self.principles)


def read_constitution(prompts: Path) -> Constitution:
    """``constitution.yaml`` of the project's prompts; ``SpecError`` if it is not one."""
    path = prompts / CONSTITUTION_NAME
    try:
        return Constitution.model_validate(read_yaml(path))
    except ValidationError as error:
        raise validation_error(path, error) from error


@dataclass(frozen=True, slots=True)
class Preferred:
    """1 left, -1 right, 0 neither; ``consistent`` whether both orders said the same."""

    preference: Literal[1, -1, 0]
    confidence: Confidence
    consistent: bool = True


@dataclass(frozen=True, slots=True)
class Revision:
    """A response under the principles, and what was wrong with its draft."""

    response: str
    critique: str


class Feedback(Protocol):
    """Who judges and revises."""

    async def prefer(self, prompt: str, left: str, right: str) -> Preferred | Failed:
        """Which response keeps the principles better, asked in both orders."""
        ...

    async def draft(self, prompt: str) -> str | Failed | None:
        """A first answer; None where this backend writes none."""
        ...

    async def revise(self, prompt: str, draft: str) -> Revision | Failed:
        """The draft, made to keep the principles."""
        ...


@dataclass(frozen=True, slots=True)
class CheckedFeedback:
    """The offline backend: the principles' own checks, no model."""

    constitution: Constitution

    async def prefer(self, prompt: str, left: str, right: str) -> Preferred:
        scores = [self.constitution.score(prompt, text) for text in (left, right)]
        lead = scores[0] - scores[1]
        sure: Confidence = (
            "high" if abs(lead) >= HIGH else "medium" if abs(lead) >= MEDIUM else "low"
        )
        return Preferred(1 if lead > 0 else -1 if lead < 0 else 0, sure)

    async def draft(self, prompt: str) -> None:
        return None

    async def revise(self, prompt: str, draft: str) -> Revision:
        broken = [p.name for p in self.constitution.principles if p.kept(prompt, draft) < 0.5]
        better = tidied(draft)
        if self.constitution.score(prompt, better) < self.constitution.score(prompt, draft):
            better = draft
        return Revision(better, "breaks: " + (", ".join(broken) or "nothing"))


def tidied(text: str) -> str:
    """Without a hollow opener, without repeated sentences, without an unfinished last one."""
    sentences = [found.group(0).strip() for found in SENTENCE.finditer(text)]
    kept = [sentence for sentence in dict.fromkeys(sentences) if sentence]
    if len(kept) > 1 and HOLLOW_OPENER.match(kept[0]):
        kept = kept[1:]
    if len(kept) > 1 and kept[-1][-1] not in ".!?\"')]":
        kept = kept[:-1]
    return " ".join(kept) or text.strip()


@dataclass(frozen=True, slots=True)
class ModelFeedback:
    """An endpoint, through the gateway and store of ``roles``."""

    roles: ModelRoles
    constitution: Constitution

    async def prefer(self, prompt: str, left: str, right: str) -> Preferred | Failed:
        told = await both_orders(partial(self._one_order, prompt), left, right)
        if isinstance(told, Failed):
            return told
        there, back = told
        consistent = there[0] == -back[0]
        surer = LEVELS[min(LEVELS.index(there[1]), LEVELS.index(back[1]))]
        if not consistent:
            return Preferred(0, "low", False)
        return Preferred(there[0], surer)

    async def draft(self, prompt: str) -> str | Failed:
        given = await self._ask("proposer", self.constitution.draft, {"prompt": prompt}, _response)
        return given if isinstance(given, Failed) else str(given["response"])

    async def revise(self, prompt: str, draft: str) -> Revision | Failed:
        user = {"prompt": prompt, "draft": draft, "principles": self.constitution.told}
        given = await self._ask("proposer", self.constitution.revise, user, _response)
        if isinstance(given, Failed):
            return given
        return Revision(str(given["response"]), str(given.get("critique", "")))

    async def _one_order(
        self, prompt: str, left: str, right: str
    ) -> tuple[Literal[1, -1, 0], Confidence] | Failed:
        user = {
            "prompt": prompt,
            "left": left,
            "right": right,
            "principles": self.constitution.told,
        }
        given = await self._ask("judge", self.constitution.judge, user, _judgement)
        if isinstance(given, Failed):
            return given
        return given["preference"], given["confidence"]

    async def _ask(
        self,
        role: Literal["judge", "proposer"],
        system: str,
        user: dict[str, Any],
        parse: Callable[[str], dict[str, Any]],
    ) -> dict[str, Any] | Failed:
        """The stored answer, or a new one; an unreadable reply is repaired once."""
        gateway = self.roles.gateway
        sampling = digest_json(gateway.sampling())
        asker = Asker(f"feedback-{role}", gateway.model_of(role), digest_json(system), sampling)
        key = asker.key(user)
        if key in (stored := self.roles.store.get_many([key])):
            gateway.usage.count_cached(role)
            return stored[key]
        messages = [
            {"role": "system", "content": system.strip()},
            {"role": "user", "content": json.dumps(user, ensure_ascii=False)},
        ]
        problem = ""
        for _ in range(2):
            reply = await gateway.chat(role, messages)
            if isinstance(reply, Failed):
                return reply
            try:
                return self.roles.store.put(asker, {key: parse(reply)})[key]
            except ReplyError as error:
                problem = str(error)
            repair = canonical_json({"task": "repair", "error": problem}).decode()
            messages += [
                {"role": "assistant", "content": reply[:4000]},
                {"role": "user", "content": repair},
            ]
        return Failed(f"the {role}'s reply could not be read: {problem}", retriable=True)


def _judgement(reply: str) -> dict[str, Any]:
    found = find_object(reply, "preference")
    preference, confidence = found["preference"], found.get("confidence")
    if preference is True or preference not in (1, -1, 0):
        raise ReplyError("preference is not 1, -1 or 0")
    if confidence not in LEVELS:
        raise ReplyError("confidence is not low, medium or high")
    return {"preference": int(cast("int", preference)), "confidence": confidence}


def _response(reply: str) -> dict[str, Any]:
    found = find_object(reply, "response")
    if not isinstance(found["response"], str) or not found["response"].strip():
        raise ReplyError("response is not a text")
    return {"response": found["response"], "critique": str(found.get("critique", ""))}


async def each(items: Sequence[T], ask: Callable[[T], Any]) -> list[Any]:
    """``ask`` of all items at once, in order; the gateway bounds what is in flight."""
    return list(await asyncio.gather(*(ask(item) for item in items)))
