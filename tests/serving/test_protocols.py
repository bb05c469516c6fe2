"""Every wire protocol over the ASGI interface: shapes, batches, texts of all kinds, failures."""

import base64
import math
import struct
from pathlib import Path

import httpx
import pytest

from reward_harness.rewards.base import Failed, Scored
from reward_harness.serving.app import create_app
from reward_harness.serving.settings import Limits, ServerSettings
from reward_harness.serving.source import Source

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
HALF, HIGH = 0.5, 1 / (1 + math.exp(-1))


class Server:
    """The application, without a socket."""

    def __init__(self, artifact: Path, settings: ServerSettings | None = None) -> None:
        self.source = Source(artifact)
        self.app = create_app(self.source, settings)

    async def post(self, route: str, body) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(route, json=body)

    def scores_with(self, score) -> None:
        """Replace the reward by a function of the conversation."""
        self.source.current.scorer.rm.score_items = lambda items, batch_size=32: [
            score(item.conversation) for item in items
        ]


@pytest.fixture
def server(make_artifact) -> Server:
    """1.0 for a response that says Paris."""
    return Server(make_artifact("a", shared="Paris"))


def chat(response: str, prompt: str = "capital of France?") -> str:
    return CHAT.format(prompt, response)


# --- one route at a time


async def test_openrlhf_gets_a_reward_for_each_query(server):
    prompt = chat("", "capital of France?").removesuffix("<|im_end|>\n")
    queries = [prompt + "Paris<|im_end|>", prompt + "Rome<|im_end|>"]
    response = await server.post(
        "/get_reward", {"query": queries, "prompts": [prompt] * 2, "labels": ["x", None]}
    )
    assert response.json() == {
        "rewards": [1.0, 0.0],
        "scores": [1.0, 0.0],
        "extra_logs": {"criteria/has": [1.0, 0.0]},
    }
    old = await server.post("/get_reward", {"query": queries})
    assert old.json()["rewards"] == [1.0, 0.0]


async def test_classify_takes_a_text_texts_and_messages(server):
    one = (await server.post("/classify", {"model": "m", "input": chat("Paris")})).json()
    many = (await server.post("/classify", {"input": [chat("Rome"), chat("Paris")]})).json()
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "capital?"}]},
        {"role": "assistant", "content": "Paris"},
    ]
    turns = (await server.post("/classify", {"messages": messages})).json()
    assert one["data"] == [{"index": 0, "label": "LABEL_0", "probs": [1.0], "num_classes": 1}]
    assert [(d["index"], d["probs"]) for d in many["data"]] == [(0, [0.0]), (1, [1.0])]
    assert turns["data"][0]["probs"] == [1.0]
    assert one["object"] == "list" and one["model"] == server.source.current.artifact.artifact_id
    assert one["usage"]["prompt_tokens"] == 0  # a rubric reads no tokens


@pytest.mark.parametrize(("asked", "shown"), [(None, 1.0), (False, 1.0), (True, HIGH)])
async def test_an_activation_is_applied_where_it_is_asked_for(server, asked, shown):
    activation = {} if asked is None else {"use_activation": asked}
    body = {"input": chat("Paris"), **activation}
    pair = {"text_1": "capital?", "text_2": "Paris", **activation}
    documents = {"query": "capital?", "documents": ["Paris"], **activation}
    classified = (await server.post("/classify", body)).json()["data"][0]["probs"]
    scored = (await server.post("/score", pair)).json()["data"][0]["score"]
    reranked = (await server.post("/rerank", documents)).json()["results"][0]["relevance_score"]
    assert [*classified, scored, reranked] == pytest.approx([shown] * 3)


async def test_pooling_and_embeddings_are_vectors_of_one(server):
    body = {"model": "m", "input": [chat("Paris"), chat("Rome")]}
    pooled = (await server.post("/pooling", body)).json()
    embedded = (await server.post("/v1/embeddings", body)).json()
    coded = (await server.post("/v1/embeddings", {**body, "encoding_format": "base64"})).json()
    assert pooled["data"][0] == {"index": 0, "object": "pooling", "data": [1.0]}
    assert embedded["data"][-1] == {"index": 1, "object": "embedding", "embedding": [0.0]}
    decoded = base64.b64decode(coded["data"][0]["embedding"])
    assert struct.unpack("<f", decoded) == (1.0,)


