"""One HTTP connection to a reward server: JSON in, JSON or ``Failed`` out, with bounded retries.

This is the only retry layer of a remote reward; it pickles, and connects when first used.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, cast

from reward_harness.rewards.base import Failed

if TYPE_CHECKING:
    import httpx

RETRIABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF_S = 0.25
BACKOFF_CAP_S = 8.0
UNREACHABLE = "unreachable"
NOT_UNDERSTOOD = "not_understood"


class HTTPCaller:
    """Requests to one address; ``retries`` more attempts where the failure may pass."""

    def __init__(self, url: str, key: str | None, timeout_s: float, retries: int) -> None:
        self.url = url.rstrip("/")
        self._key, self._timeout_s, self._retries = key, timeout_s, retries
        self._client: httpx.Client | None = None

    def post(self, path: str, body: dict[str, Any]) -> Any | Failed:
        """The answer's JSON."""
        return self._repeated("POST", path, body)

    def get(self, path: str) -> Any | Failed:
        """The answer's JSON, asked once."""
        return self._once("GET", path, None)

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def _repeated(self, method: str, path: str, body: dict[str, Any]) -> Any | Failed:
        attempt = 0
        while True:
            answer = self._once(method, path, body)
            passing = isinstance(answer, Failed) and answer.retriable
            if not passing or attempt == self._retries:
                return answer
            time.sleep(min(BACKOFF_S * 2**attempt, BACKOFF_CAP_S) * random.uniform(0.8, 1.2))
            attempt += 1

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any | Failed:
        import httpx

        try:
            response = self.connected().request(method, path, json=body)
            answer = response.json()
        except httpx.HTTPError as error:
            text = f"{self.url}: {type(error).__name__}: {error}"
            return Failed(text, retriable=True, code=UNREACHABLE)
        except ValueError:
            return Failed(f"{self.url} did not answer in JSON", code=NOT_UNDERSTOOD)
        return answer if response.status_code == 200 else self._refused(response, answer)

    def _refused(self, response: httpx.Response, answer: Any) -> Failed:
        body = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
        told = body.get("detail") or body.get("error") or {}
        detail = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        code = detail.get("error_code", f"http_{response.status_code}")
        message = detail.get("error_message") or detail.get("message") or ""
        text = f"{self.url}: {response.status_code} {message}"
        return Failed(text, response.status_code in RETRIABLE_STATUS, str(code))

    def connected(self) -> httpx.Client:
        """The client, opened if need be; open it before several threads use it."""
        import httpx

        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=self._timeout_s, trust_env=False
            )
        return self._client
