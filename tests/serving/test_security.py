"""Who may ask, how much, what is signed, and what is written down of it."""

import asyncio
import json
import logging
import stat
from pathlib import Path

import aiohttp
import httpx
import pytest

from reward_harness.rewards.base import conversation_of
from reward_harness.rm.artifact import write_artifact
from reward_harness.rm.package import rubric_artifact, rubric_runtime
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import Endpoint, SearchConfig
from reward_harness.serving.app import create_app
from reward_harness.serving.audit import AuditLine, AuditLog
from reward_harness.serving.settings import Limits, ServerSettings
from reward_harness.serving.signing import content_hash, sign, verify
from reward_harness.serving.source import Source
from tests.llm.simulator import Simulator
from tests.serving.conftest import server_log, server_process

KEY = "server-key-sesame"
JUDGE_KEY = "sk-simulated-key"
TEXT = "The response text that no log may hold: Paris."


def client_of(artifact: Path, settings: ServerSettings) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(Source(artifact), settings))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def ask(text: str = TEXT, **more) -> dict:
    return {"prompt": "capital of France?", "candidate": {"text": text}, **more}


async def test_every_route_but_health_wants_the_key(make_artifact):
    app = create_app(Source(make_artifact("a", shared="Paris")), ServerSettings(key=KEY))
    paths = {path: set(methods) for path, methods in app.openapi()["paths"].items()}
    assert len(paths) > 10 and "/healthz" in paths
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path, methods in {**paths, "/openapi.json": {"get"}, "/nowhere": {"get"}}.items():
            for method in {*methods, "post", "put", "delete", "options", "head"}:
                for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}):
                    response = await client.request(method, path, json={}, headers=headers)
                    open_to_all = path == "/healthz"
                    assert (response.status_code == 401) is not open_to_all, (method, path)
                    if method != "head" and not open_to_all:
                        assert response.json()["error"]["code"] == "unauthorized"


async def test_a_failure_is_in_the_openai_envelope_with_the_request_id(make_artifact):
    client = client_of(make_artifact("a", shared="Paris"), ServerSettings())
    headers = {"X-Request-Id": "mine-7"}
    response = await client.post("/score", json={"prompt": 3}, headers=headers)
    body = response.json()
    assert response.status_code == 422
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["error"]["type"] == "invalid_request_error"
    assert (body["detail"]["request_id"], response.headers["x-request-id"]) == ("mine-7", "mine-7")


async def test_scores_are_signed_where_there_is_a_key_to_sign_with(make_artifact):
    artifact = make_artifact("a", shared="Paris")
    unsigned = (await client_of(artifact, ServerSettings()).post("/score", json=ask())).json()
    assert "signature" not in unsigned
    client = client_of(artifact, ServerSettings(sign_key="seal"))
    one = (await client.post("/score", json=ask())).json()
    content = content_hash(conversation_of("capital of France?", TEXT))
    told = (one["request_id"], one["digest"], content, one["score"])
    assert one["signature"] == sign("seal", *told)
    assert verify(one["signature"], "seal", *told)
    for forged in [
        ("other", *told),
        ("seal", "another-request", *told[1:]),
        ("seal", told[0], "0" * 64, *told[2:]),
        ("seal", *told[:2], content_hash(conversation_of("?", TEXT)), told[3]),
        ("seal", *told[:3], 0.0),
    ]:
        assert not verify(one["signature"], *forged)
    batch = (await client.post("/batch_score", json={"items": [ask(), ask("Rome"), 3]})).json()
    assert batch["results"][0]["signature"] == sign("seal", batch["request_id"], *told[1:])
    assert "signature" in batch["results"][1] and "signature" not in batch["results"][2]


