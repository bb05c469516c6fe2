"""HTTP to one endpoint, straight on aiohttp: one address, the same headers each time, no redirect,
no cookie, so that a request costs little more than its bytes (``benchmarks/gateway.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from reward_harness.search_sections import Endpoint

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the endpoint said, all of it."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The content, whatever its encoding."""
        return self.content.decode("utf-8", "replace")


class Connection:
    """A pool of connections, opened by the first request, in that request's event loop."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "reward-harness",
        }
        self._timeout_s, self._at_once = endpoint.timeout_s, endpoint.concurrency
        self._session: aiohttp.ClientSession | None = None

    async def post(self, content: bytes) -> Reply:
        """The endpoint's whole reply; ``TimeoutError`` or ``aiohttp.ClientError`` if there is
        none.
        """
        session = self._session or self._open()
        async with session.post(self._url, data=content, allow_redirects=False) as response:
            return Reply(response.status, response.headers, await response.read())

    async def aclose(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        named = {name.lower() for name, value in os.environ.items() if value}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._at_once),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=not named.isdisjoint(PROXIES),  # looking proxies up costs every request
        )
        return self._session
