"""``LLMJudge``: a language model behind an OpenAI-compatible endpoint as a reward.

Pointwise, each response gets a number on the scale (1-5 or 0-10) for each weighted criterion of the
rubric (lines such as ``- Clarity (weight: 0.3)``), or one overall; the weighted mean is made here,
not by the model. Groupwise, all responses to one prompt are shown together and the best ``top_n``
score 1, the others 0; they are shown in an order drawn from their content, so that their order in
the batch changes nothing.

Requests go through the project's gateway (limits, retries, spend caps) and its verdict store:
an equal question is paid for once. Rubric, prompt and responses are data in the user message, never
part of the system text. A reply that cannot be read is repaired once, then ``Failed``: no number.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from reward_harness.errors import HarnessError, SpecError
from reward_harness.hashing import digest_json
from reward_harness.llm.backends import read_key
from reward_harness.llm.budget import Caps
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.gateway import Gateway
from reward_harness.llm.parsing import ReplyError, find_object
from reward_harness.llm.roles import ChatModel
from reward_harness.llm.verdicts import STORE_NAME, VerdictStore
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Conversation,
    Failed,
    Scored,
    ScoreResult,
    conversation_of,
    only_valid,
)
from reward_harness.rewards.judge_roles import JudgeRoles
from reward_harness.rubrics.grading import prompt_text
from reward_harness.sections import Endpoint
from reward_harness.workspace import Workspace

Scale = Literal["1-5", "0-10"]
SCALES: dict[str, tuple[float, float]] = {"1-5": (1.0, 5.0), "0-10": (0.0, 10.0)}
WEIGHTED = re.compile(r"^\s*[-*•]\s*(.+?)\s*\(\s*weight\s*[:=]\s*([0-9.]+)\s*\)\s*$", re.MULTILINE)
OVERALL = "overall"
DEFAULT_RUBRIC = "How well does the response serve the one who wrote the prompt?"


class LLMJudge(BaseRM):
    """See the module's docstring.

    Args:
        model: the model's name at the endpoint.
        api_base: the endpoint, up to and with ``/v1``.
        api_key: its key; without one, that of the variable ``api_key_env``.
        rubric: what to judge by, in words.
        scale: of pointwise scores; ``value`` is on it, ``normalized_score`` in [0, 1].
        mode, top_n: ``pointwise``, or ``groupwise`` with so many winners.
        cache: folder of the verdict store, the project's own unless another is given.
        caps: spend caps; where one is reached, items are ``Failed``.
        chat_model: what answers instead of an endpoint, for example ``llm.local.LocalGateway``.
        options: further settings of the endpoint (``temperature``, ``timeout_s`` …).
    """

    pace = "waiting"

    def __init__(
        self,
        model: str,
        api_base: str | None = None,
        api_key: str | None = None,
        rubric: str = DEFAULT_RUBRIC,
        *,
        scale: Scale = "1-5",
        mode: Literal["pointwise", "groupwise"] = "pointwise",
        top_n: int = 1,
        cache: Path | None = None,
        caps: Caps | None = None,
        chat_model: ChatModel | None = None,
        **options: Any,
    ) -> None:
        if scale not in SCALES or mode not in ("pointwise", "groupwise") or top_n < 1:
            raise SpecError(
                "not a way to judge",
                got=f"scale {scale!r}, mode {mode!r}, top_n {top_n}",
                expected="scale 1-5 or 0-10, mode pointwise or groupwise, top_n ≥ 1",
            )
        self.endpoint = endpoint_of(model, api_base, options)
        self.rubric, self.scale, self.mode, self.top_n = rubric.strip(), scale, mode, top_n
        self.weights = weights_of(rubric)
        if api_key is None and chat_model is None:
            read_key(self.endpoint)  # a missing key is told now, not at the first response
        self._key, self._caps, self._chat_model = api_key, caps, chat_model
        self._cache = cache
        self._roles: JudgeRoles | None = None

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; all are asked concurrently."""
        return only_valid(batch, lambda valid: run_sync(self._judged(valid)))

    async def ascore(self, messages: Any, return_details: bool = False) -> Any:
        """``score`` in a thread, which waits for the judge's own event loop."""
        return await asyncio.to_thread(cast("Any", self.score), messages, return_details)

    def top(self, prompt: str | Conversation, responses: Sequence[str], n: int = 1) -> list[int]:
        """Places in ``responses`` of the best ``n``, best first; equal texts stand together.

        ``ScoringError`` without a verdict.
        """
        if not 1 <= n <= len(responses):
            raise SpecError(
                "not a number of winners", got=str(n), expected=f"1 to {len(responses)}"
            )
        shown = prompt_text(conversation_of(prompt, "")[:-1])
        ranked = run_sync(self._ranked(shown, responses, n))
        if isinstance(ranked, Failed):
            self.require(ranked)
            raise AssertionError
        return [i for text in ranked for i, found in enumerate(responses) if found == text][:n]

    @property
    def usage(self) -> Any:
        """What was asked so far, and what it cost."""
        return self._opened().gateway.usage

    def identity(self) -> str:
        """Digest of the model, its sampling, the wording and the rubric; not of the address."""
        model = self._chat_model.model_of("judge") if self._chat_model else self.endpoint.model
        sampling = [self.endpoint.temperature, self.endpoint.reasoning_effort]
        told = [self.rubric, self.scale, self.mode, self.top_n, JudgeRoles.wording()]
        return digest_json(["judge", model, sampling, self.endpoint.extra_body, *told])

    def close(self) -> None:
        """Close the connections and the verdict store."""
        if self._roles is not None:
            run_sync(self._roles.aclose())
            self._roles = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_roles": None}

    def _opened(self) -> JudgeRoles:
        if self._roles is None:
            cache = self._cache or Workspace.discover().cache
            chat = self._chat_model or Gateway(self.endpoint, self._caps, key=self._key)
            self._roles = JudgeRoles(chat, VerdictStore(cache / STORE_NAME), {})
        return self._roles

    async def _judged(self, batch: list[Conversation]) -> list[ScoreResult]:
        try:
            roles = self._opened()
            before = roles.gateway.usage.calls
            if self.mode == "pointwise":
                found = await asyncio.gather(*(self._rated(roles, c) for c in batch))
            else:
                found = await self._grouped(batch)
            asked = roles.gateway.usage.calls - before
        except HarnessError as error:
            return [Failed(str(error)) for _ in batch]
        cost = {"llm_calls": asked, "responses": len(batch)}
        return [
            Scored(r.value, {**r.details, "cost": cost}) if isinstance(r, Scored) else r
            for r in found
        ]

    async def _rated(self, roles: JudgeRoles, conversation: Conversation) -> ScoreResult:
        names = list(self.weights) or [OVERALL]
        low, high = SCALES[self.scale]
        question = {
            "rubric": self.rubric,
            "scale": f"from {low:g} (worst) to {high:g} (best)",
            "scores_wanted": names,
            "prompt": prompt_text(conversation[:-1]),
            "response": conversation[-1]["content"],
        }
        try:
            given = await roles.rate(question, lambda reply: read_scores(reply, names, low, high))
        except HarnessError as error:
            return Failed(str(error))
        if isinstance(given, Failed):
            return given
        weights = self.weights or {OVERALL: 1.0}
        value = sum(weights[name] * given[name] for name in names) / sum(weights.values())
        normalized = (value - low) / (high - low)
        criteria = given if self.weights else {}
        return Scored(value, {"normalized_score": normalized, "criteria": criteria})

    async def _grouped(self, batch: list[Conversation]) -> list[ScoreResult]:
        groups: dict[str, list[int]] = {}
        for number, conversation in enumerate(batch):
            groups.setdefault(prompt_text(conversation[:-1]), []).append(number)
        found: dict[int, ScoreResult] = {}
        texts = {p: [batch[n][-1]["content"] for n in numbers] for p, numbers in groups.items()}
        verdicts = await asyncio.gather(
            *(self._ranked(prompt, texts[prompt], self.top_n) for prompt in groups)
        )
        for (prompt, numbers), ranked in zip(groups.items(), verdicts, strict=True):
            for number, text in zip(numbers, texts[prompt], strict=True):
                if isinstance(ranked, Failed):
                    found[number] = ranked
                elif len(set(texts[prompt])) < 2:
                    found[number] = Abstained("one response alone is not compared")
                else:
                    found[number] = Scored(float(text in ranked), {"group": len(numbers)})
        return [found[number] for number in range(len(batch))]

    async def _ranked(
        self, prompt: str, responses: Sequence[str], n: int
    ) -> Sequence[str] | Failed:
        """The best ``n`` different texts, best first."""
        shown = sorted(set(responses), key=lambda text: digest_json([prompt, text]))
        n = min(n, len(shown))
        if len(shown) < 2:
            return shown
        question = {
            "rubric": self.rubric,
            "winners_wanted": n,
            "prompt": prompt,
            "responses": {str(place): text for place, text in enumerate(shown, 1)},
        }
        try:
            places = await self._opened().pick(
                question, lambda reply: read_places(reply, n, len(shown))
            )
        except HarnessError as error:
            return Failed(str(error))
        return places if isinstance(places, Failed) else [shown[place - 1] for place in places]


