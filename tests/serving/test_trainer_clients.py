"""Trainers' own client code against a real server: what they send, what they make of the answer.

OpenRLHF, verl and LLaMA-Factory as published (``trainer_wheels``); text-embeddings-inference by
huggingface_hub's client; slime's request as ``slime/rollout/rm_hub/__init__.py`` builds it.
"""

import asyncio
import logging
import sys
import types

import aiohttp
import httpx
import numpy as np
import pytest
import requests
import torch

from reward_harness.errors import ScoringError
from reward_harness.integrations import openrlhf as our_openrlhf
from reward_harness.models.tiny import causal_tokenizer
from reward_harness.rm.artifact import write_artifact
from reward_harness.rm.package import rubric_artifact, rubric_runtime
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import Endpoint, SearchConfig
from tests.llm.simulator import Simulator
from tests.serving.conftest import server_process, write_word_artifact
from tests.serving.trainer_wheels import find, functions, load_file, methods, stub

KEY = "sesame"
LONG = "word " * 8192
TEXTS = {
    "It is Paris.": 1.0,
    "Rome": 0.0,
    "Paris 🗼 é 中文 \u200d": 1.0,
    f"Paris {LONG}": 1.0,
    "": 0.0,
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("trainer_clients")]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """host:port of a keyed server that gives 1.0 to a response with Paris."""
    root = tmp_path_factory.mktemp("server")
    write_word_artifact(root / "rm", shared="Paris")
    arguments = ("--artifact", str(root / "rm"))
    with server_process(root, *arguments, HARNESS_SERVER_KEY=KEY) as (record, _):
        yield record.url.removeprefix("http://")


@pytest.fixture(scope="module")
def url(host):
    """The server's address in the form that makes a client send the key."""
    return f"http://trainer:{KEY}@{host}"


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A server whose judge can be made to fail, and that judge; one for each test, because a server
    remembers how often in a row its judge failed.
    """
    with Simulator() as judge:
        monkeypatch.setenv("JUDGE_KEY", judge.key)
        endpoint = Endpoint(
            base_url=judge.url, api_key_env="JUDGE_KEY", model="judge-1", max_retries=0
        )
        runtime = rubric_runtime(SearchConfig(backend="openai", endpoint=endpoint), 7, None)
        criterion = Criterion(criterion_id="c", text="mentions Paris")
        rubric = Rubric(rubric_id="r", criteria=(criterion,), scale="binary")
        write_artifact(rubric_artifact({"__shared__": rubric}, runtime, {}), tmp_path / "rm")
        with server_process(tmp_path, "--artifact", str(tmp_path / "rm")) as (record, _):
            yield record.url.removeprefix("http://"), judge


@pytest.fixture(scope="module")
def tokenizer():
    return causal_tokenizer()


def fast_asyncio(judge: Simulator | None = None) -> types.SimpleNamespace:
    """asyncio whose sleeps do not last; the judge recovers during the second one."""
    naps = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        if judge is not None and len(naps) == 2:
            judge.error_rate = 0.0

    return types.SimpleNamespace(**{**vars(asyncio), "sleep": sleep, "naps": naps})


# --- OpenRLHF


@pytest.fixture
def agent(wheels, monkeypatch):
    """``openrlhf/utils/agent.py``."""
    logger = stub("openrlhf.utils.logging_utils", init_logger=logging.getLogger)
    for module in (stub("openrlhf"), stub("openrlhf.utils"), logger):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return load_file(find(wheels, "openrlhf/utils/agent.py"), "openrlhf_agent")


class Engine:
    """A vLLM engine that always says the same."""

    def __init__(self, tokenizer, said: str) -> None:
        self.tokenizer, self.said = tokenizer, said

    async def generate(self, prompt_token_ids, params, multi_modal_data=None):
        ids = self.tokenizer(f"{self.said}<|im_end|>", add_special_tokens=False)["input_ids"]
        output = types.SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)
        return types.SimpleNamespace(outputs=[output])


def rollout(agent, remote, tokenizer, said: str) -> dict:
    """One whole single-turn rollout of OpenRLHF, decoding with special tokens as it does."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    params = types.SimpleNamespace(max_tokens=64, logprobs=None)
    executor = agent.SingleTurnAgentExecutor(remote)
    engine = Engine(tokenizer, said)
    return asyncio.run(executor.execute(prompt, "label", params, 100_000, tokenizer, engine))


