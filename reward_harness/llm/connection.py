"""HTTP to one endpoint: httpx requests and responses, straight on the aiohttp transport.

``httpx.AsyncClient`` parses the address, merges headers, keeps cookies and logs for every request:
more than half of a request's processor time. A gateway sends all its requests to one address with
the same headers and follows no redirect, so those are made once here (``benchmarks/gateway.py``).
"""

from __future__ import annotations

import httpx
from httpx_aiohttp import AiohttpTransport

from reward_harness.search_sections import Endpoint


class Connection:
    """A pool of connections, opened by the first request, in that request's event loop."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._url = httpx.URL(endpoint.base_url.rstrip("/") + "/chat/completions")
        self._headers = httpx.Headers(
            {
                "Host": self._url.netloc.decode("ascii"),
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
                "User-Agent": "reward-harness",
            }
        )
        self._timeout = httpx.Timeout(endpoint.timeout_s).as_dict()
        self._limits = httpx.Limits(max_connections=endpoint.concurrency)
        self._transport: AiohttpTransport | None = None

    async def post(self, content: bytes) -> httpx.Response:
        """The endpoint's whole response; an ``httpx.TransportError`` if there is none."""
        transport = self._transport
        if transport is None:
            transport = self._transport = AiohttpTransport(limits=self._limits)
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=content,
            extensions={"timeout": self._timeout},
        )
        response = await transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response

    async def aclose(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None
