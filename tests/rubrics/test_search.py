"""The search: improves, is deterministic at any concurrency, resumes exactly, stops at a budget,
leaks nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from reward_harness.data.files import read_records
from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import BudgetExceeded, DataError, LLMError, SpecError
from reward_harness.llm.gateway import Caps
from reward_harness.rewards.base import Scored
from reward_harness.rubrics.catalogue import broad_rubric, initial_rubric, rubric_of
from reward_harness.rubrics.objective import Weights
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.fitting import fit_weights, refit
from reward_harness.rubrics.search.hardening import SAFE_GAIN, Hardening
from reward_harness.rubrics.search.matrix import GradeMatrix, weighted
from reward_harness.rubrics.search.mutation import perturbed
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.rubrics.search.selection import choose_parents, distance
from reward_harness.rubrics.search.session import SearchSession, search_rubrics
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.search.surroundings import Surroundings
from reward_harness.rubrics.types import Criterion, Rubric, score
from reward_harness.sections import Endpoint, SearchConfig
from tests.llm.simulator import Simulator

TOUR = Path(__file__).parents[2] / "data/tour/ranked_prompts.jsonl"
WORDS = ("because", "example", "limit", "blue", "seven", "note", "river", "stone")


def records(count: int, ranked: bool = True, candidates: int = 4) -> list[RankedPrompt]:
    """Responses with planted words; "because", "example" and "limit" make them good."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(count):
        texts, seen = [], set()
        while len(texts) < candidates:
            chosen = sorted(rng.choice(WORDS, size=int(rng.integers(1, 6)), replace=False).tolist())
            if tuple(chosen) not in seen:
                seen.add(tuple(chosen))
                texts.append(f"Answer {number}.{len(texts)} {' '.join(chosen)}")
        worth = [sum(w in t for w in WORDS[:3]) for t in texts]
        order = sorted(set(worth), reverse=True)
        made.append(
            RankedPrompt(
                prompt_id=f"p{number}",
                prompt=[Message(role="user", content=f"Question number {number}?")],
                candidates=[
                    Candidate(
                        candidate_id=f"c{i}",
                        text=t,
                        source=f"CANARY-source-{i % 2}",
                        rank=order.index(w) + 1 if ranked else None,
                        metadata={"note": "CANARY-metadata"},
                    )
                    for i, (t, w) in enumerate(zip(texts, worth, strict=True))
                ],
            )
        )
    return made


def config(**fields) -> SearchConfig:
    return SearchConfig(
        **{"generations": 3, "population_size": 5, "mutations_per_round": 4, **fields}
    )


@pytest.fixture
def simulator(monkeypatch):
    with Simulator() as running:
        monkeypatch.setenv("TEST_KEY", running.key)
        yield running


def remote(simulator, concurrency=16, **fields) -> SearchConfig:
    endpoint = Endpoint(
        base_url=simulator.url, api_key_env="TEST_KEY", model="m", concurrency=concurrency
    )
    return config(backend="openai", endpoint=endpoint, **fields)


def heuristic(**fields) -> SearchConfig:
    return config(backend="heuristic", **fields)


# --- arrays


def test_the_matrix_scores_as_the_formula_does():
    prompts, responses = (
        ["tides and moon"] * 3,
        ["The moon!", "Some things vary a lot", "- a\n- b 3 4"],
    )
    matrix = GradeMatrix(prompts, responses)
    for rubric in (initial_rubric(), perturbed(broad_rubric(), np.random.default_rng(1))):
        for column, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            grades = {c.criterion_id: c.check.grade(prompt, response) for c in rubric.criteria}
            expected = score(rubric, grades)
            assert isinstance(expected, Scored)
            assert matrix.scores(rubric, [column])[0] == pytest.approx(expected.value)


@pytest.mark.parametrize("missing", ["no", "skip", "error"])
def test_missing_grades_in_arrays(missing):
    criteria = [
        Criterion(criterion_id="a", text="a", weight=2),
        Criterion(criterion_id="b", text="b", polarity=-1),
    ]
    rubric = Rubric(rubric_id="r", criteria=criteria, missing=missing)
    grades = np.array([[0.5, np.nan, np.nan], [0.25, 1.0, np.nan]])
    found = weighted(rubric, grades)
    for column in range(3):
        given = {
            c: None if np.isnan(g) else float(g)
            for c, g in zip("ab", grades[:, column], strict=True)
        }
        expected = score(rubric, given)
        if isinstance(expected, Scored):
            assert found[column] == pytest.approx(expected.value)
        else:
            assert math.isnan(found[column])