@pytest.mark.parametrize(("said", "reward"), TEXTS.items(), ids=["yes", "no", "uni", "8k", "empty"])
def test_an_openrlhf_rollout_gets_its_reward(agent, url, tokenizer, said, reward):
    output = rollout(agent, f"{url}/get_reward", tokenizer, said)
    assert output["reward"] == output["scores"] == [reward]
    assert output["extra_logs"] == {"criteria/has": [reward]}


@pytest.mark.parametrize("size", [0, 1, 5])
def test_openrlhf_shards_a_batch_over_servers(agent, url, size):
    executor = agent.SingleTurnAgentExecutor([f"{url}/get_reward"] * 2)
    queries = [f"q{n}{'Paris' if n % 2 else 'Rome'}" for n in range(size)]
    found = asyncio.run(
        executor._fetch_rewards_via_http(queries, [f"q{n}" for n in range(size)], [None] * size)
    )
    assert [r for shard in found for r in shard["rewards"]] == [float(n % 2) for n in range(size)]


def test_openrlhf_asks_again_while_the_judge_is_away(agent, judged, monkeypatch):
    host, judge = judged
    judge.error_rate = 1.0
    monkeypatch.setattr(agent, "asyncio", waiting := fast_asyncio(judge))
    executor = agent.SingleTurnAgentExecutor(f"http://{host}/get_reward")
    found = asyncio.run(executor._fetch_rewards_via_http(["?Paris one"], ["?"], [None]))
    assert (found[0]["rewards"], len(waiting.naps)) == ([1.0], 2)


def test_openrlhf_is_never_given_a_number_for_a_failure(agent, judged, tokenizer, monkeypatch):
    host, judge = judged
    judge.error_rate = 1.0
    monkeypatch.setattr(agent, "asyncio", waiting := fast_asyncio())
    output = rollout(agent, f"http://{host}/get_reward", tokenizer, "Paris two")
    assert (output["reward"], output["scores"], len(waiting.naps)) == (None, None, 5)


def test_openrlhf_loads_our_reward_function_from_its_file(agent, host, tokenizer, monkeypatch):
    monkeypatch.setenv("HARNESS_REWARD_URL", f"http://{host}")
    monkeypatch.setenv("HARNESS_SERVER_KEY", KEY)
    output = rollout(agent, our_openrlhf.__file__, tokenizer, "It is Paris.")
    assert torch.equal(output["reward"], torch.tensor([1.0]))
    assert torch.tensor([output["reward"]]).shape == (1,)  # what its samples generator makes of it


# --- verl


class Rows(list):
    """verl's ``DataProto``, as far as one row goes."""

    def __getitem__(self, key):
        return (
            Rows(super().__getitem__(key)) if isinstance(key, slice) else super().__getitem__(key)
        )


def row(tokenizer, said: str, **columns) -> Rows:
    response = tokenizer(f"{said}<|im_end|>", add_special_tokens=False, return_tensors="pt")
    ids = response["input_ids"][0]
    batch = {"responses": ids, "attention_mask": torch.ones(4 + len(ids), dtype=torch.long)}
    turns = np.array([{"role": "user", "content": "capital of France?"}], dtype=object)
    return Rows(
        [types.SimpleNamespace(batch=batch, non_tensor_batch={"raw_prompt": turns, **columns})]
    )


