"""One step of a search, by its rules: what is asked again, who survives, which pair is shown, when
it ends.
"""

from __future__ import annotations

import numpy as np
import pytest

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import LLMError
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.catalogue import initial_rubric
from reward_harness.rubrics.objective import Weights
from reward_harness.rubrics.search import evolution
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.evolution import rounds_of, survivors
from reward_harness.rubrics.search.mutation import perturbed
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.rubrics.search.rounds import REQUEUED, ask_round
from reward_harness.rubrics.search.session import SearchSession, search_rubrics
from reward_harness.rubrics.search.state import Member
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import SearchConfig

LADDER = ("", "one fact", "two facts, 3", "three facts: 1, 2 and 3", "It depends.", "4 of 5 facts")


def records(prompts: int, candidates: int = 4) -> list[RankedPrompt]:
    return [
        RankedPrompt(
            prompt_id=f"p{n}",
            prompt=[Message(role="user", content=f"Question {n}?")],
            candidates=[
                Candidate(candidate_id=f"c{i}", text=f"{n}.{i} {LADDER[i % 6]} {i * 'word '}", rank=i + 1)
                for i in range(candidates)
            ],
        )
        for n in range(prompts)
    ]  # fmt: skip


def config(**fields) -> SearchConfig:
    return SearchConfig(backend="heuristic", **fields)


# --- asking


async def test_a_failed_question_is_asked_again_at_the_end_five_times_at_most():
    asked: list[str] = []

    def question(name: str, failures: int, retriable: bool = True):
        async def ask() -> str | Failed:
            asked.append(name)
            failed = asked.count(name) <= failures
            return Failed("no", retriable=retriable) if failed else f"answer {name}"

        return ask

    always, thrice, never = question("a", 99), question("b", 3), question("c", 0)
    final = question("d", 99, retriable=False)
    answers = await ask_round([always, thrice, never, final])
    assert isinstance(answers[0], Failed)
    assert answers[1:3] == ["answer b", "answer c"]
    assert [asked.count(name) for name in "abcd"] == [1 + REQUEUED, 4, 1, 1]
    assert REQUEUED == 5
    assert asked[:5] == ["a", "b", "c", "d", "a"]


async def test_an_error_is_raised_only_when_all_others_have_ended():
    ended: list[int] = []

    async def fail() -> str:
        raise LLMError("refused")

    async def work() -> str:
        ended.append(1)
        return "kept"

    with pytest.raises(LLMError, match="refused"):
        await ask_round([fail, work, work])
    assert len(ended) == 2


# --- population


def member(number: int, score: float | None, safe: bool = True) -> Member:
    rubric = Rubric(
        rubric_id="r", criteria=[Criterion(criterion_id="a", text=f"Criterion {number}.")]
    )
    return Member(
        rubric=rubric, score=score, agreement=None, tail_acc=0.5, diverse_tail_acc=0.5,
        tail_var=0.0, unscored=0, safe=safe, mode="x", born=0,
    )  # fmt: skip


def test_elites_and_a_fifth_of_the_old_survive_and_the_best_of_all_others_follow():
    old = [member(i, 0.9 - i / 10) for i in range(8)]
    born = [member(10 + i, 0.95 - i / 100) for i in range(8)]
    kept = survivors(old, born, config(population_size=8, survival_fraction=0.2, elitism_count=2))
    assert len(kept) == 8
    assert [m for m in kept if m in old] == old[:2]
    assert [m for m in kept if m in born] == born[:6]
    half = survivors(old, born, config(population_size=8, survival_fraction=0.5))
    assert [m for m in half if m in old] == old[:4]
    unscored = [member(20, None), member(21, 0.1)]
    assert survivors(unscored, [], config()) == (unscored[1],)


def test_hardness_is_a_small_margin_and_a_population_in_doubt():
    evaluator = Evaluator(search_prompts(records(1), "labels"), Weights())
    words = [Criterion(criterion_id=w, text=w) for w in "ab"]
    one, other = (Rubric(rubric_id="r", criteria=[c]) for c in words)
    for rubric, values in ((one, [1.0, 0.6, 0.0, 0.0]), (other, [0.0, 0.0, 0.2, 1.0])):
        row = evaluator.matrix.row(rubric.criteria[0], 1)
        row.values[0, :], row.known[0, :] = values, True
    assert evaluator.hardness([one], one, 0) == pytest.approx(1 / 1.4)
    assert evaluator.hardness([one, one, one, other], one, 0) == pytest.approx(1 / 1.4 + 2 * 0.25)


