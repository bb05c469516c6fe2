"""The local backend on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from reward_harness.errors import BudgetExceeded, LLMError
from reward_harness.llm import local_model
from reward_harness.llm.backends import backend_identity, resolve_local_model
from reward_harness.llm.budget import Caps
from reward_harness.llm.local import YES_NO, LocalRoles, open_local_roles
from reward_harness.llm.local_model import LocalModel, answer_ids
from reward_harness.llm.roles import Compared
from reward_harness.model_spec import ModelSpec
from reward_harness.models.chat import encode_prompt
from reward_harness.models.embedded import load_policy
from reward_harness.models.folders import model_folder
from reward_harness.prompts import load_templates
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import SearchConfig

TINY = ModelSpec(source="random", name="tiny-causal")
CRITERIA = [Criterion(criterion_id=f"c{i}", text=f"It says {w}.") for i, w in enumerate("abcd")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
async def open_one(cache, tmp_path):
    opened: list[LocalRoles] = []

    def open_roles(caps=None) -> LocalRoles:
        store = tmp_path / "verdicts.sqlite"
        opened.append(open_local_roles(TINY, load_templates(None, "en"), store, cache, caps))
        return opened[-1]

    yield open_roles
    for roles in opened:
        await roles.aclose()


def batches_of(monkeypatch) -> list[int]:
    seen: list[int] = []
    original = LocalModel.log_odds

    def noted(self, questions, sides):
        seen.append(len(questions))
        return original(self, questions, sides)

    monkeypatch.setattr(LocalModel, "log_odds", noted)
    return seen


async def test_grades_are_probabilities_asked_in_one_batch_and_kept(open_one, monkeypatch):
    seen = batches_of(monkeypatch)
    roles = open_one()
    results = await asyncio.gather(
        *(roles.grade("p", f"r{i}", CRITERIA, "unit_0_1") for i in range(3))
    )
    assert sum(seen) == 12
    assert len(seen) <= 2
    assert roles.gateway.usage.calls_by_role == {"verifier": 12}
    assert roles.gateway.usage.prompt_tokens > 1000
    assert all(0 < grade < 1 for grades in results for grade in grades.values())
    again = open_one()
    assert await again.grade("p", "r1", CRITERIA, "unit_0_1", vote=3) == results[1]
    assert again.gateway.usage.calls == 0


async def test_a_grade_is_the_models_own_odds(open_one, cache):
    model, tokenizer = load_policy(TINY, cache)
    local = LocalModel(model_folder(TINY, cache), "float32")
    messages = [{"role": "user", "content": "Is it so?"}]
    [odds], tokens = local.log_odds([messages], YES_NO)
    ids = encode_prompt(tokenizer, messages)
    logits = (
        model(input_ids=model.dummy_inputs["input_ids"].new_tensor([ids])).logits[0, -1].detach()
    )
    yes, no = answer_ids(tokenizer, YES_NO)
    p = logits.softmax(-1)
    assert tokens == len(ids)
    assert odds == pytest.approx(math.log(p[yes].sum() / p[no].sum()), abs=1e-4)
    assert not set(yes) & set(no)


async def test_the_batch_does_not_change_an_answer(cache):
    local = LocalModel(model_folder(TINY, cache), "float32")
    questions = [[{"role": "user", "content": "word " * n}] for n in (1, 40, 7, 200)]
    together, _ = local.log_odds(questions, YES_NO)
    alone = [local.log_odds([q], YES_NO)[0][0] for q in questions]
    assert together == pytest.approx(alone, abs=1e-4)


async def test_a_binary_scale_gets_zeros_and_ones(open_one):
    grades = await open_one().grade("p", "r", CRITERIA, "binary")
    assert set(grades.values()) <= {0.0, 1.0}


async def test_comparing_is_antisymmetric_and_asks_each_order_once(open_one):
    roles = open_one()
    there = await roles.compare("p", "a long answer", "no")
    back = await roles.compare("p", "no", "a long answer", vote=2)
    assert isinstance(there, Compared)
    assert back == Compared(-there.preference, there.consistent)
    assert roles.gateway.usage.calls_by_role == {"judge": 2}
    assert (await roles.compare("p", "same", "same")).preference == 0
    assert await roles.prefer("p", "a long answer", "no") in (1, -1, 0)


async def test_a_model_that_cannot_write_a_rubric_has_failed(open_one, monkeypatch):
    monkeypatch.setattr(local_model, "MAX_NEW_TOKENS", 8)
    roles = open_one()
    assert isinstance(await roles.initialize("p", ["a"]), Failed)
    rubric = Rubric(rubric_id="r", criteria=tuple(CRITERIA))
    assert isinstance(await roles.propose(rubric, "raise_bar", "p", "a", "b", 1), Failed)


async def test_a_written_rubric_is_read(open_one, monkeypatch):
    reply = '{"criteria": [{"text": "It is short.", "weight": 2}]}'
    monkeypatch.setattr(LocalModel, "write", lambda self, messages, vote: (reply, 10, 5))
    roles = open_one()
    [criterion] = await roles.initialize("p", ["a"])
    assert (criterion.text, criterion.weight) == ("It is short.", 2.0)
    assert roles.gateway.usage.tokens == 15


async def test_the_loop_stays_free_and_caps_hold(open_one):
    roles = open_one(Caps(max_calls=2))
    results = await asyncio.gather(
        *(roles.compare("p", f"a{i}", "b") for i in range(4)), return_exceptions=True
    )
    assert sum(isinstance(r, BudgetExceeded) for r in results) == 3
    assert roles.gateway.usage.calls == 2


async def test_a_model_that_breaks_is_an_error_for_all_who_wait(open_one, monkeypatch):
    def breaks(self, questions, sides):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LocalModel, "log_odds", breaks)
    roles = open_one()
    results = await asyncio.gather(
        *(roles.grade("p", f"r{i}", CRITERIA, "unit_0_1") for i in range(3)),
        return_exceptions=True,
    )
    assert [str(r).count("out of memory") for r in results] == [1, 1, 1]
    assert all(isinstance(r, LLMError) for r in results)


def test_the_identity_names_the_model():
    default = SearchConfig(backend="local")
    assert resolve_local_model(default).name == "smollm2-135m-instruct"
    tiny = SearchConfig(backend="local", local_model=TINY)
    assert backend_identity(tiny) == "local:random:tiny-causal::float32"
    assert backend_identity(default) != backend_identity(tiny)


async def test_questions_are_in_the_locale_of_the_templates(cache, tmp_path, monkeypatch):
    asked: list[str] = []

    async def noted(self, role, system, user, sides):
        asked.append(f"{system}\n{user}")
        return 1.0

    monkeypatch.setattr("reward_harness.llm.local.LocalGateway.log_odds", noted)
    prompts = Path(__file__).parents[2] / "prompts"
    for locale in ("en", "zh"):
        templates = load_templates(prompts, locale)
        roles = open_local_roles(TINY, templates, tmp_path / "v.sqlite", cache)
        await roles.grade("why", "```because```", CRITERIA[:1], "unit_0_1")
        await roles.compare("why", "left text", "right text")
        await roles.aclose()
    english, chinese = asked[:3], asked[3:]
    assert len(chinese) == 3  # another locale is another question
    assert all("Answer" in text and "回答" not in text for text in english)
    assert all("提示" in text and "Answer" not in text for text in chinese)
    assert all("````text" in text for text in (english[0], chinese[0]))
    assert "It says a." in english[0]
    assert "It says a." in chinese[0]