@pytest.mark.parametrize(
    ("first", "second"),
    [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")],
)
@pytest.mark.parametrize("route", ["/score", "/v1/score"])
async def test_pairs_go_one_to_one_one_to_many_and_many_to_many(server, first, second, route):
    async def scores(a, b) -> list[float]:
        data = (await server.post(route, {first: a, second: b})).json()["data"]
        assert [(d["index"], d["object"]) for d in data] == [
            (index, "score") for index in range(len(data))
        ]
        return [d["score"] for d in data]

    part = {"content": [{"type": "text", "text": "Pa"}, {"type": "text", "text": "ris"}]}
    assert await scores("capital?", "Paris") == [1.0]
    assert await scores("capital?", ["Rome", "Paris", part]) == [0.0, 1.0, 1.0]
    assert await scores(["a", "b"], ["Paris", "Rome"]) == [1.0, 0.0]
    assert await scores("capital?", []) == []
    assert await scores([], []) == []
    wrong = await server.post(route, {first: ["a", "b"], second: ["x", "y", "z"]})
    assert wrong.status_code == 422 and "1:N" in wrong.json()["error"]["message"]


async def test_score_is_dispatched_by_the_keys_of_its_body(server):
    native = await server.post("/score", {"prompt": "?", "candidate": {"text": "Paris"}})
    slime = await server.post("/score", {"prompt": "?", "response": "Paris", "label": "x"})
    nobody = await server.post("/score", {"prompt": "?", "answer": "Paris"})
    assert native.json()["score"] == 1.0
    assert slime.text == "1.0"
    assert nobody.status_code == 422 and "candidate" in nobody.json()["error"]["message"]


async def test_slime_takes_text_rendered_text_and_turns(server):
    rendered = "<|im_start|>user\ncapital?<|im_end|>\n<|im_start|>assistant\n"
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "capital?"}]
    for prompt in ("capital?", rendered, turns):
        body = {"prompt": prompt, "response": "Rome", "label": None}
        assert (await server.post("/score", body)).json() == 0.0


