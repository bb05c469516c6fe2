"""Ten thousand malformed requests: whatever comes in, the server answers 4xx, lives on and stays small."""

import asyncio
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from tests.serving.conftest import server_log, server_process

RAW_REQUESTS = 4_000
BODIES = 6_000
IN_FLIGHT = 16
ROUTES = [
    "/score", "/batch_score", "/classify", "/pooling", "/rerank", "/predict", "/get_reward",
    "/v1/embeddings", "/v1/score/evaluation",
]  # fmt: skip
GOOD = (
    b'{"prompt": "capital of France?", "candidate": {"text": "Paris"}, "items": [{"prompt": "?"}],'
    b' "query": ["q"], "prompts": ["p"], "inputs": "x", "input": ["a"], "text_1": "a", "text_2": ["b"],'
    b' "documents": ["d"], "texts": ["t"], "messages": ["m"], "model": "rm"}'
)
VALUES = [
    b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"[[[[[[[[[[]]]]]]]]]]",
    b"0" * 400, b"\xff\xfe", b"\x00", b'{"role": 7}', b"[" * 5000, b'{"a":' * 2000, b'[{"role": "user"}]', b"1" * 5000,
]  # fmt: skip
HEADERS = [
    {}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Encoding": "gzip"}, {"X-Request-Id": "x" * 500}, {"Authorization": "Basic !!!"}, {"Accept": "\u00ff"},
]  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """A body that is nearly right: bytes changed, cut, doubled, or values replaced by odd ones."""
    body = bytearray(GOOD)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(5):
            case 0:
                body[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del body[at : at + rng.randint(1, 40)]
            case 2:
                body[at:at] = body[max(0, at - rng.randint(1, 30)) : at]
            case 3:
                body[at : at + rng.randint(0, 12)] = rng.choice(VALUES)
            case _:
                colon = body.find(b": ", at) + 2
                end = min(
                    (e for e in (body.find(b",", colon), body.find(b"}", colon)) if e > 0),
                    default=colon,
                )
                body[colon:end] = rng.choice(VALUES)
    return bytes(body)


def raw_bytes(rng: random.Random) -> bytes:
    """Something sent to a port that speaks HTTP: noise, or a request with one part broken."""
    body = mutated(rng)
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randint(1, 400))
        case 1:
            return (
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: "
                + rng.choice([b"-5", b"abc", b"9" * 30])
                + b"\r\n\r\n"
                + body
            )
        case 2:
            return (
                b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                + rng.choice([b"zz\r\n", b"5\r\nab\r\n0\r\n\r\n", b"fffffffffff\r\n"])
            )
        case 3:
            return (
                b"GET /"
                + rng.randbytes(rng.randint(1, 60)).replace(b" ", b"")
                + b" HTTP/1.1\r\nHost: x\r\n\r\n"
            )
        case 4:
            head = (
                b"POST /batch_score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % len(body)
            )
            return head + body[: rng.randrange(len(body) + 1)]
        case _:
            return (
                b"A" * rng.randint(1, 3)
                + b"POST /score HTTP/9.9\r\n"
                + b"X: "
                + b"y" * rng.choice([1, 70_000])
                + b"\r\n\r\n"
            )


async def send_bodies(url: str, seed: int, number: int = BODIES) -> Counter[int]:
    rng = random.Random(seed)
    found: Counter[int] = Counter()
    work = [(rng.choice(ROUTES), mutated(rng), rng.choice(HEADERS)) for _ in range(number)]

    async with aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=IN_FLIGHT)
    ) as session:

        async def one(route: str, body: bytes, headers: dict[str, str]) -> None:
            told = {"Content-Type": "application/json", **headers}
            async with session.post(route, data=body, headers=told) as response:
                found[response.status] += 1
                text = await response.text()
                if response.status >= 400:
                    assert '"error"' in text or '"detail"' in text, (route, text[:200])

        for start in range(0, len(work), 200):
            await asyncio.gather(*(one(*item) for item in work[start : start + 200]))
    return found


async def send_raw(port: int, seed: int) -> Counter[int]:
    rng = random.Random(seed)
    found: Counter[int] = Counter()
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(data: bytes) -> None:
        async with slots:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(65536), 20)
                line = answer.split(b"\r\n", 1)[0].split()
                found[int(line[1]) if len(line) > 1 and line[1].isdigit() else 0] += 1
            except OSError:
                found[0] += 1  # refused as no HTTP at all
            finally:
                writer.close()

    for _ in range(RAW_REQUESTS // 200):
        await asyncio.gather(*(one(raw_bytes(rng)) for _ in range(200)))
    return found


@pytest.mark.slow
def test_ten_thousand_malformed_requests_are_4xx_and_leave_the_server_as_it_was(
    make_artifact, tmp_path: Path
):
    log = tmp_path / "requests.jsonl"
    arguments = [
        "--artifact",
        str(make_artifact("a", shared="Paris")),
        "--request-log-path",
        str(log),
    ]
    with server_process(tmp_path, *arguments) as (record, process):
        server = psutil.Process(process.pid)
        asyncio.run(send_bodies(record.url, seed=1, number=1_000))
        before = server.memory_info().rss
        bodies = asyncio.run(send_bodies(record.url, seed=2))
        raw = asyncio.run(send_raw(record.port, seed=3))
        after = server.memory_info().rss
        assert not [status for status in {*bodies, *raw} if status >= 500], (bodies, raw)
        assert bodies.total() == BODIES and raw.total() == RAW_REQUESTS
        assert (
            bodies[422] + bodies[400] > BODIES / 2 and bodies[200] > 0
        )  # some mutations are harmless
        assert after <= 1.10 * before, (before, after)
        good = {"prompt": "?", "candidate": {"text": "Paris"}}
        assert httpx.post(f"{record.url}/score", json=good).json()["score"] == 1.0
        assert process.poll() is None
    assert server_log(tmp_path) == ""


@pytest.mark.slow
def test_the_openapi_document_finds_no_server_error(make_artifact, tmp_path: Path):
    arguments = ["--artifact", str(make_artifact("a", shared="Paris"))]
    with server_process(tmp_path, *arguments) as (record, process):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{record.url}/openapi.json",
            "--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", "10",
            "--generation-deterministic", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=os.environ
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert generated and generated[1] == generated[2] and int(generated[1]) > 1000
        assert httpx.get(f"{record.url}/healthz").status_code == 200
        assert process.poll() is None
