"""What the gateway costs: requests a second and latency at zero endpoint latency, beside what it is
made of.

    python -m benchmarks.gateway

The endpoint is a bare aiohttp server in a process of its own, whose every answer is the same. Four
clients send the same grading request to it from one thread: the gateway, httpx with the gateway's
transport, httpx with its own, and aiohttp without httpx, which is the floor. ``requests_per_s`` is
by the wall clock (the server and everything else on the machine share it);
``requests_per_cpu_s`` counts the client's own processor time only.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import aiohttp
import httpx
import orjson
from aiohttp import web
from httpx_aiohttp import AiohttpTransport

from benchmarks.recording import keep, machine
from reward_harness.llm.gateway import Gateway
from reward_harness.sections import Endpoint

KEY_VARIABLE = "GATEWAY_BENCHMARK_KEY"
IN_FLIGHT = (64, 512)
SECONDS = 2.0
SECONDS_SLOW = 1.0
MESSAGES = [
    {"role": "system", "content": "You assign grades. " * 40},
    {"role": "user", "content": json.dumps({"prompt": "why? " * 50, "candidate": "so. " * 300})},
]
REPLY = orjson.dumps(
    {
        "id": "x",
        "choices": [{"message": {"role": "assistant", "content": '{"grades": {"c1": 1}}'}}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 20},
    }
)
Send = Callable[[], Awaitable[object]]


def serve(told: Connection) -> None:
    """Answer every request at once, for as long as the parent lives; tells its port."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=REPLY, content_type="application/json")

    async def run() -> None:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


async def load(send: Send, in_flight: int, seconds: float) -> dict[str, float]:
    """Keep ``in_flight`` requests under way for ``seconds``, after a first round that warms up."""
    await asyncio.gather(*(send() for _ in range(in_flight)))
    latencies: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()

    async def worker() -> None:
        while (begun := time.perf_counter()) < start + seconds:
            await send()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    latencies.sort()
    return {
        "requests_per_s": round(len(latencies) / wall),
        "requests_per_cpu_s": round(len(latencies) / cpu),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
        "p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 1),
    }


async def with_gateway(url: str, in_flight: int) -> dict[str, float]:
    """The gateway, as the roles use it."""
    endpoint = Endpoint(base_url=url, api_key_env=KEY_VARIABLE, model="m", concurrency=in_flight)
    gateway = Gateway(endpoint)
    try:
        return await load(lambda: gateway.chat("verifier", MESSAGES), in_flight, SECONDS)
    finally:
        await gateway.aclose()


async def with_httpx(
    url: str, in_flight: int, transport: httpx.AsyncBaseTransport | None, seconds: float
) -> dict[str, float]:
    """httpx alone, with ``transport`` or its own."""
    limits = httpx.Limits(max_connections=in_flight)
    async with httpx.AsyncClient(transport=transport, limits=limits, timeout=60.0) as client:

        async def send() -> str:
            body = {"model": "m", "messages": MESSAGES, "temperature": 0.0}
            response = await client.post(f"{url}/chat/completions", json=body)
            return response.json()["choices"][0]["message"]["content"]

        return await load(send, in_flight, seconds)


async def with_aiohttp(url: str, in_flight: int) -> dict[str, float]:
    """aiohttp alone: the floor."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def send() -> str:
            body = {"model": "m", "messages": MESSAGES, "temperature": 0.0}
            headers = {"Content-Type": "application/json"}
            where = f"{url}/chat/completions"
            async with session.post(where, data=orjson.dumps(body), headers=headers) as response:
                return orjson.loads(await response.read())["choices"][0]["message"]["content"]

        return await load(send, in_flight, SECONDS)


def measure(url: str) -> dict[str, dict[str, dict[str, float]]]:
    """Every client at every number in flight."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in IN_FLIGHT:
        transport = AiohttpTransport(limits=httpx.Limits(max_connections=n))
        found[f"in_flight_{n}"] = {
            "gateway": asyncio.run(with_gateway(url, n)),
            "httpx_with_aiohttp": asyncio.run(with_httpx(url, n, transport, SECONDS)),
            "httpx_default": asyncio.run(with_httpx(url, n, None, SECONDS_SLOW)),
            "aiohttp": asyncio.run(with_aiohttp(url, n)),
        }
    return found


def main() -> None:
    """Measure, print and keep the result."""
    os.environ[KEY_VARIABLE] = "sk-benchmark"
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        found = measure(f"http://127.0.0.1:{here.recv()}/v1")
    finally:
        server.terminate()
    versions = {"httpx": httpx.__version__, "aiohttp": aiohttp.__version__}
    keep("gateway", {**machine(), **versions, **found})


if __name__ == "__main__":
    main()
