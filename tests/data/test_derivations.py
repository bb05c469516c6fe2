"""Deriving record types from one another keeps prompts and order of preference."""

from __future__ import annotations

from collections import Counter

import pytest

from reward_harness.data.derive import derive, pairs_from_ranked
from reward_harness.data.records import (
    Candidate,
    Message,
    PreferencePair,
    RankedPrompt,
    RLPrompt,
    SFTExample,
    StepwiseExample,
)
from reward_harness.errors import DataError

ASK = [Message(role="user", content="Why?")]


def ranked(*ranks: int | None) -> RankedPrompt:
    candidates = [
        Candidate(
            candidate_id=f"c{i}",
            text=f"text {i}",
            source=f"s{rank}",
            rank=rank,
            quality=1 / (rank or 1),
        )
        for i, rank in enumerate(ranks)
    ]
    return RankedPrompt(prompt_id="p", prompt=ASK, candidates=candidates)


def pair(number: int, prompt: list[Message] = ASK) -> PreferencePair:
    return PreferencePair(
        pair_id=f"q{number}", prompt=prompt, chosen="good", rejected="bad", source="toy"
    )


def test_all_pairs_of_different_rank_are_made_and_ties_are_not() -> None:
    pairs = pairs_from_ranked([ranked(2, 1, 2, 4)])
    assert {(p.chosen, p.rejected) for p in pairs} == {
        ("text 1", "text 0"),
        ("text 1", "text 2"),
        ("text 1", "text 3"),
        ("text 0", "text 3"),
        ("text 2", "text 3"),
    }
    by_id = {p.pair_id: p for p in pairs}
    assert by_id["p/c1>c3"].margin == 0.75
    assert by_id["p/c1>c3"].source == "s1>s4"


def test_adjacent_pairs_are_neighbours_in_rank_even_where_a_rank_is_skipped() -> None:
    pairs = pairs_from_ranked([ranked(2, 1, 2, 4)], "adjacent")
    assert ("text 1", "text 3") not in {(p.chosen, p.rejected) for p in pairs}
    assert len(pairs) == 4


def test_a_candidate_without_rank_makes_no_pair_and_no_target_but_a_prompt() -> None:
    for wanted in (PreferencePair, SFTExample):
        with pytest.raises(DataError, match="candidate 'c1' has no rank"):
            derive([ranked(1, None)], wanted)
    assert derive([ranked(1, None)], RLPrompt)[0].prompt == ASK


def test_the_best_candidate_is_imitated() -> None:
    (example,) = derive([ranked(3, 1, 2)], SFTExample)
    assert (example.response, example.source, example.example_id) == ("text 1", "s1", "p")


def test_a_pair_as_ranked_prompt_does_not_tell_the_better_one_by_its_place() -> None:
    prompts = derive([pair(i) for i in range(200)], RankedPrompt)
    places = Counter([c.rank for c in p.candidates].index(1) for p in prompts)
    assert 60 < places[0] < 140
    assert all({c.text: c.rank for c in p.candidates} == {"good": 1, "bad": 2} for p in prompts)


def test_each_different_prompt_is_rolled_out_once() -> None:
    other = [Message(role="user", content="How?")]
    prompts = derive([pair(1), pair(2, other), pair(3)], RLPrompt)
    assert [(p.prompt_id, p.prompt) for p in prompts] == [("q1", ASK), ("q2", other)]


def test_only_solutions_without_a_wrong_step_are_imitated() -> None:
    right = StepwiseExample(example_id="r", prompt=ASK, steps=["a", "b"], labels=[1, 0])
    wrong = StepwiseExample(example_id="w", prompt=ASK, steps=["a", "b"], labels=[1, -1])
    assert [e.response for e in derive([right, wrong], SFTExample)] == ["a\nb"]


def test_records_of_the_wanted_type_pass_through() -> None:
    assert derive([pair(1)], PreferencePair) == [pair(1)]


def test_a_derivation_without_meaning_says_what_would_have_one() -> None:
    example = SFTExample(example_id="e", prompt=ASK, response="x")
    with pytest.raises(DataError) as error:
        derive([example], PreferencePair)
    assert "cannot make PreferencePair" in str(error.value)
    assert "one of: PreferencePair, RankedPrompt" in str(error.value)
