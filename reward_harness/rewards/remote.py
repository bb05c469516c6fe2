"""``RemoteRM``: a served reward as a reward.

A request that fails, a server that is away, an answer that is not understood: each is ``Failed``
with whether asking again may help, never a number. Requests that may succeed later are repeated a
few times here, and here only. With ``expect_digest`` an answer of any other artifact is ``Failed``,
so that a reward cannot change under a training run.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from reward_harness.errors import LLMError
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

if TYPE_CHECKING:
    import httpx

ABSTAINED = "abstained"
RETRIABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF_S = 0.25
BACKOFF_CAP_S = 8.0
BATCH_ITEMS = 256


class RemoteRM(BaseRM):
    """Client of our server's ``/batch_score``; pickles, and opens its connection when first used.

    Args:
        url: where the server answers.
        key: the server's key, sent as Bearer.
        expect_digest: the only artifact whose answers are taken.
        timeout_s: for each request.
        retries: how often a request that may succeed later is repeated.
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
    ) -> None:
        self.url = url.rstrip("/")
        self.digest = expect_digest
        self._key, self._timeout_s, self._retries = key, timeout_s, retries
        self._client: httpx.Client | None = None

    def version(self) -> dict[str, Any]:
        """``GET /version``; ``LLMError`` if the server does not answer."""
        import httpx

        try:
            response = self._connected().get("/version")
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise LLMError(
                "the reward server does not answer", where=self.url, got=str(error)
            ) from error

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
        for start in range(0, len(good), batch_size):
            numbers = good[start : start + batch_size]
            results = self._ask([items[number] for number in numbers])
            for number, result in zip(numbers, results, strict=True):
                found[number] = result
        return [result for result in found if result is not None]

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def _connected(self) -> httpx.Client:
        import httpx

        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=self._timeout_s, trust_env=False
            )
        return self._client

    def _ask(self, items: Sequence[Item]) -> list[ScoreResult]:
        """One request, repeated while the whole of it fails in a way that may pass."""
        body = {"items": [_body(item) for item in items]}
        failure = Failed("not asked")
        for attempt in range(self._retries + 1):
            answer = self._post(body)
            if not isinstance(answer, Failed):
                return self._read(answer, len(items))
            failure = answer
            if not failure.retriable or attempt == self._retries:
                break
            time.sleep(min(BACKOFF_S * 2**attempt, BACKOFF_CAP_S) * random.uniform(0.8, 1.2))
        return [failure for _ in items]

    def _post(self, body: dict[str, Any]) -> dict[str, Any] | Failed:
        import httpx

        try:
            response = self._connected().post("/batch_score", json=body)
            answer = response.json()
        except httpx.HTTPError as error:
            text = f"{self.url}: {type(error).__name__}: {error}"
            return Failed(text, retriable=True, code="unreachable")
        except ValueError:
            return Failed(f"{self.url} did not answer in JSON", code="not_understood")
        if response.status_code != 200 or not isinstance(answer, dict):
            detail = answer.get("detail", {}) if isinstance(answer, dict) else {}
            code = detail.get("error_code", f"http_{response.status_code}")
            text = f"{self.url}: {response.status_code} {detail.get('error_message', '')}"
            return Failed(text, response.status_code in RETRIABLE_STATUS, code)
        return answer

    def _read(self, answer: dict[str, Any], n: int) -> list[ScoreResult]:
        if self.digest is not None and answer.get("digest") != self.digest:
            text = f"{self.url} serves {answer.get('digest')}, wanted {self.digest}"
            return [Failed(text, code="wrong_artifact") for _ in range(n)]
        self.artifact_id = answer.get("artifact_id")
        entries = {e.get("index"): e for e in answer.get("results", []) if isinstance(e, dict)}
        return [_result(entries.get(index)) for index in range(n)]


def _body(item: Item) -> dict[str, Any]:
    turns = [dict(message) for message in item.conversation[:-1]]
    body: dict[str, Any] = {
        "prompt": turns,
        "candidate": {"text": item.conversation[-1]["content"]},
    }
    return body if item.prompt_id is None else {**body, "prompt_id": item.prompt_id}


def _result(entry: dict[str, Any] | None) -> ScoreResult:
    if entry is None:
        return Failed("the server left the item out", code="not_understood")
    if not entry.get("ok"):
        code, reason = str(entry.get("error_code")), str(entry.get("error_message"))
        if code == ABSTAINED:
            return Abstained(reason)
        return Failed(reason, bool(entry.get("retriable")), code)
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return Failed(f"the server gave the score {score!r}", code="not_understood")
    details = {
        "criteria": entry.get("majority_grades", {}),
        "vote_scores": entry.get("vote_scores", []),
        "variance": entry.get("variance", 0.0),
    }
    return Scored(float(score), details)
