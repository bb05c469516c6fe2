"""The four roles played by a model: initializer, proposer, verifier, judge.

Each question goes to the verdict store first; equal questions in flight are one request; a reply
that cannot be read gets one repair retry with the reason, then it is ``Failed``. Of a candidate, a
model is shown its text only: nothing here even takes metadata, rank, quality or source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from reward_harness.hashing import canonical_json, digest_json
from reward_harness.llm.backends import resolve_endpoint
from reward_harness.llm.gateway import Caps, Gateway, Usage
from reward_harness.llm.parsing import (
    ReplyError,
    parse_criteria,
    parse_grades,
    parse_preference,
)
from reward_harness.llm.verdicts import Asker, VerdictStore
from reward_harness.prompts import Role, Template
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.types import SCALE_BOUNDS, Criterion, Grades, Rubric, Scale
from reward_harness.sections import Endpoint

T = TypeVar("T")
MAX_CRITERIA = 8
MAX_SAMPLES = 4


class ChatModel(Protocol):
    """What answers: an endpoint's ``Gateway``, or a model in this process."""

    usage: Usage

    def model_of(self, role: str) -> str:
        """The model that plays ``role``."""
        ...

    def sampling(self) -> dict[str, Any]:
        """What decides how an answer is drawn."""
        ...

    async def chat(
        self, role: str, messages: Sequence[Mapping[str, str]], vote: int = 0
    ) -> str | Failed:
        """One reply's text."""
        ...

    async def aclose(self) -> None:
        """Let go of connections or threads."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """A pair judged in both orders: disagreement counts as a tie and is reported."""

    preference: Literal[1, -1, 0]
    consistent: bool


async def both_orders(
    ask: Callable[[str, str], Awaitable[T | Failed]], left: str, right: str
) -> tuple[T, T] | Failed:
    """What is said of (left, right) and of (right, left), asked at once."""
    there, back = await asyncio.gather(ask(left, right), ask(right, left))
    if isinstance(there, Failed):
        return there
    if isinstance(back, Failed):
        return back
    return there, back


class ModelRoles:
    """The roles on one gateway and one verdict store; implements ``grading.Grader``.

    ``draw`` other than 0 has rubrics proposed anew where the store knows a proposal already.
    """

    def __init__(
        self, gateway: ChatModel, store: VerdictStore, templates: Mapping[Role, Template]
    ) -> None:
        self.gateway = gateway
        self.store = store
        self.templates = templates
        self.draw = 0
        self._flying: dict[str, asyncio.Task[dict[str, Any] | Failed]] = {}

    async def grade(
        self, prompt: str, response: str, criteria: Sequence[Criterion], scale: Scale, vote: int = 0
    ) -> Grades | Failed:
        """Grades in [0, 1]; only criteria unknown to the store are asked, in one request."""
        asker = self._asker("verifier")
        base = digest_json([scale, prompt, response, vote])
        keys = {c.criterion_id: asker.key(base, c.grading_digest) for c in criteria}
        by_key = {keys[c.criterion_id]: c for c in criteria}

        async def ask(missing: Sequence[str]) -> dict[str, float | None] | Failed:
            return await self._ask_grades(
                prompt, response, {key: by_key[key] for key in missing}, scale, vote
            )

        answers = await self._answer(asker, list(by_key), ask)
        if isinstance(answers, Failed):
            return answers
        return {name: answers[key] for name, key in keys.items()}

    async def compare(self, prompt: str, left: str, right: str, vote: int = 0) -> Compared | Failed:
        """Which response is better, asked in both orders."""
        told = await both_orders(lambda a, b: self.prefer(prompt, a, b, vote), left, right)
        if isinstance(told, Failed):
            return told
        there, back = told
        consistent = there == -back
        return Compared(there if consistent else 0, consistent)

    async def prefer(
        self, prompt: str, left: str, right: str, vote: int = 0
    ) -> Literal[1, -1, 0] | Failed:
        """The judge's preference in one order: 1 left, -1 right, 0 neither."""
        asker, template = self._asker("judge"), self.templates["judge"]
        key = asker.key(prompt, sorted((left, right)), "kept" if left <= right else "swapped", vote)

        async def ask(missing: Sequence[str]) -> dict[str, int] | Failed:
            user = template.user_text({"prompt": prompt, "left": left, "right": right})
            given = await self._ask("judge", template.system_text(), user, parse_preference, vote)
            return given if isinstance(given, Failed) else {missing[0]: given}

        answers = await self._answer(asker, [key], ask)
        return answers if isinstance(answers, Failed) else answers[key]

    async def initialize(
        self, prompt: str, samples: Sequence[str]
    ) -> tuple[Criterion, ...] | Failed:
        """Criteria for responses to ``prompt``, written from up to four sample responses."""
        template, limit = self.templates["initializer"], {"max_criteria": MAX_CRITERIA}
        names = ("criteria_limit", "observable", "independent", "general")
        user = {
            "task": template.text("task"),
            "constraints": [template.text(name, limit) for name in names],
            "prompt": prompt,
            "candidate_samples": list(samples[:MAX_SAMPLES]),
        }
        return await self._ask_criteria("initializer", user, ())

    async def propose(
        self, rubric: Rubric, mode: str, prompt: str, top: str, runner_up: str, vote: int = 0
    ) -> tuple[Criterion, ...] | Failed:
        """The criteria of a changed rubric; ``mode`` names one of the template's texts."""
        template, limit = self.templates["proposer"], {"max_criteria": MAX_CRITERIA}
        user = {
            "task": template.text("task"),
            "output_requirements": template.text("requirements", limit),
            "mode": f"{mode}: {template.text(mode)}",
            "current_rubric": {"criteria": [_shown(c, weighted=True) for c in rubric.criteria]},
            "prompt": prompt,
            "top_candidate": top,
            "runner_up_candidate": runner_up,
        }
        return await self._ask_criteria("proposer", user, rubric.criteria, vote)

    async def aclose(self) -> None:
        """Close the connections and the store."""
        await self.gateway.aclose()
        self.store.close()

    async def _ask_criteria(
        self, role: Role, user: Mapping[str, Any], known: Sequence[Criterion], vote: int = 0
    ) -> tuple[Criterion, ...] | Failed:
        vote += self.draw
        asker, template = self._asker(role), self.templates[role]
        identity = [c.content for c in known]
        key = asker.key(digest_json(dict(user)), identity, vote)

        async def ask(missing: Sequence[str]) -> dict[str, Any] | Failed:
            given = await self._ask(
                role,
                template.system_text({"max_criteria": MAX_CRITERIA}),
                template.user_text(user),
                lambda reply: parse_criteria(reply, known, MAX_CRITERIA),
                vote,
            )
            if isinstance(given, Failed):
                return given
            return {missing[0]: [c.model_dump(mode="json") for c in given]}

        answers = await self._answer(asker, [key], ask)
        if isinstance(answers, Failed):
            return answers
        return tuple(Criterion.model_validate(c) for c in answers[key])

    async def _ask_grades(
        self,
        prompt: str,
        response: str,
        missing: Mapping[str, Criterion],
        scale: Scale,
        vote: int,
    ) -> dict[str, float | None] | Failed:
        """One request for all of ``missing`` (by key); ids are numbered, so that none misleads."""
        template = self.templates["verifier"]
        low, high = SCALE_BOUNDS[scale]
        bounds = {"low": f"{low:g}", "high": f"{high:g}"}
        ids = [f"c{number}" for number in range(1, len(missing) + 1)]
        user = {
            "scale": template.text("binary" if scale == "binary" else "range", bounds),
            "criteria": [
                {**_shown(c), "criterion_id": name}
                for name, c in zip(ids, missing.values(), strict=True)
            ],
            "prompt": prompt,
            "candidate": response,
        }
        grades = await self._ask(
            "verifier",
            template.system_text(bounds),
            template.user_text(user),
            lambda reply: parse_grades(reply, ids, scale),
            vote,
        )
        if isinstance(grades, Failed):
            return grades
        return {key: grades[name] for name, key in zip(ids, missing, strict=True)}

    async def _ask(
        self, role: Role, system: str, user: str, parse: Callable[[str], T], vote: int
    ) -> T | Failed:
        """Ask, read, and let the model repair an unreadable reply once."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        problem = ""
        for _ in range(2):
            reply = await self.gateway.chat(role, messages, vote)
            if isinstance(reply, Failed):
                return reply
            try:
                return parse(reply)
            except ReplyError as error:
                problem = str(error)
            repair = {"task": "repair", "error": problem}
            messages += [
                {"role": "assistant", "content": reply[:4000]},
                {"role": "user", "content": canonical_json(repair).decode()},
            ]
        return Failed(f"the {role}'s reply could not be read: {problem}", retriable=True)

    async def _answer(
        self,
        asker: Asker,
        keys: Sequence[str],
        ask: Callable[[Sequence[str]], Awaitable[dict[str, Any] | Failed]],
    ) -> dict[str, Any] | Failed:
        """Answers by key: stored ones, those in flight, and one new request for the rest."""
        answers = self.store.get_many(keys)
        if len(answers) == len(keys):
            self.gateway.usage.count_cached(asker.role)
            return answers
        missing = [key for key in keys if key not in answers]
        new = [key for key in missing if key not in self._flying]
        if new:
            task = asyncio.create_task(self._ask_and_keep(asker, new, ask))
            self._flying.update(dict.fromkeys(new, task))
        else:
            self.gateway.usage.count_cached(asker.role)
        waited = {id(task): task for task in (self._flying[key] for key in missing)}
        for given in await asyncio.gather(*map(asyncio.shield, waited.values())):
            if isinstance(given, Failed):
                return given
            answers.update({key: given[key] for key in missing if key in given})
        return answers

    async def _ask_and_keep(
        self,
        asker: Asker,
        keys: Sequence[str],
        ask: Callable[[Sequence[str]], Awaitable[dict[str, Any] | Failed]],
    ) -> dict[str, Any] | Failed:
        try:
            given = await ask(keys)
            return given if isinstance(given, Failed) else self.store.put(asker, given)
        finally:
            for key in keys:
                self._flying.pop(key, None)

    def _asker(self, role: Role) -> Asker:
        return Asker(
            role=role,
            model=self.gateway.model_of(role),
            template=self.templates[role].digest,
            sampling=digest_json(self.gateway.sampling()),
        )


def _shown(criterion: Criterion, weighted: bool = False) -> dict[str, Any]:
    """What a model is told of a criterion; a verifier gets no weight and no polarity."""
    shown: dict[str, Any] = {"criterion_id": criterion.criterion_id, "text": criterion.text}
    for name in ("check_points", "positive_examples", "negative_examples"):
        if listed := getattr(criterion, name):
            shown[name] = list(listed)
    if weighted:
        shown |= {"weight": criterion.weight, "polarity": criterion.polarity}
    return shown


def open_roles(
    endpoint: Endpoint,
    templates: Mapping[Role, Template],
    store: Path | None,
    caps: Caps | None = None,
) -> ModelRoles:
    """Roles at an endpoint (after the environment's overrides), with the store at ``store``.

    ``LLMError`` where the key is not set or the store cannot be opened.
    """
    gateway = Gateway(resolve_endpoint(endpoint), caps)
    return ModelRoles(gateway, VerdictStore(store), templates)
