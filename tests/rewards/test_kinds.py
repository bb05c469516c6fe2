"""The figures of each kind of reward, judges over real HTTP, caches shared by processes."""

import json
import multiprocessing
from pathlib import Path

import pytest
from aiohttp import web

from reward_harness import (
    AutoRM,
    BaseRM,
    CachedRM,
    CompositeRM,
    DrSow,
    EnsembleRM,
    LLMJudge,
    MixedRM,
    ProcessRM,
    ProgrammaticRM,
)
from reward_harness.errors import LLMError, ScoringError, SpecError
from reward_harness.rewards.base import Failed, Scored, conversation_of, only_valid
from reward_harness.rewards.mixtures import LinearSchedule
from reward_harness.rewards.process import PrefixSteps, StepScores, aggregate
from tests.llm.simulator import Simulator

CHAT = conversation_of("2+2?", "four")


class Constant(BaseRM):
    def __init__(self, value):
        self.value = value

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return only_valid(batch, lambda valid: [Scored(self.value) for _ in valid])


class Steps:
    def __init__(self, *values):
        self.values = values

    def score_solutions(self, solutions):
        return [StepScores(self.values) for _ in solutions]

    def identity(self):
        return None


class Words(BaseRM):
    """A rule of a user's own: only ``score``."""

    def score(self, messages):
        if not messages[-1]["content"]:
            raise ScoringError("nothing said")
        return len(messages[-1]["content"].split()) / 10


def test_process_scores_aggregate_as_documented():
    values = [0.9, 0.8, 0.7]
    found = [aggregate(values, how) for how in ("prod", "min", "last", "mean")]
    assert found == pytest.approx([0.504, 0.7, 0.7, 0.8])
    rm = ProcessRM(Steps(*values))
    assert rm.score_steps("?", "a\n\nb\n\nc") == values
    assert rm.score(prompt="?", response="a\n\nb\n\nc") == pytest.approx(0.504)
    assert rm.score_batch([conversation_of("?", "only two\n\nsteps")]) == [None]
    assert ProcessRM(Steps(0.6), "model").score(prompt="?", response="a\n\nb") == 0.6
    assert ProcessRM(PrefixSteps(Words()), "last").score_steps("?", "a b\n\nc") == [0.2, 0.3]
    with pytest.raises(SpecError, match="prod, min, last, mean, model"):
        ProcessRM(Steps(), "median")


def test_mixture_moves_with_its_schedule_and_clamps():
    schedule = LinearSchedule(0.1, 0.9, warmup=2, ramp=4)
    assert [schedule(n) for n in (0, 2, 4, 6, 99)] == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])
    rm = MixedRM(Constant(0.0), Constant(1.0), schedule)
    assert [rm.at_step(n).score(CHAT) for n in (2, 4, 6)] == pytest.approx([0.1, 0.5, 0.9])
    assert MixedRM(Constant(0.0), Constant(1.0), 7.0).score(CHAT) == 1.0


def test_composite_is_a_weighted_sum_with_the_learned_part_squashed():
    rm = CompositeRM(Constant(0.0), Constant(1.0), Constant(0.25), (0.5, 0.3, 0.2))
    assert rm.score(CHAT) == pytest.approx(0.5 * 0.5 + 0.3 + 0.05)
    assert CompositeRM(Constant(-1e9)).score(CHAT) == pytest.approx(0.4)


def test_a_rule_of_ones_own_works_in_an_ensemble_and_fails_as_a_result():
    assert EnsembleRM([(Words(), 1.0), (Constant(0.3), 1.0)]).score(CHAT) == pytest.approx(0.2)
    [failed] = Words().score_batch_results([conversation_of("?", "")])
    assert isinstance(failed, Failed)
    with pytest.raises(TypeError, match="neither"):
        type("Nothing", (BaseRM,), {})
    with pytest.raises(ScoringError, match="not steps"):
        Words().score_steps("?", "a")


class JudgeEndpoint(Simulator):
    """Rates by the number of words, picks the longest; ``answer`` overrides the reply."""

    answer: str | None = None

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        asked = json.loads(body["messages"][1]["content"])
        if "responses" in asked:
            order = sorted(asked["responses"], key=lambda n: -len(asked["responses"][n]))
            reply = {"best": order[: asked["winners_wanted"]]}
        else:
            words = float(min(5, len(asked["response"].split())))
            reply = {"scores": dict.fromkeys(asked["scores_wanted"], words)}
        content = self.answer or json.dumps(reply)
        return web.json_response({"choices": [{"message": {"content": content}}]})


def judge_at(endpoint: Simulator, cache: Path, **options) -> LLMJudge:
    options = {"rubric": "- Correct (weight: 0.5)\n- Clear (weight: 0.3)", **options}
    return LLMJudge("a-model", endpoint.url, endpoint.key, cache=cache, max_retries=0, **options)


def test_pointwise_judge_weighs_criteria_and_pays_once(tmp_path: Path):
    with JudgeEndpoint() as endpoint:
        judge = judge_at(endpoint, tmp_path)
        value, details = judge.score(prompt="2+2?", response="it is four", return_details=True)
        assert (value, details["normalized_score"]) == pytest.approx((3.0, 0.5))
        assert details["criteria"] == {"Correct": 3.0, "Clear": 3.0}
        assert judge.score(prompt="2+2?", response="it is four") == value
        assert len(endpoint.bodies) == 1
        assert "it is four" not in endpoint.bodies[0]["messages"][0]["content"]
        judge.close()


