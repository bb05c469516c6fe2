"""A deployment's life under load: swapped and rolled back while clients score, killed, started again."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from reward_harness.rm.artifact import read_artifact, verified_digest
from reward_harness.rm.deployments import Deployments
from reward_harness.workspace import Workspace
from tests.serving.conftest import server_process, write_word_artifact

CLIENTS = 64
SWAPS = 20
SWAP_TIMEOUT_S = 20.0


def word(number: int) -> str:
    return f"word{number}x"


@pytest.fixture
def artifacts(tmp_path: Path) -> list[Path]:
    """One artifact for each swap and one to begin with; number k gives 1.0 to ``word(k)`` only."""
    for number in range(SWAPS + 1):
        write_word_artifact(tmp_path / f"rm{number}", shared=word(number))
    return [tmp_path / f"rm{number}" for number in range(SWAPS + 1)]


@dataclass
class Load:
    """What the clients saw: answers by artifact number, and everything that was not as it must be."""

    numbers: dict[str, int]
    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    done: bool = False

    async def run(self, url: str) -> None:
        connector = aiohttp.TCPConnector(limit=CLIENTS)
        async with aiohttp.ClientSession(url, connector=connector) as session:
            await asyncio.gather(*(self._client(session, n) for n in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, place: int) -> None:
        asked = place
        while not self.done:
            asked += 1
            work = self._single if place % 2 else self._batch
            try:
                await work(session, asked % (SWAPS + 1))
            except (aiohttp.ClientError, KeyError, ValueError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    async def _single(self, session: aiohttp.ClientSession, number: int) -> None:
        body = {"prompt": "?", "candidate": {"text": word(number)}}
        async with session.post("/score", json=body) as response:
            answer = await response.json()
            served = self.numbers[answer["digest"]]
            if (response.headers["x-artifact-digest"], answer["score"]) != (
                answer["digest"],
                float(served == number),
            ):
                self.wrong.append(f"artifact {served} gave {word(number)} {answer['score']}")
            self.answers[served] += 1

    async def _batch(self, session: aiohttp.ClientSession, _: int) -> None:
        every = range(SWAPS + 1)
        items = [{"prompt": "?", "candidate": {"text": word(k)}} for k in every]
        async with session.post("/batch_score", json={"items": items}) as response:
            answer = await response.json()
            served = self.numbers[answer["digest"]]
            scores = [result["score"] for result in answer["results"]]
            if scores != [float(k == served) for k in every]:
                self.wrong.append(f"artifact {served} gave {scores}")
            self.answers[served] += 1


def until_served(client: httpx.Client, digest: str) -> None:
    deadline = time.monotonic() + SWAP_TIMEOUT_S
    while client.get("/version", timeout=10).json()["digest"] != digest:
        assert time.monotonic() < deadline, "not swapped in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_sixty_four_clients_score_through_twenty_swaps_and_a_rollback(artifacts, tmp_path: Path):
    dev = Deployments(Workspace(tmp_path), "dev")
    dev.deploy(artifacts[0])
    load = Load({verified_digest(p, read_artifact(p)): n for n, p in enumerate(artifacts)})
    with (
        server_process(tmp_path, "--target", "dev") as (record, process),
        httpx.Client(base_url=record.url) as client,
    ):
        clients = threading.Thread(target=lambda: asyncio.run(load.run(record.url)))
        clients.start()
        resident: list[int] = []
        try:
            for number in range(1, SWAPS + 1):
                manifest = dev.deploy(artifacts[number])
                until_served(client, manifest.artifact_digest)
                resident.append(psutil.Process(process.pid).memory_info().rss)
            back = dev.rollback()
            until_served(client, back.artifact_digest)
            time.sleep(0.3)
        finally:
            load.done = True
            clients.join(30)
    assert load.wrong == []
    assert load.numbers[back.artifact_digest] == SWAPS - 1
    assert set(load.answers) >= set(range(1, SWAPS)) and sum(load.answers.values()) > 500
    assert resident[-1] <= 1.10 * resident[1], resident


@pytest.mark.slow
def test_kill_9_of_the_server_during_swaps_leaves_a_pointer_that_the_next_one_serves(
    artifacts, tmp_path: Path
):
    dev = Deployments(Workspace(tmp_path), "dev")
    dev.deploy(artifacts[0])
    going = threading.Event()

    def deploy_on() -> None:
        number = 0
        while not going.is_set():
            number = (number + 1) % len(artifacts)
            dev.deploy(artifacts[number])
            time.sleep(0.05)

    with server_process(tmp_path, "--target", "dev") as (record, process):
        deployer = threading.Thread(target=deploy_on)
        deployer.start()
        time.sleep(1.0)
        process.kill()
        process.wait(20)
        going.set()
        deployer.join()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{record.url}/version")
    manifest = dev.current()
    with server_process(tmp_path, "--target", "dev") as (record, _):
        version = httpx.get(f"{record.url}/version").json()
        assert (version["digest"], version["deploy_id"]) == (
            manifest.artifact_digest,
            manifest.deploy_id,
        )
        back = dev.rollback()
        with httpx.Client(base_url=record.url) as client:
            until_served(client, back.artifact_digest)