def endpoint_of(model: str, api_base: str | None, options: Mapping[str, Any]) -> Endpoint:
    """Settings of the endpoint; ``SpecError`` lists them where an option is unknown."""
    unknown = sorted(set(options) - set(Endpoint.model_fields))
    if unknown:
        raise SpecError(
            "no such option",
            got=", ".join(unknown),
            expected=f"some of: {', '.join(Endpoint.model_fields)}",
        )
    named = {} if api_base is None else {"base_url": api_base}
    return Endpoint.model_validate({**options, **named, "model": model})


def weights_of(rubric: str) -> dict[str, float]:
    """The weighted criteria that a rubric's lines name; ``SpecError`` for weights that are none."""
    found: dict[str, float] = {}
    for name, weight in WEIGHTED.findall(rubric):
        try:
            found[name] = float(weight)
        except ValueError as error:
            raise SpecError("not a weight", where=name, got=weight) from error
    if found and sum(found.values()) <= 0:
        raise SpecError("all weights are 0", got=", ".join(found))
    return found


def read_scores(reply: str, names: Sequence[str], low: float, high: float) -> dict[str, float]:
    """Scores by name, each a number from ``low`` to ``high``; ``ReplyError`` otherwise."""
    given = find_object(reply, "scores")["scores"]
    if not isinstance(given, Mapping) or set(cast("Mapping[str, Any]", given)) != set(names):
        raise ReplyError(f"scores must have exactly the keys {list(names)}")
    scores = cast("Mapping[str, Any]", given)
    for name in names:
        value = scores[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not low <= value <= high:
            raise ReplyError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return {name: float(scores[name]) for name in names}


def read_places(reply: str, n: int, responses: int) -> list[int]:
    """``n`` different places from 1 to ``responses``, best first; ``ReplyError`` otherwise."""
    given = find_object(reply, "best")["best"]
    places = [str(place) for place in cast("list[Any]", given)] if isinstance(given, list) else []
    allowed = {str(place) for place in range(1, responses + 1)}
    if len(places) != n or len(set(places)) != n or not set(places) <= allowed:
        raise ReplyError(f"best must list {n} different numbers from 1 to {responses}")
    return [int(place) for place in places]
