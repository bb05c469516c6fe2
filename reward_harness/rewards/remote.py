"""``RemoteRM``: a served reward as a reward; ``RemoteSteps``: a served process reward's steps.

A request that fails, a server that is away, an answer that is not understood: each is ``Failed``
with whether asking again may help, never a number. Requests that may succeed later are repeated a
few times here, and here only. With ``expect_digest`` an answer of any other artifact is ``Failed``,
so that a reward cannot change under a training run. Other servers are asked in their own protocol
(``remote_wires``), where a request that fails is taken apart, so that a bad item fails alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, cast

from reward_harness.errors import LLMError, SpecError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Conversation,
    Failed,
    Item,
    Scored,
    ScoreResult,
    invalid,
)
from reward_harness.rewards.http_caller import NOT_UNDERSTOOD, UNREACHABLE, HTTPCaller
from reward_harness.rewards.process import Solution, StepScores, with_step_tokens
from reward_harness.rewards.remote_wires import WIRES

ABSTAINED = "abstained"
NATIVE = "native"
PROTOCOLS = (NATIVE, *WIRES)
BATCH_ITEMS = 256
CONCURRENCY = 8


class RemoteRM(BaseRM):
    """Client of a reward server; pickles, and opens its connection when first used.

    Args:
        url: where the server answers.
        key: the server's key, sent as Bearer.
        expect_digest: the only artifact whose answers are taken (protocol native).
        timeout_s: for each request.
        retries: how often a request that may succeed later is repeated.
        protocol: ``native`` for this project's server, else one of ``remote_wires.WIRES``.
        model: the model's name, for servers that ask for it.
    """

    pace = "waiting"

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        expect_digest: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        protocol: str = NATIVE,
        model: str | None = None,
    ) -> None:
        if protocol not in PROTOCOLS or (expect_digest and protocol != NATIVE):
            raise SpecError(
                "no such protocol" if protocol not in PROTOCOLS else "only native tells its digest",
                got=protocol,
                expected=f"one of: {', '.join(PROTOCOLS)}",
            )
        self.url = url.rstrip("/")
        self.digest = expect_digest
        self.protocol, self.model = protocol, model
        self._caller = HTTPCaller(url, key, timeout_s, retries)

    def version(self) -> dict[str, Any]:
        """``GET /version``; ``LLMError`` if the server does not answer."""
        answer = self._caller.get("/version")
        if isinstance(answer, Failed):
            raise LLMError("the reward server does not answer", where=self.url, got=answer.error)
        return answer

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = BATCH_ITEMS, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(
        self, items: Sequence[Item], batch_size: int = BATCH_ITEMS
    ) -> list[ScoreResult]:
        """As ``score_batch_results``, with prompt ids; ``batch_size`` items go into one request."""
        found: list[ScoreResult | None] = [invalid(item.conversation) for item in items]
        good = [number for number, problem in enumerate(found) if problem is None]
        size = batch_size
        if self.protocol != NATIVE:
            size = WIRES[self.protocol].items_per_request or batch_size
        parts = [good[start : start + size] for start in range(0, len(good), size)]
        requests = [[items[number] for number in part] for part in parts]
        for part, results in zip(parts, self._all(requests), strict=True):
            for number, result in zip(part, results, strict=True):
                found[number] = result
        return [result for result in found if result is not None]

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, requests: Sequence[Sequence[Item]]) -> list[list[ScoreResult]]:
        """Answers to all requests; small ones are sent several at a time."""
        ask = self._ask if self.protocol == NATIVE else self._ask_other
        if self.protocol == NATIVE or len(requests) < 2:
            return [ask(request) for request in requests]
        self._caller.connected()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(ask, requests))

    def _ask(self, items: Sequence[Item]) -> list[ScoreResult]:
        answer = self._caller.post("/batch_score", {"items": [_body(item) for item in items]})
        if isinstance(answer, Failed):
            return [answer for _ in items]
        if not isinstance(answer, dict):
            text = f"{self.url} did not answer with an object"
            return [Failed(text, code=NOT_UNDERSTOOD) for _ in items]
        return self._read(cast("dict[str, Any]", answer), len(items))

    def _ask_other(self, items: Sequence[Item]) -> list[ScoreResult]:
        """One request in the server's protocol; where it fails, each item by itself."""
        wire = WIRES[self.protocol]
        answer = self._caller.post(wire.path, wire.body(items, self.model))
        if isinstance(answer, Failed):
            if len(items) == 1 or answer.code == UNREACHABLE:
                return [answer for _ in items]
            return [self._ask_other([item])[0] for item in items]
        try:
            scores = wire.read(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            text = f"{self.url} does not speak {self.protocol}: {type(error).__name__} {error}"
            return [Failed(text, code=NOT_UNDERSTOOD) for _ in items]
        if len(scores) != len(items):
            text = f"{self.url} gave {len(scores)} scores for {len(items)} items"
            return [Failed(text, code=NOT_UNDERSTOOD) for _ in items]
        return [_number(score, {"raw_logits": [score]}) for score in scores]

    def _read(self, answer: dict[str, Any], n: int) -> list[ScoreResult]:
        if self.digest is not None and answer.get("digest") != self.digest:
            text = f"{self.url} serves {answer.get('digest')}, wanted {self.digest}"
            return [Failed(text, code="wrong_artifact") for _ in range(n)]
        self.artifact_id = answer.get("artifact_id")
        entries = {e.get("index"): e for e in answer.get("results", []) if isinstance(e, dict)}
        return [_result(entries.get(index)) for index in range(n)]


class RemoteSteps:
    """Steps scored by a vLLM server of Qwen2.5-Math-PRM (``POST /pooling`` with messages).

    Its pooler gives the probabilities of wrong and right at each step token. ``identity`` is the
    one that the caller knows the server's model by.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        model: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        known_as: str | None = None,
    ) -> None:
        self.model, self._known_as = model, known_as
        self._caller = HTTPCaller(url, key, timeout_s, retries)

    def score_solutions(self, solutions: Sequence[Solution]) -> list[StepScores | Failed]:
        """One result for each solution, in order."""
        self._caller.connected()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(self._one, solutions))

    def identity(self) -> str | None:
        """What the caller knows the model by."""
        return self._known_as and digest_json(["remote-steps", self._known_as])

    def _one(self, solution: Solution) -> StepScores | Failed:
        body = {"model": self.model, "messages": with_step_tokens(solution)}
        answer = self._caller.post("/pooling", body)
        if isinstance(answer, Failed):
            return answer
        try:
            [entry] = answer["data"]
            right = tuple(float(row[1]) for row in entry["data"])
            return StepScores(right, int(answer.get("usage", {}).get("prompt_tokens", 0)))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            text = f"{self._caller.url} gave no step scores: {type(error).__name__} {error}"
            return Failed(text, code=NOT_UNDERSTOOD)


def _body(item: Item) -> dict[str, Any]:
    turns = [dict(message) for message in item.conversation[:-1]]
    body: dict[str, Any] = {
        "prompt": turns,
        "candidate": {"text": item.conversation[-1]["content"]},
    }
    return body if item.prompt_id is None else {**body, "prompt_id": item.prompt_id}


def _result(entry: dict[str, Any] | None) -> ScoreResult:
    if entry is None:
        return Failed("the server left the item out", code=NOT_UNDERSTOOD)
    if not entry.get("ok"):
        code, reason = str(entry.get("error_code")), str(entry.get("error_message"))
        if code == ABSTAINED:
            return Abstained(reason)
        return Failed(reason, bool(entry.get("retriable")), code)
    details = {
        "criteria": entry.get("majority_grades", {}),
        "vote_scores": entry.get("vote_scores", []),
        "variance": entry.get("variance", 0.0),
    }
    return _number(entry.get("score"), details)


def _number(score: Any, details: dict[str, Any]) -> ScoreResult:
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return Failed(f"the server gave the score {score!r}", code=NOT_UNDERSTOOD)
    return Scored(float(score), details)
