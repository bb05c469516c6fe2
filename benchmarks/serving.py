"""What the scoring server gives: items and requests a second, latency, beside what it is made of.

    python -m benchmarks.serving [--seconds 3] [--rounds 5] [--classifier-items 512]

Every server is a process of its own on loopback, pinned to one core; the load comes from a process
on another. ``programmatic``: a rubric of three checks, in batches of 64 and one by one, beside a
plain FastAPI application with ``def`` endpoints and pydantic models that calls the same reward.
``classifier``: all-MiniLM-L6-v2 under 64 concurrent clients with texts of mixed lengths, beside the
same model called directly (sorted by length, packed by tokens) and one forward pass for each text.
Each figure is the median over the rounds, kept with the machine in ``results/serving.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmarks.recording import keep, machine
from reward_harness.model_spec import ModelSpec
from reward_harness.rewards.base import conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import RubricRuntime, Scaling, write_artifact
from reward_harness.rm.package import describe_classifier, rubric_artifact
from reward_harness.rubrics.checks import Check, Regex, WordCount
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.workspace import Workspace

CLIENTS = 64
BATCH = 64
START_TIMEOUT_S = 180.0
PROMPT = "Why is the sky blue?"
TEXT = "Air scatters blue light more than red, because blue waves are shorter. " * 4
Send = Callable[[], Awaitable[object]]
Figures = dict[str, float]


def programmatic(folder: Path) -> Path:
    """An artifact of three programmatic criteria."""
    checks: dict[str, Check] = {
        "names": Regex(pattern=r"\b(blue|red)\b"),
        "length": WordCount(min_words=5, max_words=150),
        "hedges": Regex(pattern=r"\bI think\b"),
    }
    criteria = tuple(
        Criterion(criterion_id=name, text=name, kind="programmatic", check=check)
        for name, check in checks.items()
    )
    runtime = RubricRuntime(backend="heuristic", locale="en", endpoint=None, votes=1, seed=7)
    rubric = Rubric(rubric_id="bench", criteria=criteria)
    write_artifact(rubric_artifact({"__shared__": rubric}, runtime, {}), folder)
    return folder


def classifier(folder: Path) -> Path:
    """An artifact of the embedded encoder with a small random head."""
    import torch

    from reward_harness.models.folders import model_folder
    from reward_harness.models.reward_head import RewardModel

    spec = ModelSpec(source="package", name="all-minilm-l6-v2")
    backbone = model_folder(spec, Workspace.discover().cache)
    model = RewardModel.from_backbone(backbone, max_length=512)
    torch.manual_seed(7)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    model.save(folder / "model")
    write_artifact(describe_classifier(folder / "model", Scaling()), folder)
    return folder


def plain_app(artifact: str) -> Any:
    """What one would write in ten lines: FastAPI, pydantic, ``def`` endpoints, the same reward."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    rm = load_rm(Path(artifact))

    class Candidate(BaseModel):
        text: str

    class Body(BaseModel):
        prompt: str
        candidate: Candidate

    class Batch(BaseModel):
        items: list[Body]

    app = FastAPI()

    # the annotations are local classes, which FastAPI cannot find by name
    def score(body: Any) -> dict[str, Any]:
        return {"score": rm.score(conversation_of(body.prompt, body.candidate.text))}

    def batch_score(body: Any) -> dict[str, Any]:
        chats = [conversation_of(item.prompt, item.candidate.text) for item in body.items]
        return {"results": [{"score": value} for value in rm.score_batch(chats)]}

    score.__annotations__["body"], batch_score.__annotations__["body"] = Body, Batch
    app.post("/score")(score)
    app.post("/batch_score")(batch_score)
    return app


@contextmanager
def serving(command: list[str], core: int) -> Iterator[str]:
    """Run a server on a free port and one core until the block ends; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(port)], env=environment, stdout=subprocess.DEVNULL)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {core})
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {command}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ours(artifact: Path) -> list[str]:
    """Our server's command, to which the port is added."""
    return [sys.executable, "-m", "reward_harness.rm.server", "--artifact", str(artifact), "--port"]


def plain(artifact: Path) -> list[str]:
    """The plain application's command."""
    return [sys.executable, "-m", "benchmarks.serving", "--plain", str(artifact), "--port"]


async def load(send: Send, clients: int, seconds: float) -> Figures:
    """Keep ``clients`` requests under way for ``seconds``, after a round that warms up."""
    await asyncio.gather(*(send() for _ in range(clients)))
    latencies: list[float] = []
    start = time.perf_counter()

    async def client() -> None:
        while (begun := time.perf_counter()) < start + seconds:
            await send()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(clients)))
    return figures_of(latencies, time.perf_counter() - start)


