"""Generated sums: answers are right, wrong steps are wrong, every use asks the same questions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.data.files import records_digest
from reward_harness.data.generators import ARITHMETIC, ArithmeticParams, problems
from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    RLPrompt,
    SFTExample,
    StepwiseExample,
    prompt_key,
)
from reward_harness.errors import DataError

PARAMS = ArithmeticParams(count=150, seed=4, steps=3)


def holds(step: str) -> bool:
    left, right = step.rstrip(".").split(" = ")
    return eval(left) == int(right)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_answers_agree_with_an_independent_reading_of_the_formula(seed: int, steps: int) -> None:
    params = ArithmeticParams(count=12, seed=seed, steps=steps)
    for problem in problems(params):
        assert problem.answer >= 0
        if found := re.fullmatch(r"Calculate (.*)\.", problem.question):
            assert eval(found[1]) == problem.answer


def test_questions_are_put_in_the_forms_asked_for() -> None:
    params = ArithmeticParams(count=60, seed=2, steps=1, forms=("words", "formula"))
    asked = {re.sub(r"\d+|plus|minus|times|[-+*]", "#", p.question) for p in problems(params)}
    assert asked == {"What is # # #?", "Calculate # # #."}


def test_worked_solutions_are_right_step_by_step() -> None:
    for example in ARITHMETIC[SFTExample](PARAMS):
        assert isinstance(example, SFTExample)
        *steps, conclusion = example.response.split("\n")
        assert all(holds(step) for step in steps)
        assert conclusion == f"The answer is {steps[-1].split(' = ')[1]}"


def test_a_planted_mistake_is_marked_and_carried_through() -> None:
    examples = ARITHMETIC[StepwiseExample](PARAMS)
    answers = {p.prompt[0].content: p.answer for p in ARITHMETIC[RLPrompt](PARAMS)}  # type: ignore[union-attr]
    later = 0
    for example in examples:
        assert isinstance(example, StepwiseExample)
        answer = answers[example.prompt[0].content]
        right = example.example_id.endswith("right")
        assert (example.steps[-1] == f"The answer is {answer}.") == right
        if right:
            assert set(example.labels) == {1}
            continue
        planted = example.labels.index(-1)
        assert set(example.labels[:planted]) <= {1}
        assert set(example.labels[planted + 1 : -1]) <= {0}
        assert example.labels[-1] == -1
        assert all(holds(s) for s in example.steps[planted + 1 : -1])
        twin = next(
            e for e in examples if e.example_id == example.example_id.replace("wrong", "right")
        )  # type: ignore[union-attr]
        assert example.steps[:planted] == twin.steps[:planted]  # type: ignore[union-attr]
        assert all(
            a != b for a, b in zip(example.steps[planted:], twin.steps[planted:], strict=True)
        )  # type: ignore[union-attr]
        later += planted > 0
    assert later > 20


def test_both_kinds_of_blunder_occur() -> None:
    wrong = [e for e in ARITHMETIC[StepwiseExample](PARAMS) if e.example_id.endswith("wrong")]  # type: ignore[union-attr]
    planted = [e.steps[e.labels.index(-1)] for e in wrong]  # type: ignore[union-attr]
    slips = sum(not holds(step) for step in planted)
    assert 30 < slips < len(planted) - 30


def test_every_record_type_asks_the_same_questions() -> None:
    asked = {
        wanted: {prompt_key(r.prompt) for r in make(PARAMS)} for wanted, make in ARITHMETIC.items()
    }
    assert len(asked[RLPrompt]) == PARAMS.count
    assert all(keys == asked[RLPrompt] for keys in asked.values())


def test_pairs_and_rankings_prefer_the_right_answer() -> None:
    answers = {p.prompt_id: f"The answer is {p.answer}." for p in ARITHMETIC[RLPrompt](PARAMS)}  # type: ignore[union-attr]
    for pair in ARITHMETIC[PreferencePair](PARAMS):
        assert isinstance(pair, PreferencePair)
        assert pair.chosen.endswith(answers[pair.pair_id])
        assert not pair.rejected.endswith(answers[pair.pair_id])
    first_places = set()
    for prompt in ARITHMETIC[RankedPrompt](PARAMS):
        assert isinstance(prompt, RankedPrompt)
        by_rank = {c.rank: c.text for c in prompt.candidates}
        assert sorted(by_rank) == [1, 2, 3, 4]
        assert by_rank[1].endswith(answers[prompt.prompt_id])
        assert by_rank[2] == answers[prompt.prompt_id]
        first_places.add([c.rank for c in prompt.candidates].index(1))
    assert first_places == {0, 1, 2, 3}


def test_the_generated_sets_stay_what_they_are() -> None:
    """If this changes on purpose, raise ARITHMETIC_VERSION: experiments made from it turn stale."""
    params = ArithmeticParams(count=24, seed=1, largest=20, steps=2)
    assert {t.__name__: records_digest(make(params))[:12] for t, make in ARITHMETIC.items()} == {
        "RLPrompt": "ede2d6442384",
        "SFTExample": "11aadf0a8155",
        "StepwiseExample": "04228bacd332",
        "PreferencePair": "d2a06911c623",
        "RankedPrompt": "114f8fd07278",
    }


def test_too_few_possible_questions_are_an_error() -> None:
    with pytest.raises(DataError, match="cannot make so many different questions"):
        problems(ArithmeticParams(count=5000, largest=5, steps=1, operations=("times",)))