def test_groupwise_judge_does_not_depend_on_the_order(tmp_path: Path):
    texts = ["a", "a longer one", "the longest of all of them", "short"]
    with JudgeEndpoint() as endpoint:
        judge = judge_at(endpoint, tmp_path, mode="groupwise", top_n=2)
        chats = [conversation_of("?", text) for text in texts]
        assert judge.score_batch(chats) == [0.0, 1.0, 1.0, 0.0]
        assert judge.score_batch(chats[::-1]) == [0.0, 1.0, 1.0, 0.0]
        assert len(endpoint.bodies) == 1
        assert judge.top("?", texts, 2) == [2, 1]
        assert judge.score_batch(chats[:1]) == [None]
        judge.close()


@pytest.mark.parametrize("reply", ["prose", '{"scores": {"Correct": 9, "Clear": 1}}', "{}"])
def test_what_the_judge_says_beside_the_scale_is_no_number(reply: str, tmp_path: Path):
    with JudgeEndpoint() as endpoint:
        endpoint.answer = reply
        judge = judge_at(endpoint, tmp_path)
        assert judge.score_batch([CHAT]) == [None]
        assert len(endpoint.bodies) == 2
        with pytest.raises(ScoringError, match="could not be read"):
            judge.score(CHAT)
        judge.close()


def test_a_judge_without_key_or_with_an_unknown_option_is_refused():
    with pytest.raises(LLMError, match="LLM_API_KEY"):
        LLMJudge("m", "http://127.0.0.1:9/v1")
    with pytest.raises(SpecError, match="temperature"):
        LLMJudge("m", "http://127.0.0.1:9/v1", "k", warmth=1)


def fill(folder: str, barrier, out) -> None:
    rm = CachedRM(ProgrammaticRM("continuous"), folder)
    chats = [conversation_of("?", "word " * n) for n in range(1, 200)]
    barrier.wait()
    out.put(rm.score_batch(chats, batch_size=8))


def test_two_processes_share_a_cache(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    barrier, out = context.Barrier(2), context.Queue()
    workers = [context.Process(target=fill, args=(str(tmp_path), barrier, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = out.get(timeout=60), out.get(timeout=60)
    for worker in workers:
        worker.join(10)
    assert first == second
    again = CachedRM(ProgrammaticRM("continuous"), tmp_path)
    assert again.score_batch([conversation_of("?", "word " * n) for n in range(1, 200)]) == first
    assert (again.hits, again.misses) == (199, 0)


def test_a_cache_keeps_scores_only_and_asks_for_a_version(tmp_path: Path):
    with pytest.raises(SpecError, match="version="):
        CachedRM(Words(), tmp_path)
    rm = CachedRM(Words(), tmp_path, version="1")
    silent = conversation_of("?", "")
    assert rm.score_batch([CHAT, CHAT, silent]) == [0.1, 0.1, None]
    assert rm.score_batch([CHAT, silent]) == [0.1, None]
    assert (rm.hits, rm.misses) == (1, 4)
    other = CachedRM(Words(), tmp_path, version="2")
    other.score(CHAT)
    assert other.misses == 1


def test_density_ratio_is_the_difference_of_log_likelihoods(tmp_path: Path):
    from reward_harness.model_spec import ModelSpec
    from reward_harness.models.embedded import load_policy
    from reward_harness.models.generation import response_logprobs

    specs = [ModelSpec(source="random", name="tiny-causal", revision=str(n)) for n in (1, 2)]
    sums = []
    for spec in specs:
        model, tokenizer = load_policy(spec, tmp_path)
        [logprobs] = response_logprobs(model, tokenizer, [CHAT[:-1]], ["four"])
        sums.append(float(logprobs.sum()))
    rm = DrSow(*specs, cache=tmp_path)
    value, details = rm.score(CHAT, return_details=True)
    assert value == pytest.approx(sums[0] - sums[1], abs=1e-4)
    assert details["tokens_scored"] == len(logprobs)
    assert DrSow(specs[0], specs[0], cache=tmp_path).score(CHAT) == 0.0

    reverse = DrSow(pairs=[specs, specs[::-1]], cache=tmp_path)
    texts = ["four", "five", "the sum", "I do not know"]
    ranked = sorted(texts, key=lambda t: rm.score(conversation_of("2+2?", t)))
    path = tmp_path / "preferences.jsonl"
    rows = [
        {"prompt": "2+2?", "chosen": ranked[a], "rejected": ranked[b]}
        for a in range(4)
        for b in range(a + 1, 4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reverse._preferences = path
    fit = reverse.train()
    assert (fit.pair, fit.agreement, fit.n) == (1, 1.0, 6)
    assert fit.beta > 0
    assert reverse.score(CHAT) == pytest.approx(-fit.beta * value, rel=1e-4)


def test_unknown_names_methods_and_arguments_list_what_there_is(tmp_path: Path):
    with pytest.raises(ValueError, match=r"transformers.*vllm.*api.*openai.*rubric"):
        AutoRM.load("x", load_method="magic")
    with pytest.raises(ValueError, match=r"internlm/internlm2-7b-reward"):
        AutoRM.load("no-such-model")
    with pytest.raises(ValueError, match=r"takes no warmth.*torch_dtype"):
        AutoRM.load(str(tmp_path), warmth=1)
    with pytest.raises(LLMError, match=r"vllm serve m/PRM .*tensor-parallel-size 2"):
        AutoRM.load("m/PRM", "vllm", api_base="http://127.0.0.1:9/v1", tensor_parallel_size=2)
