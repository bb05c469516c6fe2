"""Splits depend on prompt and seed alone; near-duplicates are found exactly."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_harness.data.leakage import jaccard, near_duplicates, shingles
from reward_harness.data.records import Message, RLPrompt, SFTExample, prompt_key
from reward_harness.data.splits import SPLITS, first_prompts, split_of, split_records
from reward_harness.errors import DataError
from reward_harness.sections import SplitSpec

SPEC = SplitSpec(validation=0.1, test=0.2)


def prompts(texts: list[str]) -> list[RLPrompt]:
    return [
        RLPrompt(prompt_id=str(i), prompt=[Message(role="user", content=t)])
        for i, t in enumerate(texts)
    ]


MANY = prompts([f"question {i % 900}" for i in range(1000)])

seeds = st.integers(0, 2**31 - 1)
shuffles = st.randoms(use_true_random=False)


@given(seeds, shuffles, st.integers(2, 999))
@settings(max_examples=25)
def test_a_prompt_keeps_its_split_whatever_else_is_in_the_dataset(
    seed: int, rng: random.Random, size: int
) -> None:
    some = rng.sample(MANY, size)
    for record in some:
        assert split_of(prompt_key(record.prompt), seed, SPEC) in SPLITS
    whole = split_records(MANY, seed, SPEC)
    home = {prompt_key(r.prompt): name for name, group in whole.items() for r in group}
    for record in some:
        assert split_of(prompt_key(record.prompt), seed, SPEC) == home[prompt_key(record.prompt)]


@given(seeds)
@settings(max_examples=25)
def test_no_prompt_is_in_two_splits_and_no_record_is_lost(seed: int) -> None:
    splits = split_records(MANY, seed, SPEC)
    keys = {name: {prompt_key(r.prompt) for r in group} for name, group in splits.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
    assert sum(map(len, splits.values())) == len(MANY)


@given(seeds)
@settings(max_examples=25)
def test_shares_are_near_what_is_asked_for(seed: int) -> None:
    splits = split_records(MANY, seed, SPEC)
    assert abs(len(splits["test"]) / len(MANY) - 0.2) < 0.08
    assert abs(len(splits["validation"]) / len(MANY) - 0.1) < 0.06


def test_records_of_different_types_with_one_prompt_share_its_split() -> None:
    examples = [
        SFTExample(example_id=f"e{r.prompt_id}", prompt=r.prompt, response="x") for r in MANY[:200]
    ]
    rolled, imitated = split_records(MANY[:200], 3, SPEC), split_records(examples, 3, SPEC)
    for name in SPLITS:
        assert [r.prompt for r in rolled[name]] == [e.prompt for e in imitated[name]]


def test_another_seed_is_another_split() -> None:
    a, b = split_records(MANY, 1, SPEC), split_records(MANY, 2, SPEC)
    assert a["test"] != b["test"]


def test_an_empty_split_is_an_error_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"split is empty.*1 records of 1 prompts"):
        split_records(MANY[:1], 1, SPEC)


@given(seeds, st.integers(1, 899), shuffles)
@settings(max_examples=25)
def test_a_limit_takes_prompts_whole_and_whatever_their_order(
    seed: int, limit: int, rng: random.Random
) -> None:
    kept = first_prompts(MANY, limit, seed)
    keys = {prompt_key(r.prompt) for r in kept}
    assert len(keys) == limit
    assert kept == [r for r in MANY if prompt_key(r.prompt) in keys]
    shuffled = rng.sample(MANY, len(MANY))
    assert {prompt_key(r.prompt) for r in first_prompts(shuffled, limit, seed)} == keys
    assert keys <= {prompt_key(r.prompt) for r in first_prompts(MANY, limit + 1, seed)}


vocabulary = st.sampled_from(["a", "b", "c", "d"])
texts = st.lists(st.lists(vocabulary, max_size=12).map(" ".join), max_size=8)


@given(texts, texts, st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.integers(1, 3))
@settings(max_examples=200)
def test_near_duplicates_are_what_comparing_everything_finds(
    test: list[str], train: list[str], threshold: float, size: int
) -> None:
    expected = {}
    for i, one in enumerate(test):
        similar = [jaccard(shingles(one, size), shingles(other, size)) for other in train]
        if similar and max(similar) >= threshold:
            expected[i] = max(similar)
    found = near_duplicates(test, train, threshold=threshold, words=size)
    assert {n.test: n.similarity for n in found} == expected
    for n in found:
        assert jaccard(shingles(test[n.test], size), shingles(train[n.train], size)) == n.similarity


def test_case_and_punctuation_do_not_hide_a_duplicate_and_other_numbers_do() -> None:
    found = near_duplicates(["What IS 14 plus 7, please?"], ["what is 14 plus 7 please"])
    assert [n.similarity for n in found] == [1.0]
    assert near_duplicates(["What is 14 plus 7?"], ["What is 14 plus 8?"]) == []


def test_ten_thousand_prompts_with_common_boilerplate_take_seconds() -> None:
    rng = random.Random(0)
    start = "You are a careful assistant . Answer the question below in full sentences . "
    made = [start + " ".join(f"w{rng.randrange(3000)}" for _ in range(30)) for _ in range(10_000)]
    began = time.monotonic()
    found = near_duplicates([*made[:2000], made[5000] + " extra"], made[2000:])
    assert [n.test for n in found] == [2000]
    assert time.monotonic() - began < 20