# --- iterative


def shown_pairs(monkeypatch) -> list[tuple[int, tuple[int, int] | None, str]]:
    seen: list[tuple[int, tuple[int, int] | None, str]] = []
    make = evolution.make_children

    async def noted(plans, *rest):
        seen.extend((plan.prompt, plan.pair, plan.mode) for plan in plans)
        return await make(plans, *rest)

    monkeypatch.setattr(evolution, "make_children", noted)
    return seen


def test_refinement_shows_each_response_once_and_stops_when_none_are_left(monkeypatch):
    seen = shown_pairs(monkeypatch)
    result = search_rubrics(records(1, 6), config(mode="iterative", iterations=9))
    pairs = [pair for _, pair, _ in seen]
    assert sorted(i for pair in pairs for i in pair) == list(range(6))
    assert len(pairs) == 3
    assert result.stopped == "all responses were used"


def test_two_responses_are_looked_at_again(monkeypatch):
    seen = shown_pairs(monkeypatch)
    result = search_rubrics(records(1, 2), config(mode="iterative", iterations=4))
    assert [sorted(pair) for _, pair, _ in seen] == [[0, 1]] * 4
    assert result.stopped == "all iterations were made"


def test_the_designer_is_shown_the_pair_that_is_due(monkeypatch):
    contexts: list[tuple[str, str]] = []
    session = SearchSession.create(records(1, 6), config(mode="iterative", iterations=3))
    designer = session._bench.designer
    make = designer.child

    async def noted(parent, mode, context, rng, number):
        contexts.append((context.top, context.runner_up))
        return await make(parent, mode, context, rng, number)

    monkeypatch.setattr(designer, "child", noted)
    session.run()
    session.close()
    texts = [text for pair in contexts for text in pair]
    assert len(texts) == len(set(texts)) >= 4


def test_modes_take_turns_or_follow_the_schedule_over_the_iterations(monkeypatch):
    seen = shown_pairs(monkeypatch)
    fields = {"mode": "iterative", "semantic_operators": False, "iterations": 10, "generations": 2}
    search_rubrics(records(10), config(**fields))
    assert [mode for *_, mode in seen][:8] == [
        "raise_bar", "decompose", "factual_focus", "anti_fluff", "counterexample_trigger",
        "weight_perturb", "fit_weights", "raise_bar",
    ]  # fmt: skip
    seen.clear()
    adaptive = config(**fields, adaptive_mutation="exploration_decay", exploration_phase_ratio=0.5)
    assert rounds_of(adaptive) == 10
    weights: list[tuple[int, int]] = []
    plain = evolution.weights_of

    def noted(config, modes, stats, generation, generations, diversity):
        weights.append((generation, generations))
        return plain(config, modes, stats, generation, generations, diversity)

    monkeypatch.setattr(evolution, "weights_of", noted)
    result = search_rubrics(records(10), adaptive)
    assert weights == [(i, 10) for i in range(10)]
    assert sum(r.tried for r in result.state.units[0].stats.modes.values()) > 0


# --- ends


def test_a_prompt_stops_once_its_best_response_stands_out():
    fields = {"scope": "prompt_local", "generations": 6, "stagnation_generations": 9}
    data = records(3)
    early = search_rubrics(data, config(**fields, distinguish_margin=0.0))
    never = search_rubrics(data, config(**fields, stop_when_distinguished=False))
    assert any(u.finished == "its best responses are told apart" for u in early.state.units)
    assert {u.finished for u in never.state.units} == {"all generations were made"}


def test_a_search_without_gain_ends_early():
    fields = {"generations": 30, "stagnation_generations": 2, "population_size": 4}
    unit = search_rubrics(records(3), config(**fields)).state.units[0]
    assert unit.finished == "no gain in 2 generations"
    assert unit.generation < 30


def test_perturbed_weights_ask_nothing_new():
    first = initial_rubric()
    changed = perturbed(first, np.random.default_rng(0))
    assert changed.digest != first.digest
    assert [c.grading_digest for c in changed.criteria] == [
        c.grading_digest for c in first.criteria
    ]
