"""The routes, over the ASGI interface: bodies, errors, limits, key, log."""

import base64
import json
from pathlib import Path

import httpx
import pytest

from reward_harness.errors import SpecError
from reward_harness.serving.app import create_app
from reward_harness.serving.settings import Limits, ServerSettings, authorized, require_safe_bind
from reward_harness.serving.source import Source


def client_of(
    artifact: Path, settings: ServerSettings | None = None, **options
) -> httpx.AsyncClient:
    app = create_app(Source(artifact), settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", **options)


@pytest.fixture
def client(make_artifact) -> httpx.AsyncClient:
    return client_of(make_artifact("a", shared="Paris"))


def ask(text: str, **more) -> dict:
    return {
        "prompt": "capital of France?",
        "candidate": {"text": text, "candidate_id": "c1"},
        **more,
    }


async def test_health_version_models_and_metrics(client):
    health = (await client.get("/healthz")).json()
    version = (await client.get("/version")).json()
    models = (await client.get("/v1/models")).json()
    assert health["status"] == "ok"
    assert health["source_session_id"] == "session-1"
    assert (health["schema_version"], health["rm_api_version"]) == ("1.0", "1.0")
    assert health["artifact_id"] == version["artifact_id"] == models["data"][0]["id"]
    assert len(version["digest"]) == 64
    await client.post("/score", json=ask("Paris"))
    await client.get("/nowhere")
    metrics = (await client.get("/metrics")).text
    assert 'harness_requests_total{endpoint="/score",status="200"} 1.0' in metrics
    assert 'harness_requests_total{endpoint="other",status="404"} 1.0' in metrics
    assert 'harness_items_total{result="scored"} 1.0' in metrics


async def test_score_has_every_field(client):
    body = (await client.post("/score", json=ask("Paris", prompt_id="p1"))).json()
    assert body["score"] == 1.0
    assert (body["prompt_id"], body["candidate_id"]) == ("p1", "c1")
    assert body["majority_grades"] == {"has": 1.0}
    assert body["vote_scores"] == [1.0]
    assert body["per_vote_grades"] == [{"has": 1.0}]
    assert body["variance"] == 0.0
    assert body["latency_ms"] > 0
    assert set(body) >= {"request_id", "artifact_id"}


async def test_a_prompt_may_be_turns_and_unknown_fields_are_ignored(client):
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "?"},
    ]
    response = await client.post(
        "/score", json={"prompt": turns, "candidate": {"text": "Paris", "rank": 3}, "x": 1}
    )
    assert response.json()["score"] == 1.0


async def test_a_score_of_zero_is_a_score(client):
    response = await client.post("/score", json=ask("Rome"))
    assert (response.status_code, response.json()["score"]) == (200, 0.0)


async def test_one_bad_item_never_fails_a_batch(client):
    items = [
        ask("Paris"),
        {"prompt": "?"},
        7,
        ask("Rome"),
        {**ask("x"), "prompt": [{"role": "robot", "content": "?"}]},
    ]
    response = await client.post("/batch_score", json={"items": items})
    results = response.json()["results"]
    assert response.status_code == 200
    assert [r["index"] for r in results] == [0, 1, 2, 3, 4]
    assert [r["ok"] for r in results] == [True, False, False, True, False]
    assert [r.get("score") for r in results] == [1.0, None, None, 0.0, None]
    assert [r.get("error_code") for r in results] == [
        None,
        "invalid_item",
        "invalid_item",
        None,
        "invalid_conversation",
    ]
    assert "candidate" in results[1]["error_message"]
    assert (await client.post("/batch_score", json={"items": []})).json()["results"] == []