def test_a_flood_is_429_and_a_trainer_that_gives_up_at_4xx_gets_503(make_artifact, tmp_path):
    async def flood() -> None:
        source = Source(make_artifact("a", shared="Paris"))
        go = asyncio.Event()
        score = source.current.scorer.score

        async def held(items):
            await go.wait()
            return await score(items)

        source.current.scorer.score = held
        app = create_app(source, ServerSettings(limits=Limits(in_flight=4)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = [asyncio.create_task(client.post("/score", json=ask())) for _ in range(4)]
            await asyncio.sleep(0.1)
            rest = [await client.post("/score", json=ask()) for _ in range(8)]
            assert {(r.status_code, r.headers["retry-after"]) for r in rest} == {(429, "1")}
            assert {r.json()["error"]["code"] for r in rest} == {"overloaded"}
            for route in ("/classify", "/v1/embeddings", "/get_reward"):
                response = await client.post(route, json={"input": "x", "query": ["x"]})
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert (await client.get("/healthz")).status_code == 200
            go.set()
            assert [(await task).json()["score"] for task in first] == [1.0] * 4

    asyncio.run(flood())


async def test_a_body_that_never_ends_is_408(make_artifact):
    settings = ServerSettings(limits=Limits(read_s=0.1))
    client = client_of(make_artifact("a", shared="Paris"), settings)

    async def slow():
        yield b'{"prompt": '
        await asyncio.sleep(5)
        yield b"3}"

    response = await client.post("/score", content=slow())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "body_too_slow")


def test_the_audit_log_rotates_and_is_its_owners_only(tmp_path: Path):
    path = tmp_path / "log" / "requests.jsonl"
    log = AuditLog(path, max_bytes=2000)
    for number in range(200):
        log.write(AuditLine(f"r{number}", "/score", "rm-1", "p" * 999, 1.0, 200, None))
    log.close()
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["requests.jsonl", *(f"requests.jsonl.{age}" for age in range(1, 6))]
    assert all(p.stat().st_size < 2600 for p in path.parent.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["request_id"] == "r199" and len(lines[-1]["prompt_id"]) == 200
    older = json.loads((path.parent / "requests.jsonl.1").read_text().splitlines()[-1])
    assert int(older["request_id"][1:]) == int(lines[0]["request_id"][1:]) - 1


def test_a_full_disk_costs_lines_and_not_answers(tmp_path: Path, caplog):
    log = AuditLog(Path("/dev/full"))
    for _ in range(3):
        log.write(AuditLine("r", "/score", None, None, 1.0, 200, None))
    assert [r.getMessage() for r in caplog.records] == [
        "audit log /dev/full: lines are lost: No space left on device"
    ]


async def test_bodies_are_kept_only_where_that_was_asked(make_artifact, tmp_path: Path):
    artifact, log = make_artifact("a", shared="Paris"), tmp_path / "asked.jsonl"
    client = client_of(artifact, ServerSettings(audit_log=log, audit_bodies=True))
    await client.post("/score", json=ask())
    assert json.loads(json.loads(log.read_text())["body"])["candidate"]["text"] == TEXT


async def test_an_unexpected_error_is_logged_without_its_message(make_artifact, caplog):
    source = Source(make_artifact("a", shared="Paris"))
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(source)), base_url="http://test"
    )

    def broken(items, batch_size=32):
        raise ValueError(f"cannot read {items[0].conversation[-1]['content']}")

    source.current.scorer.rm.score_items = broken
    with caplog.at_level(logging.INFO):
        response = await client.post("/score", json=ask())
    assert response.status_code == 502
    assert "ValueError" in caplog.text and "test_security.py" in caplog.text
    assert TEXT not in caplog.text

    def worse():
        raise RuntimeError(TEXT)

    source.lease = worse
    with caplog.at_level(logging.INFO):
        response = await client.post("/score", json=ask())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "RuntimeError" in caplog.text and TEXT not in caplog.text + response.text


@pytest.fixture
def judged(monkeypatch, tmp_path: Path):
    """A simulated judge and an artifact that is graded by it."""
    monkeypatch.setenv("JUDGE_KEY", JUDGE_KEY)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    with Simulator() as simulator:
        endpoint = Endpoint(
            base_url=simulator.url, api_key_env="JUDGE_KEY", model="judge-1", max_retries=0, timeout_s=1.0
        )  # fmt: skip
        criterion = Criterion(criterion_id="c", text="mentions Paris")
        rubric = Rubric(rubric_id="r", criteria=(criterion,), scale="binary")
        search = SearchConfig(backend="openai", endpoint=endpoint)
        artifact = rubric_artifact({"__shared__": rubric}, rubric_runtime(search, 7, None), {})
        write_artifact(artifact, tmp_path / "judged")
        yield simulator, tmp_path / "judged"