# --- weights


def test_fitted_weights_recover_the_deciding_criterion():
    rng = np.random.default_rng(0)
    noise, signal = rng.normal(size=(200, 1)), np.abs(rng.normal(size=(200, 1)))
    weights = fit_weights(np.hstack([signal, noise, -signal]))
    assert weights[0] > 5 * weights[1]
    assert weights[2] == pytest.approx(0, abs=1e-6)


def test_limits_are_kept():
    differences = np.abs(np.random.default_rng(0).normal(size=(100, 2)))
    weights = fit_weights(differences, np.array([[1.0, -2.0]]))
    assert weights[0] - 2 * weights[1] <= 1e-6
    assert weights.max() > 0


def test_a_fitted_safe_rubric_cannot_be_talked_up():
    prompts = search_prompts(records(12), "labels")
    evaluator, hardening = Evaluator(prompts, Weights()), Hardening(prompts)
    broad = broad_rubric()
    pairs = evaluator.differences(broad, range(len(prompts)))
    safe = refit(broad, pairs, hardening.limits(broad))
    assert hardening.gain(broad) > SAFE_GAIN
    assert safe is not None
    assert hardening.gain(safe) <= SAFE_GAIN


# --- identity, parents


def member(rubric: Rubric, value: float) -> Member:
    return Member(
        rubric=rubric, score=value, agreement=None, tail_acc=0.5, diverse_tail_acc=0.5, tail_var=0.0,
        unscored=0, mode="x", born=0,
    )  # fmt: skip


def test_diversity_is_semantic():
    a = initial_rubric()
    renamed = a.model_copy(
        update={
            "rubric_id": "other",
            "criteria": tuple(
                c.model_copy(update={"criterion_id": f"z{i}"}) for i, c in enumerate(a.criteria)
            ),
        }
    )
    assert distance(a, renamed) == pytest.approx(0)
    assert distance(a, rubric_of(a.criteria[:1])) > 0.5


@pytest.mark.parametrize("strategy", ["rank", "tournament", "top_k"])
def test_parents_differ_and_are_reproducible(strategy):
    rng = np.random.default_rng(5)
    members = [member(perturbed(initial_rubric(), rng), 1 - i / 10) for i in range(9)]
    settings = heuristic(selection_strategy=strategy)
    first = choose_parents(members, 4, settings, np.random.default_rng(1))
    again = choose_parents(members, 4, settings, np.random.default_rng(1))
    assert [m.rubric.digest for m in first] == [m.rubric.digest for m in again]
    assert len({m.rubric.digest for m in first}) == 4
    if strategy != "tournament":
        assert first[0] is members[0]


# --- without a model


@pytest.mark.parametrize("mode", ["evolutionary", "iterative"])
@pytest.mark.parametrize("scope", ["shared", "prompt_local", "global_batch"])
def test_every_scope_and_mode_covers_every_prompt(mode, scope):
    data = records(6)
    result = search_rubrics(
        data, heuristic(mode=mode, scope=scope, generations=2, iterations=3), seed=1
    )
    expected = {"__shared__"} if scope == "shared" else {r.prompt_id for r in data}
    assert set(result.best_rubrics) == expected
    assert all(m.score is not None for m in result.best_members.values())


def test_the_heuristic_search_improves_safely_and_is_deterministic():
    data = read_records(TOUR, RankedPrompt)[:24]
    first, again = (search_rubrics(data, heuristic(generations=2), seed=3) for _ in range(2))
    assert first.state.model_dump_json() == again.state.model_dump_json()
    unit = first.state.units[0]
    initial = next(m for m in unit.archive if m.rubric.digest == unit.initial)
    assert unit.best.agreement > initial.agreement + 0.03
    assert unit.best.safe
    assert not initial.safe
    assert len({m.rubric.digest for m in unit.archive}) == len(unit.archive)


def test_a_search_without_labels_or_model_says_what_is_missing():
    with pytest.raises(DataError, match="needs a rank or a quality"):
        search_rubrics(records(2, ranked=False), heuristic())


def test_a_preset_starts_the_search():
    preset = rubric_of(initial_rubric().criteria[:2])
    result = search_rubrics(records(5), heuristic(), around=Surroundings(preset=preset))
    assert result.state.units[0].initial == preset.digest


