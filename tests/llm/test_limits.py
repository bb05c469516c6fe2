"""What the gateway keeps to: pace, concurrency of the process, caps, and faults it outlives."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from reward_harness.errors import BudgetExceeded, LLMError, SpecError
from reward_harness.llm.budget import Caps, Usage
from reward_harness.llm.circuit import COOL_DOWN_S
from reward_harness.llm.gateway import Gateway, encode
from reward_harness.llm.limits import Limits, Slots
from reward_harness.llm.roles import ModelRoles
from reward_harness.llm.verdicts import VerdictStore
from reward_harness.prompts import load_templates
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.types import Criterion
from reward_harness.sections import Endpoint
from tests.llm.simulator import Simulator

JUDGE = [
    {"role": "system", "content": "You compare two responses"},
    {"role": "user", "content": json.dumps({"prompt": "p", "left": "because", "right": "b"})},
]
WORDS = [Criterion(criterion_id=f"x{w}", text=f"The response mentions {w}.") for w in ("a", "b")]


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def simulator(monkeypatch):
    with Simulator() as running:
        monkeypatch.setenv("TEST_KEY", running.key)
        yield running


@pytest.fixture
async def gateway_at(simulator):
    opened: list[Gateway] = []

    def open_one(caps=None, clock=None, **fields) -> Gateway:
        fields = {"base_url": simulator.url, "api_key_env": "TEST_KEY", "model": "m", **fields}
        clock = clock or Clock()
        opened.append(Gateway(Endpoint(**fields), caps, sleep=clock.sleep, clock=clock))
        return opened[-1]

    yield open_one
    for gateway in opened:
        await gateway.aclose()


async def ask(gateway: Gateway, number: int) -> str | Failed:
    return await gateway.chat("judge", JUDGE, vote=number)


async def test_requests_a_minute_are_spread_evenly(gateway_at, simulator):
    clock = Clock()
    gateway = gateway_at(clock=clock, requests_per_minute=30)
    await asyncio.gather(*(ask(gateway, i) for i in range(5)))
    assert clock.slept == pytest.approx([2.0] * 4)
    other = gateway_at(clock=clock, requests_per_minute=30)
    await ask(other, 9)
    assert clock.now_s == pytest.approx(10.0)
    assert simulator.received == 6


async def test_tokens_a_minute_settle_on_what_replies_took(gateway_at):
    clock = Clock()
    gateway = gateway_at(clock=clock, tokens_per_minute=60)
    for i in range(4):
        await ask(gateway, i)
    assert gateway.usage.tokens == 60
    assert clock.now_s == pytest.approx(45.0)


def test_a_request_that_got_no_answer_gives_its_tokens_back():
    limits = Limits()
    wait_s, reserved = limits.reserve(None, 600, 0.0)
    assert (wait_s, reserved) == (0.0, 500.0)
    limits.settle(reserved, 0, 600)
    assert limits.reserve(None, 600, 0.0)[0] == 0.0


async def test_a_reached_cap_ends_all_paced_requests_at_once(gateway_at, simulator):
    clock = Clock()
    gateway = gateway_at(Caps(max_calls=3), clock, requests_per_minute=1)
    results = await asyncio.gather(*(ask(gateway, i) for i in range(50)), return_exceptions=True)
    assert sum(isinstance(r, BudgetExceeded) for r in results) == 47
    assert simulator.received == 3
    assert clock.now_s <= 180.0


async def test_two_gateways_at_one_endpoint_share_its_slots(gateway_at, simulator):
    simulator.latency_s = 0.02
    one, two = gateway_at(concurrency=4), gateway_at(concurrency=4)
    await asyncio.gather(*(ask((one, two)[i % 2], i) for i in range(24)))
    assert simulator.max_in_flight == 4


def test_slots_are_shared_by_event_loops():
    slots, seen, lock = Slots(), [], threading.Lock()

    async def use() -> None:
        await slots.acquire(3)
        with lock:
            seen.append(slots.in_flight)
        await asyncio.sleep(0.001)
        slots.release()

    async def many() -> None:
        await asyncio.gather(*(use() for _ in range(40)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 80
    assert max(seen) == 3
    assert slots.in_flight == 0


async def test_a_cancelled_waiter_passes_its_turn_on():
    slots = Slots()
    await slots.acquire(1)
    first, second = (asyncio.create_task(slots.acquire(1)) for _ in range(2))
    await asyncio.sleep(0)
    slots.release()
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert slots.in_flight == 1


async def test_the_token_cap_stops_the_next_request(gateway_at, simulator):
    gateway = gateway_at(Caps(max_tokens=30), concurrency=1)
    results = await asyncio.gather(*(ask(gateway, i) for i in range(6)), return_exceptions=True)
    assert simulator.received == 2
    assert sum(isinstance(r, BudgetExceeded) and "token budget" in str(r) for r in results) == 4


@pytest.mark.parametrize("cost", [-1.0, "much", True, [1], "nan", 1e400])
async def test_a_cost_that_is_no_amount_counts_as_unreported(gateway_at, simulator, cost):
    simulator.cost = "nan" if cost == 1e400 else cost
    gateway = gateway_at()
    assert isinstance(await ask(gateway, 1), str)
    assert gateway.usage.usd is None
    with pytest.raises(LLMError, match="reports no cost"):
        await ask(gateway_at(Caps(max_usd=1.0)), 1)


def test_malformed_token_counts_do_not_crash():
    usage = Usage()
    told = {"prompt_tokens": "x", "completion_tokens": -3, "cost": "0.5"}
    assert usage.count_reply(told, Caps(), "u") == 0
    assert (usage.tokens, usage.usd) == (0, 0.5)
    with pytest.raises(LLMError, match="reports no tokens"):
        usage.count_reply(None, Caps(max_tokens=5), "u")


async def test_extra_body_is_sent_and_belongs_to_the_sampling(gateway_at, simulator):
    gateway = gateway_at(extra_body={"top_p": 0.5})
    await ask(gateway, 0)
    assert simulator.bodies[0]["top_p"] == 0.5
    assert gateway.sampling() == {"temperature": 0.0, "top_p": 0.5}
    with pytest.raises(SpecError, match="messages"):
        gateway_at(extra_body={"messages": []})


async def test_backoff_is_the_endpoints_own(gateway_at):
    clock = Clock()
    fields = {"retry_backoff_base_s": 1.0, "retry_backoff_max_s": 3.0, "retry_jitter": 0.0}
    gateway = gateway_at(clock=clock, base_url="http://127.0.0.1:9/v1", max_retries=3, **fields)
    assert isinstance(await ask(gateway, 1), Failed)
    assert clock.slept == [1.0, 2.0, 3.0]


async def test_retry_after_pauses_the_whole_endpoint(gateway_at, simulator):
    clock = Clock()
    one, other = gateway_at(clock=clock, concurrency=2), gateway_at(clock=clock, concurrency=2)
    simulator.told = [(429, {"Retry-After": "7"})]
    assert isinstance(await ask(one, 1), str)
    assert (clock.slept, one.usage.retries) == ([7.0], 1)
    simulator.told = [(503, {"Retry-After": "20"})]
    first = asyncio.create_task(ask(one, 2))
    while not clock.slept[1:]:
        await asyncio.sleep(0.001)
    assert clock.slept[1] == 20.0
    assert isinstance(await first, str)
    other._limits.pause_until(clock.now_s + 5)
    assert isinstance(await ask(other, 3), str)
    assert clock.slept[2] == 5.0


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_passing_fault_is_retried(gateway_at, simulator, status):
    clock = Clock()
    gateway = gateway_at(clock=clock, max_retries=2, retry_jitter=0.0)
    simulator.told = [(status, {}), (status, {})]
    assert isinstance(await ask(gateway, 1), str)
    assert (simulator.received, gateway.usage.retries) == (3, 2)
    assert clock.slept == [0.5, 1.0]
    simulator.told = [(status, {})] * 3
    assert isinstance(await ask(gateway, 2), Failed)
    assert simulator.received == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 422])
async def test_a_refusal_ends_at_once(gateway_at, simulator, status):
    gateway = gateway_at(max_retries=5)
    simulator.told = [(status, {})] * 9
    with pytest.raises(LLMError, match=f"refused the request: HTTP {status} told") as caught:
        await ask(gateway, 1)
    assert caught.value.exit_code == 3
    assert (simulator.received, gateway.usage.retries) == (1, 0)


async def test_a_soft_endpoint_fails_at_once_and_is_probed_after_a_cool_down(gateway_at, simulator):
    clock = Clock()
    gateway = gateway_at(clock=clock, fail_soft=True, max_retries=1)
    simulator.error_rate = 1.0
    for i in range(3):
        assert isinstance(await ask(gateway, i), Failed)
    assert simulator.received == 6
    results = await asyncio.gather(*(ask(gateway, i) for i in range(20)))
    assert all(isinstance(r, Failed) and "3 times in a row" in r.error for r in results)
    assert simulator.received == 6
    clock.now_s += COOL_DOWN_S
    await asyncio.gather(*(ask(gateway, i) for i in range(20)))
    assert simulator.received == 7
    simulator.error_rate = 0.0
    clock.now_s += COOL_DOWN_S
    results = await asyncio.gather(*(ask(gateway, i) for i in range(20)))
    assert simulator.received == 8
    assert sum(isinstance(r, str) for r in results) == 1
    assert isinstance(await ask(gateway, 1), str)


async def test_a_soft_endpoint_still_refuses_a_wrong_key_for_good(
    gateway_at, simulator, monkeypatch
):
    monkeypatch.setenv("TEST_KEY", "sk-wrong")
    gateway = gateway_at(fail_soft=True)
    for _ in range(3):
        with pytest.raises(LLMError, match="HTTP 401"):
            await ask(gateway, 1)
    assert simulator.received == 1


def test_half_a_surrogate_pair_can_be_sent():
    assert json.loads(encode({"text": "a\ud800"})) == {"text": "a\ud800"}


def grading(simulator, tmp_path, **fields) -> ModelRoles:
    fields = {"base_url": simulator.url, "api_key_env": "TEST_KEY", "model": "m", **fields}
    templates = load_templates(Path(__file__).parents[2] / "prompts", "en")
    clock = Clock()
    gateway = Gateway(Endpoint(**fields), sleep=clock.sleep, clock=clock)
    return ModelRoles(gateway, VerdictStore(tmp_path / "verdicts.sqlite"), templates)


async def grade_all(roles: ModelRoles, n: int) -> list[object]:
    return await asyncio.gather(
        *(roles.grade("p", f"a {i}", WORDS, "unit_0_1") for i in range(n)), return_exceptions=True
    )


async def test_one_fault_in_five_changes_no_answer(simulator, tmp_path):
    simulator.error_rate, simulator.silent_rate = 0.1, 0.05
    simulator.cut_rate, simulator.broken_rate = 0.05, 0.02
    roles = grading(simulator, tmp_path, max_retries=6, timeout_s=0.3)
    answers = await grade_all(roles, 60)
    simulator.release()
    usage = roles.gateway.usage
    assert answers == [{"xa": 1.0, "xb": 0.0}] * 60
    repairs = sum(len(b["messages"]) > 2 for b in simulator.bodies)
    assert usage.retries > 5
    # a time-out may strike before the request was received
    assert simulator.received <= usage.calls <= 60 + usage.retries + repairs
    assert simulator.repeated() == []
    await roles.aclose()


@pytest.mark.parametrize("fault", ["error_rate", "silent_rate", "cut_rate"])
async def test_nothing_but_faults_is_one_clear_error_soon(simulator, tmp_path, fault):
    setattr(simulator, fault, 1.0)
    roles = grading(simulator, tmp_path, timeout_s=0.1, concurrency=8)
    found = await grade_all(roles, 100)
    simulator.release()
    errors = {str(e) for e in found if isinstance(e, LLMError)}
    assert len(errors) == 1
    assert "times in a row" in errors.pop()
    assert all(isinstance(e, LLMError | Failed) for e in found)
    assert simulator.received <= 3 * 3 + 8 + 8
    await roles.aclose()