def figures_of(latencies: list[float], wall: float) -> Figures:
    """Requests a second and percentiles of what each took, from seconds."""
    latencies = sorted(latencies)
    return {
        "requests_per_s": len(latencies) / wall,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


async def ask_each(url: str, bodies: list[bytes], clients: int) -> Figures:
    """Every body once, ``clients`` at a time, after a round that warms up: equal work for all."""
    headers = {"Content-Type": "application/json"}
    latencies: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:

        async def send(body: bytes) -> None:
            begun = time.perf_counter()
            async with session.post(f"{url}/score", data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            latencies.append(time.perf_counter() - begun)

        async def client(waiting: Iterator[bytes]) -> None:
            for body in waiting:
                await send(body)

        await asyncio.gather(*(send(body) for body in bodies[:8]))
        latencies.clear()
        start, waiting = time.perf_counter(), iter(bodies)
        await asyncio.gather(*(client(waiting) for _ in range(clients)))
        wall = time.perf_counter() - start
    return figures_of(latencies, wall)


async def ask(url: str, route: str, bodies: list[bytes], clients: int, seconds: float) -> Figures:
    """Load on one route; the bodies are sent in turn."""
    headers = {"Content-Type": "application/json"}
    turn = iter(range(2**60))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:

        async def send() -> None:
            body = bodies[next(turn) % len(bodies)]
            async with session.post(f"{url}{route}", data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()

        return await load(send, clients, seconds)


def item(text: str) -> dict[str, Any]:
    """One item of the native protocol."""
    return {"prompt": PROMPT, "candidate": {"text": text}}


def median_of(rounds: int, measure: Callable[[], Figures]) -> Figures:
    """Each figure's median."""
    found = [measure() for _ in range(rounds)]
    return {name: round(statistics.median(f[name] for f in found), 2) for name in found[0]}


def measure_programmatic(folder: Path, seconds: float, rounds: int) -> dict[str, Figures]:
    """Batches of 64 and single requests, ours and the plain application's."""
    artifact = programmatic(folder)
    batch, single = orjson.dumps({"items": [item(TEXT)] * BATCH}), orjson.dumps(item(TEXT))
    found: dict[str, Figures] = {}
    for name, command in (("ours", ours(artifact)), ("plain_fastapi", plain(artifact))):
        with serving(command, core=0) as url:
            for label, route, body, clients in (
                ("batches_of_64", "/batch_score", batch, 8),
                ("single", "/score", single, CLIENTS),
            ):

                def once(
                    url: str = url, r: str = route, b: bytes = body, n: int = clients
                ) -> Figures:
                    return asyncio.run(ask(url, r, [b], n, seconds))

                found[f"{name}_{label}"] = median_of(rounds, once)
        batches = found[f"{name}_batches_of_64"]
        batches["items_per_s"] = round(BATCH * batches["requests_per_s"], 1)
    return found


def measure_classifier(folder: Path, items: int, rounds: int) -> dict[str, Figures]:
    """The served classifier under 64 clients, the model itself, and one text at a time."""
    artifact = classifier(folder)
    rng = random.Random(7)
    words = TEXT.split()
    texts = [
        " ".join(rng.choice(words) for _ in range(int(rng.lognormvariate(3.2, 0.8)) + 3))
        for _ in range(items)
    ]
    found = median_of(rounds, lambda: _direct(artifact, texts))
    results: dict[str, Figures] = {"direct": found}
    bodies = [orjson.dumps(item(text)) for text in texts]
    for name, command in (("ours", ours(artifact)), ("plain_fastapi", plain(artifact))):
        with serving(command, core=0) as url:
            results[name] = median_of(
                rounds,
                lambda url=url: asyncio.run(ask_each(url, bodies, CLIENTS)),
            )
    ratio = results["ours"]["requests_per_s"]
    results["ratios"] = {
        "ours_to_raw_batched": round(ratio / found["raw_batched_per_s"], 3),
        "ours_to_one_by_one": round(ratio / found["one_by_one_per_s"], 3),
        "ours_to_plain_fastapi": round(ratio / results["plain_fastapi"]["requests_per_s"], 3),
        "p99_to_p50": round(results["ours"]["p99_ms"] / results["ours"]["p50_ms"], 2),
    }
    return results


def _direct(artifact: Path, texts: list[str]) -> Figures:
    """The model in a process on one core, without a server; texts a second."""
    command = [sys.executable, "-m", "benchmarks.serving", "--direct", str(artifact)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = json.dumps(texts)
    done = subprocess.run(
        command, input=told, capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout)


def direct(artifact: Path) -> None:
    """Score the texts on standard input at once, then one by one; run by ``_direct``."""
    texts = json.loads(sys.stdin.read())
    rm = load_rm(artifact)
    chats = [conversation_of(PROMPT, text) for text in texts]
    rm.score_batch(chats[:8])
    start = time.perf_counter()
    rm.score_batch(chats)
    batched = time.perf_counter() - start
    start = time.perf_counter()
    for chat in chats:
        rm.score_batch([chat])
    single = time.perf_counter() - start
    found = {
        "raw_batched_per_s": len(chats) / batched,
        "one_by_one_per_s": len(chats) / single,
    }
    sys.stdout.write(json.dumps(found))


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classifier-items", type=int, default=512)
    parser.add_argument("--plain")
    parser.add_argument("--direct", type=Path)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.plain:
        import uvicorn

        uvicorn.run(plain_app(given.plain), port=given.port, log_level="error", access_log=False)
        return
    if given.direct:
        direct(given.direct)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = {
            "programmatic": measure_programmatic(root / "p", given.seconds, given.rounds),
            "classifier": measure_classifier(root / "c", given.classifier_items, given.rounds),
        }
    asked = {"rounds": given.rounds, "seconds": given.seconds}
    keep("serving", {**machine(), **asked, **found})


if __name__ == "__main__":
    main()