def test_resume_of_another_search_is_refused(tmp_path):
    path, data = tmp_path / "s.json", records(4)
    search_rubrics(data, heuristic(), around=Surroundings(checkpoint=path))
    with pytest.raises(SpecError, match="another configuration"):
        SearchSession.resume(data, heuristic(lambda_var=0.9), path)
    with pytest.raises(SpecError, match="another data set"):
        SearchSession.resume(data[:3], heuristic(), path)
    path.write_text("{")
    with pytest.raises(SpecError, match="cannot be read"):
        SearchSession.resume(data, heuristic(), path)


# --- with a model


@pytest.mark.parametrize("ranked", [True, False])
def test_the_same_result_at_any_concurrency(simulator, tmp_path, ranked):
    data, found = records(8, ranked), []
    for concurrency in (1, 8, 64):
        around = Surroundings(cache=tmp_path / str(concurrency))
        simulator.paid.clear()
        result = search_rubrics(data, remote(simulator, concurrency), seed=5, around=around)
        found.append(result.state.model_dump_json(exclude={"spent", "ledger"}))
        assert simulator.repeated() == []
        assert result.spent.calls == simulator.answered
    assert found[0] == found[1] == found[2]
    assert ("judge" in simulator.roles) == (not ranked)


def test_a_model_search_finds_the_planted_words(simulator, tmp_path):
    around = Surroundings(cache=tmp_path)
    result = search_rubrics(records(12), remote(simulator, generations=6), seed=2, around=around)
    unit = result.state.units[0]
    initial = next(m for m in unit.archive if m.rubric.digest == unit.initial)
    assert unit.best.agreement > initial.agreement + 0.1
    assert any(w in c.text for c in unit.best.rubric.criteria for w in WORDS[:3])


def test_no_label_reaches_a_request(simulator, tmp_path):
    data = records(5, ranked=False)
    search_rubrics(data, remote(simulator), around=Surroundings(cache=tmp_path))
    assert set(simulator.roles) == {"initializer", "proposer", "verifier", "judge"}
    everything = json.dumps(simulator.bodies)
    for secret in ("CANARY", "rank", "quality", "candidate_id", simulator.key):
        assert secret not in everything


def test_a_second_search_pays_nothing(simulator, tmp_path):
    data, around = records(5), Surroundings(cache=tmp_path)
    first = search_rubrics(data, remote(simulator), around=around)
    calls = simulator.received
    second = search_rubrics(data, remote(simulator), around=around)
    assert simulator.received == calls
    assert second.spent.calls == 0
    assert second.best_rubrics == first.best_rubrics


def test_a_budget_ends_cleanly_and_resumes_to_the_same_result(simulator, tmp_path):
    data = records(6, ranked=False)
    whole = search_rubrics(data, remote(simulator), around=Surroundings(cache=tmp_path / "a"))
    simulator.paid.clear()
    checkpoint, cache = tmp_path / "b" / "s.json", tmp_path / "b"
    # the first population needs most calls: each session may make 40 more
    stopped = 0
    for _ in range(20):
        around = Surroundings(cache=cache, checkpoint=checkpoint, caps=Caps(max_calls=40))
        before = simulator.received
        try:
            result = search_rubrics(data, remote(simulator), around=around)
        except BudgetExceeded as error:
            assert "raise the cap" in str(error)
            stopped += 1
            continue
        finally:
            assert simulator.received - before <= 40
        if result.out_of_budget is None:
            break
        stopped += 1
        assert result.stopped.startswith("call budget used up")
    assert stopped > 0
    assert result.best_rubrics == whole.best_rubrics
    assert simulator.repeated() == []


def test_faults_change_nothing_but_the_calls(simulator, tmp_path):
    data = records(5, ranked=False)
    plain = search_rubrics(data, remote(simulator), around=Surroundings(cache=tmp_path / "a"))
    simulator.error_rate, simulator.broken_rate = 0.1, 0.1
    faulty = search_rubrics(data, remote(simulator), around=Surroundings(cache=tmp_path / "b"))
    assert faulty.best_rubrics == plain.best_rubrics
    assert faulty.spent.calls > plain.spent.calls


def test_total_failure_is_one_error_and_fast(simulator, tmp_path):
    simulator.error_rate = 1.0
    with pytest.raises(LLMError, match=r"in a row|could be had"):
        search_rubrics(records(5), remote(simulator), around=Surroundings(cache=tmp_path))
    assert simulator.received < 60


def test_a_wrong_key_is_one_error(simulator, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-wrong")
    with pytest.raises(LLMError, match="HTTP 401") as caught:
        search_rubrics(records(3), remote(simulator), around=Surroundings(cache=tmp_path))
    assert "sk-wrong" not in str(caught.value)