async def test_prompt_ids_choose_rubrics_and_an_unknown_one_is_404(make_artifact):
    own = client_of(make_artifact("own", p1="Paris"))
    found = await own.post("/score", json=ask("Paris", prompt_id="p1"))
    missing = await own.post("/score", json=ask("Paris", prompt_id="p2"))
    assert found.json()["score"] == 1.0
    assert missing.status_code == 404
    assert missing.json()["detail"]["error_code"] == "prompt_not_found"
    assert missing.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"prompt": 3}',
        b'{"prompt": "p", "candidate": {"text": "\\ud800"}}',
        b"null",
        b'"x"',
    ],
)
async def test_a_bad_body_is_422_and_never_500(client, content: bytes):
    for route in ("/score", "/batch_score"):
        response = await client.post(
            route, content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code in (400, 422), response.text
        assert response.json()["detail"]["error_code"]
        assert "score" not in response.json()


async def test_limits_answer_413_and_429(make_artifact):
    limits = Limits(body_bytes=2000, batch_items=2, text_chars=300, in_flight=256)
    client = client_of(make_artifact("a", shared="Paris"), ServerSettings(limits=limits))
    big = await client.post("/score", json=ask("x" * 3000))

    async def chunks():
        for _ in range(4):
            yield b"x" * 1000

    streamed = await client.post("/score", content=chunks())
    long = await client.post("/score", json=ask("x" * 400))
    many = await client.post("/batch_score", json={"items": [ask("x")] * 3})
    mixed = await client.post("/batch_score", json={"items": [ask("x" * 400), ask("Paris")]})
    assert [r.status_code for r in (big, streamed, long, many)] == [413] * 4
    codes = [r.json()["detail"]["error_code"] for r in (big, streamed, long, many)]
    assert codes == ["body_too_large", "body_too_large", "text_too_long", "batch_too_large"]
    assert [r["ok"] for r in mixed.json()["results"]] == [False, True]
    busy = client_of(make_artifact("b", shared="Paris"), ServerSettings(limits=Limits(in_flight=0)))
    refused = await busy.post("/score", json=ask("Paris"))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


async def test_the_key_guards_everything_but_health(make_artifact):
    client = client_of(make_artifact("a", shared="Paris"), ServerSettings(key="sesame"))
    basic = base64.b64encode(b"any:sesame").decode()
    assert (await client.get("/healthz")).status_code == 200
    for route in ("/version", "/metrics", "/v1/models", "/openapi.json", "/nowhere"):
        assert (await client.get(route)).status_code == 401
    for header, status in [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic !!"}, 401),
        ({"Authorization": "Bearer sesame"}, 200),
        ({"Authorization": f"Basic {basic}"}, 200),
    ]:
        response = await client.post("/score", json=ask("Paris"), headers=header)
        assert response.status_code == status
        assert ("score" in response.json()) == (status == 200)


async def test_the_audit_log_has_a_line_a_request_and_no_text(make_artifact, tmp_path: Path):
    log = tmp_path / "log" / "requests.jsonl"
    client = client_of(make_artifact("a", shared="Paris"), ServerSettings(audit_log=log))
    await client.post(
        "/score", json=ask("Paris SECRET", prompt_id="p1"), headers={"X-Request-Id": "mine-1"}
    )
    await client.post("/score", json={"prompt": "SECRET"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(x["endpoint"], x["status"], x["error_code"]) for x in lines] == [
        ("/score", 200, None),
        ("/score", 422, "invalid_request"),
    ]
    assert (lines[0]["request_id"], lines[0]["prompt_id"]) == ("mine-1", "p1")
    assert set(lines[0]) == {
        "timestamp", "request_id", "endpoint", "artifact_id", "prompt_id", "latency_ms", "status", "error_code",
    }  # fmt: skip
    assert "SECRET" not in log.read_text()


async def test_request_ids_are_kept_or_made(client):
    kept = await client.get("/healthz", headers={"X-Request-Id": "abc.1"})
    made = await client.get("/healthz", headers={"X-Request-Id": "bad id\tx"})
    assert kept.headers["x-request-id"] == "abc.1"
    assert len(made.headers["x-request-id"]) == 32


async def test_a_reward_that_breaks_is_an_error_and_not_a_score(make_artifact):
    source = Source(make_artifact("a", shared="Paris"))

    def broken(items, batch_size=32):
        raise ZeroDivisionError("inside the reward")

    source.current.scorer.rm.score_items = broken
    transport = httpx.ASGITransport(create_app(source), raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    single = await client.post("/score", json=ask("Paris"))
    batch = await client.post("/batch_score", json={"items": [ask("Paris")]})
    assert (single.status_code, single.json()["detail"]["error_code"]) == (502, "scoring_failed")
    assert batch.json()["results"][0]["ok"] is False


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])
def test_a_bind_beyond_this_machine_needs_a_key(host: str):
    with pytest.raises(SpecError, match=r"needs a key.*HARNESS_SERVER_KEY.*--insecure"):
        require_safe_bind(host, None, "HARNESS_SERVER_KEY", insecure=False)
    require_safe_bind(host, "key", "HARNESS_SERVER_KEY", insecure=False)
    require_safe_bind(host, None, "HARNESS_SERVER_KEY", insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str):
    assert require_safe_bind(host, None, "HARNESS_SERVER_KEY", insecure=False) is None


def test_keys_that_are_not_ascii_compare():
    assert authorized("Bearer schlüssel", "schlüssel")
    assert not authorized("Bearer schlussel", "schlüssel")