@pytest.fixture
def reward_worker(wheels, tokenizer):
    """verl's reward loop worker, for an engine at an address."""
    path = find(wheels, "experimental/reward_loop/reward_loop.py")
    taken = ("_post_request", "_preprocess_reward_inputs", "compute_score_disrm")

    def make(engine: str, address: str, clock=asyncio):
        logger = logging.getLogger("verl")
        cls = methods(
            path, "RewardLoopWorker", *taken, asyncio=clock, aiohttp=aiohttp, logger=logger
        )
        rollout = types.SimpleNamespace(name=engine)
        model = types.SimpleNamespace(rollout=rollout, model_path="/models/rm")
        worker = cls()
        worker.config = types.SimpleNamespace(reward=types.SimpleNamespace(reward_model=model))
        worker.reward_router_address = address
        worker.input_tokenizer = worker.reward_model_tokenizer = tokenizer
        return worker

    return make


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(("said", "reward"), TEXTS.items(), ids=["yes", "no", "uni", "8k", "empty"])
def test_verls_reward_loop_gets_its_score(reward_worker, host, tokenizer, engine, said, reward):
    worker = reward_worker(engine, f"trainer:{KEY}@{host}")
    score = asyncio.run(worker.compute_score_disrm(row(tokenizer, said)))
    assert score == {"reward_score": reward}


def test_verl_asks_again_while_the_judge_is_away(reward_worker, judged, tokenizer):
    host, judge = judged
    judge.error_rate = 1.0
    worker = reward_worker("vllm", host, waiting := fast_asyncio(judge))
    score = asyncio.run(worker.compute_score_disrm(row(tokenizer, "Paris three")))
    assert (score, len(waiting.naps)) == ({"reward_score": 1.0}, 2)


def test_verl_does_not_repeat_what_is_refused(reward_worker, host, tokenizer):
    worker = reward_worker("vllm", host, waiting := fast_asyncio())  # without the key
    with pytest.raises(aiohttp.ClientResponseError, match="401"):
        asyncio.run(worker.compute_score_disrm(row(tokenizer, "Paris")))
    assert waiting.naps == []


@pytest.fixture
def reward_manager(wheels, tokenizer, monkeypatch):
    """verl's naive reward manager with a custom reward function, both loaded by verl's own code."""
    base = type("RewardManagerBase", (), {"__init__": _manager_init})
    registry = "verl.experimental.reward_loop.reward_manager"
    for module in (
        stub("verl", DataProto=Rows),
        stub("verl.experimental"),
        stub("verl.experimental.reward_loop"),
        stub(registry, register=lambda name: lambda cls: cls),
        stub(f"{registry}.base", RewardManagerBase=base),
        stub("verl.utils"),
        stub("verl.utils.reward_score", default_compute_score=None, get_default_compute_score=None),
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    imports = load_file(find(wheels, "verl/utils/import_utils.py"), "verl_import_utils")
    monkeypatch.setitem(sys.modules, "verl.utils.import_utils", imports)
    reward = load_file(find(wheels, "trainer/ppo/reward.py"), "verl_reward")
    naive = load_file(find(wheels, "reward_loop/reward_manager/naive.py"), "verl_naive")

    managers = []

    def make(**reward_kwargs):
        function = {
            "path": "pkg://reward_harness.integrations.verl",
            "name": "compute_score",
            "reward_kwargs": reward_kwargs,
        }
        config = types.SimpleNamespace(reward={"custom_reward_function": function})
        managers.append(
            naive.NaiveRewardManager(config, tokenizer, reward.get_custom_reward_fn(config))
        )
        return managers[-1]

    yield make
    for manager in managers:
        manager.loop.close()


def _manager_init(self, config, tokenizer, compute_score) -> None:
    self.config, self.tokenizer, self.loop = config, tokenizer, asyncio.new_event_loop()


def managed(manager, tokenizer, said: str, extra_info: dict) -> dict:
    data = row(
        tokenizer, said, data_source="d", reward_model={"ground_truth": ""}, extra_info=extra_info
    )
    return manager.loop.run_until_complete(manager.run_single(data))


@pytest.mark.parametrize("form", ["turns", "text", "array"])
def test_verls_manager_calls_compute_score(reward_manager, host, tokenizer, form):
    turns = [{"role": "user", "content": "capital of France?"}]
    prompt = {"turns": turns, "text": "capital?", "array": np.array(turns, dtype=object)}[form]
    manager = reward_manager(url=f"http://{host}", key=KEY)
    for said, reward in TEXTS.items():
        result = managed(manager, tokenizer, said, {"prompt": prompt, "index": 0})
        assert result == {"reward_score": reward, "reward_extra_info": {"score": reward}}


def test_compute_score_raises_where_there_is_no_score_or_prompt(reward_manager, host, tokenizer):
    manager = reward_manager(url=f"http://{host}", key="wrong")
    with pytest.raises(ScoringError, match="401"):
        managed(manager, tokenizer, "Paris", {"prompt": "capital?"})
    with pytest.raises(ScoringError, match=r"no prompt.*extra_info|extra_info.*no prompt"):
        managed(manager, tokenizer, "Paris", {"index": 3})


# --- LLaMA-Factory


@pytest.fixture
def get_rewards(wheels):
    import json

    path = find(wheels, "llamafactory/train/ppo/ppo_utils.py")
    name = "get_rewards_from_server"
    return functions(path, name, json=json, requests=requests, torch=torch)[name]


def test_llama_factory_reads_its_rewards(get_rewards, url, tokenizer):
    route = f"{url}/v1/score/evaluation"
    messages = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "capital?"}, {"role": "assistant", "content": said}],
            tokenize=False,
        )
        for said in TEXTS
    ]
    assert get_rewards(route, messages).tolist() == list(TEXTS.values())
    assert get_rewards(route, messages[:1]).tolist() == [1.0]
    assert get_rewards(route, []).tolist() == []


