"""A local OpenAI-compatible endpoint that plays all four roles, over real HTTP on loopback.

    with Simulator() as endpoint: ... endpoint.url, endpoint.key ... assert
    endpoint.repeated() == []

It tells the roles apart by the key phrases of their system texts. Its world: a response is good
by the ``liked`` words it contains, a criterion "mentions WORD" holds where the word occurs, and
the proposer adds such criteria from ``vocabulary``. ``latency_s``, ``error_rate`` (429 and 503
by turns), ``silent_rate`` (no answer at all), ``cut_rate`` (the HTTP body is half of a JSON
text, unpaid), ``broken_rate`` (replies that are no JSON), ``hold_after`` (answer so many requests,
then answer none), ``down_after`` (then 503 only), ``told`` (status and headers of the next replies)
make it a bad endpoint. A request counts as paid
once it was answered with 200. ``latest`` has the last request of each connection: a client that
uses a connection again has read what it got there before, so of a client that was killed these
are all the requests whose answers it may not have kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MENTION = re.compile(r"mentions (\w+)")
PHRASES = {
    "initializer": "rubric designer",
    "proposer": "mutate rubrics",
    "judge": "compare two responses",
    "verifier": "grades",
}


@dataclass
class Simulator:
    key: str = "sk-simulated-key"
    liked: tuple[str, ...] = ("because", "example", "limit")
    vocabulary: tuple[str, ...] = (
        "because",
        "example",
        "limit",
        "blue",
        "seven",
        "note",
        "river",
        "stone",
    )
    latency_s: float = 0.0
    error_rate: float = 0.0
    broken_rate: float = 0.0
    silent_rate: float = 0.0
    cut_rate: float = 0.0
    hold_after: int | None = None
    down_after: int | None = None
    told: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    chatty: bool = False
    cost: object = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    latest: dict[int, str] = field(default_factory=dict)
    received: int = 0
    in_flight: int = 0
    max_in_flight: int = 0

    def __enter__(self) -> Simulator:
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self.add_routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        ready.set()
        self._loop.run_forever()

    def add_routes(self, app: web.Application) -> None:
        """Further addresses of an endpoint that extends this one."""

    async def _stop(self) -> None:
        self._released.set()
        await self._runner.cleanup()

    def release(self) -> None:
        """Answer again after ``hold_after``."""
        self.hold_after = None
        self._loop.call_soon_threadsafe(self._released.set)

    def repeated(self) -> list[str]:
        """Digests of requests that were paid for more than once."""
        return [digest for digest, n in self.paid.items() if n > 1]

    @property
    def answered(self) -> int:
        return sum(self.paid.values())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return await self._reply(request)
        finally:
            self.in_flight -= 1

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.received += 1
        self.bodies.append(body)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.latest[id(request.transport)] = digest
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            told = request.headers.get("Authorization", "")
            return web.json_response(
                {"error": {"message": f"Incorrect API key: {told}"}}, status=401
            )
        if self.hold_after is not None and self.answered >= self.hold_after:
            await self._released.wait()
            return web.Response(status=503)
        if self.told:
            status, headers = self.told.pop(0)
            return web.Response(status=status, headers=headers, text="told")
        if self.down_after is not None and self.answered >= self.down_after:
            return web.Response(status=503)
        if self._chance(f"error{self.received}") < self.error_rate:
            if self.received % 2:
                return web.Response(status=429, headers={"Retry-After": "0.01"})
            return web.Response(status=503)
        if self._chance(f"silent{self.received}") < self.silent_rate:
            await self._released.wait()
            return web.Response(status=503)
        if self._chance(f"cut{self.received}") < self.cut_rate:
            return web.Response(text='{"choices": [{"message": {"con')
        role = role_of(body)
        self.roles[role] += 1
        content = self.play(role, body)
        if self._chance(f"broken{self.received}") < self.broken_rate:
            content = "I would rather describe it in prose."
        self.paid[digest] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        usage = {"prompt_tokens": 10, "completion_tokens": 5} | (
            {"cost": self.cost} if self.cost else {}
        )
        return web.json_response(
            {
                "id": digest[:8],
                "choices": [{"message": {"role": "assistant", "content": content}}],
                "usage": usage,
            }
        )

    def _chance(self, name: str) -> float:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32

    def play(self, role: str, body: dict[str, Any]) -> str:
        """The reply of one role, a function of the question alone: a repair changes nothing."""
        question = [body["messages"][:2], body.get("seed")]
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        user = json.loads(body["messages"][1]["content"])
        reply = getattr(self, f"_{role}")(user, int(digest[:8], 16))
        text = json.dumps(reply)
        return f"Let me think about {{this}}.\n```json\n{text}\n```\nDone." if self.chatty else text

    def worth(self, text: str) -> float:
        """The true quality of a response."""
        return sum(word in text for word in self.liked)

    def _judge(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        left, right = self.worth(user["left"]), self.worth(user["right"])
        return {"preference": (left > right) - (left < right)}

    def _verifier(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        grades = {}
        for criterion in user["criteria"]:
            wanted = MENTION.search(criterion["text"])
            grades[criterion["criterion_id"]] = float(
                bool(wanted and wanted.group(1) in user["candidate"])
            )
        return {"reason": "counted", "grades": grades}

    def _initializer(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        decoys = [w for w in self.vocabulary if w not in self.liked]
        words = [decoys[seed % len(decoys)], decoys[(seed // 7 + 1) % len(decoys)]]
        return {
            "criteria": [
                {"text": f"The response mentions {w}.", "weight": 1} for w in dict.fromkeys(words)
            ]
        }

    def _proposer(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        criteria = [
            {"text": c["text"], "weight": c["weight"], "polarity": c["polarity"]}
            for c in user["current_rubric"]["criteria"]
        ]
        word = self.vocabulary[seed % len(self.vocabulary)]
        criteria.append({"text": f"The response mentions {word}.", "weight": 1 + seed % 3})
        if len(criteria) > 5:
            criteria.pop(seed // 11 % 5)
        return {"criteria": criteria}


def role_of(body: dict[str, Any]) -> str:
    """The role whose key phrase the system text has; exactly one must match."""
    system = body["messages"][0]["content"]
    found = [role for role, phrase in PHRASES.items() if phrase in system]
    if len(found) != 1:
        raise ValueError(f"system text fits {found}")
    return found[0]