def lines_of(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_judge_that_fails_reaches_the_caller_as_an_error_and_the_log_says_so(judged, tmp_path):
    simulator, artifact = judged
    log = tmp_path / "requests.jsonl"
    arguments = ["--artifact", str(artifact), "--request-log-path", str(log)]
    faults = {
        "silent_rate": "no answer in time",
        "error_rate": "429 or 503",
        "cut_rate": "half a JSON text",
        "broken_rate": "prose instead of grades",
    }
    with (
        server_process(tmp_path, *arguments, JUDGE_KEY=JUDGE_KEY) as (record, process),
        httpx.Client(base_url=record.url, timeout=30) as client,
    ):
        mixed = {"items": [ask("Paris, at first"), ask("Rome")]}
        good = client.post("/batch_score", json=mixed).json()["results"]
        assert [entry["score"] for entry in good] == [1.0, 0.0]
        for number, fault in enumerate(faults):
            setattr(simulator, fault, 1.0)
            text = f"{TEXT} {number}"  # not known to the verdict store
            single = client.post("/score", json=ask(text))
            assert single.status_code == 503, (fault, single.text)
            assert "score" not in single.json()
            batch = client.post("/batch_score", json={"items": [ask(text), 3]}).json()
            first = batch["results"][0]
            assert (first["ok"], first["retriable"], "score" in first) == (False, True, False)
            assert (
                client.post("/get_reward", json={"query": [text], "prompts": ["?"]}).status_code
                == 503
            )
            assert client.post("/predict", json={"inputs": text}).status_code == 503
            setattr(simulator, fault, 0.0)
        process.terminate()
        process.wait(20)  # a line is written after its answer was sent
        told = server_log(tmp_path)
    failed = lines_of(log)[1:]
    assert [line["status"] for line in failed] == [503, 200, 503, 503] * len(faults)
    assert {line["error_code"] for line in failed} == {"scoring_failed"}
    for secret in (TEXT, JUDGE_KEY):
        assert secret not in log.read_text() + told


def test_an_endpoint_that_was_away_is_asked_again_after_a_while(judged, monkeypatch):
    simulator, artifact = judged
    monkeypatch.setattr("reward_harness.llm.circuit.COOL_DOWN_S", 0.5)

    async def outage() -> list[int]:
        client = client_of(artifact, ServerSettings())
        simulator.error_rate = 1.0
        found = [
            (await client.post("/score", json=ask(f"Paris {n}"))).status_code for n in range(12)
        ]
        asked = simulator.received
        assert asked < 12  # it is left alone for a while
        simulator.error_rate = 0.0
        await asyncio.sleep(0.6)
        return [*found, (await client.post("/score", json=ask("Paris again"))).status_code]

    assert asyncio.run(outage()) == [503] * 12 + [200]


def test_a_spent_budget_is_503_and_what_was_paid_for_is_still_served(judged, tmp_path):
    simulator, artifact = judged
    log = tmp_path / "requests.jsonl"
    arguments = [
        "--artifact",
        str(artifact),
        "--request-log-path",
        str(log),
        "--max-llm-calls",
        "2",
    ]
    with (
        server_process(tmp_path, *arguments, JUDGE_KEY=JUDGE_KEY, HARNESS_SERVER_KEY=KEY) as (
            record,
            process,
        ),
        httpx.Client(base_url=record.url, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        paid = [client.post("/score", json=ask(text)) for text in ("Paris one", "Rome one")]
        assert [r.json()["score"] for r in paid] == [1.0, 0.0]
        refused = client.post("/score", json=ask("Paris two"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "spend_cap")
        assert client.post("/score", json=ask("Paris one")).json()["score"] == 1.0
        items = [ask("Rome one"), ask("Paris three"), ask("Paris one")]
        batch = client.post("/batch_score", json={"items": items}).json()["results"]
        assert [entry.get("score") for entry in batch] == [0.0, None, 1.0]
        assert (batch[1]["error_code"], batch[1]["retriable"]) == ("spend_cap", False)
        process.terminate()
        process.wait(20)
        told = server_log(tmp_path)
    assert simulator.answered == 2
    assert [line["error_code"] for line in lines_of(log)] == [
        None, None, "spend_cap", None, "spend_cap",
    ]  # fmt: skip
    for secret in (KEY, JUDGE_KEY, "Paris"):
        assert secret not in log.read_text() + told


def test_a_judge_that_refuses_the_key_is_an_error_without_the_key(judged, tmp_path):
    _, artifact = judged
    with server_process(tmp_path, "--artifact", str(artifact), JUDGE_KEY="sk-wrong-key") as (
        record,
        _,
    ):
        response = httpx.post(f"{record.url}/score", json=ask())
    assert (response.status_code, response.json()["error"]["code"]) == (502, "judge_refused")
    assert "sk-wrong-key" not in response.text


def test_too_large_a_body_is_413_over_the_wire_and_the_connection_lives(make_artifact, tmp_path):
    artifact = make_artifact("a", shared="Paris")

    async def try_sizes(url: str) -> list[int]:
        async with aiohttp.ClientSession(url) as session:
            found = []
            for size in (10, 3 * 2**20, 10):
                async with session.post("/score", json=ask("x" * size)) as response:
                    found.append(response.status)
            return found

    arguments = ["--artifact", str(artifact), "--max-body-mib", "1"]
    with server_process(tmp_path, *arguments) as (record, _):
        assert asyncio.run(try_sizes(record.url)) == [200, 413, 200]