def test_llama_factory_stops_at_a_failure(get_rewards, judged):
    host, judge = judged
    judge.error_rate = 1.0
    with pytest.raises(KeyError, match="scores"):
        get_rewards(f"http://{host}/v1/score/evaluation", ["Paris four"])


# --- slime


async def remote_rm(rm_url: str, prompt, response: str, label=None):
    """The request of slime/rollout/rm_hub/__init__.py (THUDM/slime), without its retries."""
    payload = {"prompt": prompt, "response": response, "label": label}
    async with aiohttp.ClientSession() as session, session.post(rm_url, json=payload) as response:
        response.raise_for_status()
        return await response.json()


def test_slime_gets_a_number_or_an_error(url, judged):
    for said, reward in TEXTS.items():
        for prompt in ("capital?", [{"role": "user", "content": "capital?"}]):
            found = asyncio.run(remote_rm(f"{url}/score", prompt, said, "Paris"))
            assert found == reward and isinstance(found, float)
    host, judge = judged
    judge.error_rate = 1.0
    with pytest.raises(aiohttp.ClientResponseError, match="503"):
        asyncio.run(remote_rm(f"http://{host}/score", "capital?", "Paris five"))


# --- text-embeddings-inference


def test_huggingface_hubs_client_predicts(host, judged, monkeypatch):
    from huggingface_hub import InferenceClient, constants
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # or it refuses even loopback
    client = InferenceClient(model=f"http://{host}/predict", token=KEY)
    found = client.text_classification("It is Paris.", function_to_apply="none")
    assert (found.label, found.score) == ("LABEL_0", pytest.approx(0.7310585786300049))
    other, judge = judged
    judge.error_rate = 1.0
    with pytest.raises(HfHubHTTPError) as refused:
        InferenceClient(model=f"http://{other}/predict").text_classification("Paris six")
    assert refused.value.response.status_code == 503


# --- what is not the trainers'


def test_a_wrong_key_is_401_on_every_route(host):
    for route in (
        "get_reward",
        "classify",
        "pooling",
        "v1/embeddings",
        "score",
        "rerank",
        "predict",
    ):
        assert httpx.post(f"http://{host}/{route}", json={}).status_code == 401