@pytest.mark.parametrize("route", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank_of_vllm_sorts_and_cuts(server, route):
    body = {"model": "m", "query": "capital?", "documents": ["Rome", "Paris", "Oslo"]}
    results = (await server.post(route, body)).json()["results"]
    assert [(r["index"], r["document"]["text"], r["relevance_score"]) for r in results] == [
        (1, "Paris", 1.0),
        (0, "Rome", 0.0),
        (2, "Oslo", 0.0),
    ]
    best = (await server.post(route, {**body, "top_n": 1})).json()["results"]
    assert [r["index"] for r in best] == [1]


async def test_rerank_of_tei_sorts_and_gives_texts_back(server):
    body = {"query": "capital?", "texts": ["Rome", "Paris"], "truncate": True}
    plain = (await server.post("/rerank", body)).json()
    told = (await server.post("/rerank", {**body, "raw_scores": True, "return_text": True})).json()
    assert plain == [
        {"index": 1, "score": pytest.approx(HIGH)},
        {"index": 0, "score": pytest.approx(HALF)},
    ]
    assert told == [
        {"index": 1, "text": "Paris", "score": 1.0}, {"index": 0, "text": "Rome", "score": 0.0}
    ]  # fmt: skip


async def test_predict_takes_a_text_a_pair_and_batches(server):
    async def predict(inputs):
        body = {"inputs": inputs, "raw_scores": True, "truncate": True}
        return (await server.post("/predict", body)).json()

    one, none = {"score": 1.0, "label": "LABEL_0"}, {"score": 0.0, "label": "LABEL_0"}
    assert await predict(chat("Paris")) == [one]
    assert await predict(["Paris"]) == [one]
    assert await predict(["Paris?", "Rome"]) == [none]  # the pair's second text is the response
    assert await predict([["Paris"], ["capital?", "Rome"]]) == [[one], [none]]
    assert await predict([["Paris"]]) == [[one]]
    assert (await server.post("/predict", {"inputs": ["a", "b", "c"]})).status_code == 422
    plain = (await server.post("/predict", {"inputs": "Paris"})).json()
    assert plain[0]["score"] == pytest.approx(HIGH)


async def test_llama_factory_gets_scores(server):
    body = {"model": "model", "messages": [chat("Paris"), chat("Rome"), "Paris"]}
    answer = (await server.post("/v1/score/evaluation", body)).json()
    assert answer["scores"] == [1.0, 0.0, 1.0]
    assert answer["object"] == "score.evaluation"


# --- what holds for all of them

BATCHES = {
    "/get_reward": lambda texts: {"query": texts, "prompts": [], "labels": []},
    "/classify": lambda texts: {"input": texts},
    "/pooling": lambda texts: {"input": texts},
    "/v1/embeddings": lambda texts: {"input": texts},
    "/score": lambda texts: {"text_1": "?", "text_2": texts},
    "/rerank": lambda texts: {"query": "?", "documents": texts},
    "/predict": lambda texts: {"inputs": [[text] for text in texts], "raw_scores": True},
    "/v1/score/evaluation": lambda texts: {"model": "model", "messages": texts},
}
everywhere = pytest.mark.parametrize("route", BATCHES)


def scores_of(route: str, answer) -> list[float]:
    """The scores of a batch, in the order of its items."""
    if route == "/get_reward":
        return answer["rewards"]
    if route == "/v1/score/evaluation":
        return answer["scores"]
    if route == "/predict":
        return [labels[0]["score"] for labels in answer]
    if route == "/rerank":
        ordered = sorted(answer["results"], key=lambda r: r["index"])
        return [r["relevance_score"] for r in ordered]
    read = {
        "/classify": lambda d: d["probs"][0],
        "/pooling": lambda d: d["data"][0],
        "/v1/embeddings": lambda d: d["embedding"][0],
        "/score": lambda d: d["score"],
    }[route]
    return [read(item) for item in answer["data"]]


@everywhere
async def test_empty_batches_and_lists_of_one(server, route):
    empty = await server.post(route, BATCHES[route]([]))
    single = await server.post(route, BATCHES[route](["Paris"]))
    assert (empty.status_code, scores_of(route, empty.json())) == (200, [])
    assert scores_of(route, single.json()) == [1.0]
    if route == "/get_reward":
        assert empty.json() == {"rewards": [], "scores": [], "extra_logs": {}}


@everywhere
async def test_unicode_and_long_texts_are_scored(server, route):
    long = "word " * 8192
    texts = ["Paris 🗼 é́ 中文 العربية \u200d", "Paris " + long, "Rome " + long, "", " \n"]
    response = await server.post(route, BATCHES[route](texts))
    assert scores_of(route, response.json()) == [1.0, 1.0, 0.0, 0.0, 0.0]
    half = r'"\ud800"'
    body = BATCHES[route](["HALF"])
    content = httpx.Request("POST", "http://x", json=body).content.replace(b'"HALF"', half.encode())
    transport = httpx.ASGITransport(server.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        refused = await client.post(
            route, content=content, headers={"content-type": "application/json"}
        )
    assert refused.status_code == 422


@everywhere
async def test_one_item_without_a_score_fails_the_request(server, route):
    def score(conversation):
        if "bad" in conversation[-1]["content"]:
            return Failed("the judge said nothing that can be read")
        return Scored(1.0)

    server.scores_with(score)
    response = await server.post(route, BATCHES[route](["good", "bad"]))
    assert response.status_code == 502
    body = response.json()
    assert body["error"]["code"] == "scoring_failed"
    assert not {"scores", "rewards", "data", "results"} & set(body)


@everywhere
@pytest.mark.parametrize("route_failure", ["retriable", "unseen", "invalid"])
async def test_failures_have_the_status_their_client_expects(make_artifact, route, route_failure):
    server = Server(make_artifact("own", p1="Paris"))  # no shared rubric: every prompt is unseen
    text, native = "Paris", 404
    if route_failure == "retriable":
        server.scores_with(lambda _: Failed("rate limited", retriable=True))
        native = 503
    if route_failure == "invalid":
        if route in ("/score", "/rerank"):
            return  # pairs are always a prompt and a response
        text, native = "<|im_start|>user\nnobody answers<|im_end|>\n", 422
    response = await server.post(route, BATCHES[route]([text]))
    expected = 502 if route == "/get_reward" and native < 500 else native
    assert response.status_code == expected
    assert ("retry-after" in response.headers) == (native == 503)


@everywhere
async def test_what_can_never_be_scored_decides_over_what_may_be_later(server, route):
    server.scores_with(
        lambda c: Failed("later", retriable="now" not in c[-1]["content"], code="some_code")
    )
    response = await server.post(route, BATCHES[route](["Paris", "Paris now"]))
    assert response.status_code == 502


@everywhere
async def test_limits_hold(make_artifact, route):
    limits = Limits(batch_items=2, text_chars=50)
    server = Server(make_artifact("a", shared="Paris"), ServerSettings(limits=limits))
    many = await server.post(route, BATCHES[route](["Paris"] * 3))
    long = await server.post(route, BATCHES[route](["Paris" * 20]))
    assert [many.status_code, long.status_code] == [413, 413]
    assert [r.json()["error"]["code"] for r in (many, long)] == ["batch_too_large", "text_too_long"]


@everywhere
async def test_answers_name_their_artifact_and_are_counted(server, route):
    response = await server.post(route, BATCHES[route](["Paris", "Rome"]))
    served = server.source.current
    assert response.headers["x-artifact-digest"] == served.digest
    assert response.headers["x-artifact-id"] == served.artifact.artifact_id
    metrics = server.app.state.context.telemetry.render().decode()
    assert f'harness_requests_total{{endpoint="{route}",status="200"}} 1.0' in metrics
    assert 'harness_items_total{result="scored"} 2.0' in metrics


@everywhere
@pytest.mark.parametrize("body", [{}, [], "x", None, {"input": 7}, {"query": "x"}, {"inputs": {}}])
async def test_a_body_of_no_protocol_is_422(server, route, body):
    response = await server.post(route, body)
    assert response.status_code == 422
    assert response.json()["error"]["message"]


async def test_token_ids_images_and_loose_prompts_are_refused_by_name(server):
    tokens = await server.post("/classify", {"input": [1, 2, 3]})
    image = {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    picture = await server.post("/pooling", {"messages": [image]})
    loose = await server.post("/get_reward", {"query": ["a", "b"], "prompts": ["a"]})
    both = await server.post("/classify", {"input": "x", "messages": []})
    told = [r.json()["error"]["message"] for r in (tokens, picture, loose, both)]
    assert [r.status_code for r in (tokens, picture, loose, both)] == [422] * 4
    assert "token ids" in told[0] and "text" in told[1]
    assert "2 queries, but 1 prompts" in told[2] and "either input or messages" in told[3]


async def test_the_prompt_of_a_rendered_text_finds_its_own_rubric(make_artifact):
    """Flat text and turns are one conversation: what is read back has the prompt's key."""
    server = Server(make_artifact("a", shared="Paris"))
    seen = []
    server.scores_with(lambda c: seen.append([dict(m) for m in c]) or Scored(1.0))
    turns = [{"role": "user", "content": " a \n b"}, {"role": "assistant", "content": "x "}]
    await server.post("/classify", {"messages": turns})
    await server.post("/classify", {"input": chat("x ", " a \n b")})
    await server.post("/get_reward", {"query": [chat("x ", " a \n b")]})
    assert seen == [turns] * 3
