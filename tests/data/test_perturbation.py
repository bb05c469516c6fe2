"""A planted mistake is the only one: its sum is wrong, and every later step goes on from it."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_harness.data.perturbation import (
    MARK,
    number,
    slipped,
    value_of,
    without_marks,
    wrong_sums,
)
from reward_harness.data.readers import READERS
from reward_harness.data.records import StepwiseExample
from reward_harness.data.splits import split_records
from reward_harness.errors import DataError
from reward_harness.sections import SplitSpec

QUESTION = "Ana packs 14 boxes of 23 pens, sells 95 pens and shares the rest among 3 friends."
LINES = [
    "Ana packs 14*23 = <<14*23=322>>322 pens.",
    "Of the 322 pens she keeps 322 - 95 = <<322-95=227>>227 pens.",
    "Each box weighs 41+5 = <<41+5=46>>46 grams.",
    "Two more are found, so there are 227 + 1 = $<<227+1=228>>228.00 pens.",
]
ROW = {"question": QUESTION, "answer": "\n".join([*LINES, "#### 228"])}


def made(seed: int = 0):
    found = slipped(QUESTION, LINES, "228", random.Random(seed))
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_slipped_sum_alone_is_wrong_and_the_answer_follows_from_it(seed: int) -> None:
    found = made(seed)
    assert [wrong_sums(line) for line in found.lines] == [
        int(index == found.wrong) for index in range(len(LINES))
    ]
    last = re.findall(r"[\d.]+", found.lines[-1])[-2:]
    assert number(found.answer) == number(last[0].rstrip(".")) != 228


def test_the_whole_step_and_all_that_follows_are_written_anew() -> None:
    first = next(f for f in map(made, range(99)) if f.wrong == 0)
    result = re.findall(r"\d+", first.lines[0])[-1]
    assert result != "322" and "322" not in " ".join(first.lines)
    assert first.lines[1].startswith(f"Of the {result} pens she keeps {result} - 95 = ")
    assert first.carried == {1, 3} and first.lines[2] == without_marks(LINES[2])
    assert first.lines[3].endswith(f"{first.answer}.00 pens."), "written as the old number was"


def test_no_step_is_planted_on_a_side_track() -> None:
    assert {made(seed).wrong for seed in range(60)} == {0, 1, 3}


def test_one_plain_sum_is_enough() -> None:
    found = slipped(QUESTION, ["3*9 = <<3*9=27>>27", "so much"], "27", random.Random(0))
    assert found is not None and found.lines == (f"3*9 = {found.answer}", "so much")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("322 less 95 is 227.", "a bare sum"),
        ("3*3 = <<3*3=9>>9 and so nine", "written as a word"),
        ("7*3 = <<7*3=23>>23", "a wrong mark"),
        ("half of it is 23", "no mark"),
        ("2*50 = <<2*50=100>>100", "a number with a meaning of its own"),
        ("46/2 = <<46/2=23>>23", "a number of the question"),
        ("46 in a hundred: 23*0.02 = <<23*0.02=.46>>.46", "a share in percent"),
    ],
)
def test_where_it_is_not_certain_nothing_is_planted(line: str, why: str) -> None:
    lines = [line, "so much"] if "227" not in line else [LINES[0], line]
    answer = re.findall(r"[\d.]+", MARK.sub("", lines[0]))[-1] if MARK.search(line) else "23"
    assert slipped(QUESTION, lines, answer, random.Random(0)) is None, why


@pytest.mark.parametrize(
    ("text", "value"),
    [("48/2", 24), ("(1+2)*.5", 1.5), ("1,200-200", 1000), ("05+1", 6), ("-3+5", 2)],
)
def test_sums_are_exact(text: str, value: float) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize("text", ["2**9", "x+1", "1/0", "20%", "", "__import__('os')"])
def test_what_is_no_plain_sum_has_no_value(text: str) -> None:
    assert value_of(text) is None


def test_sums_are_checked_as_people_write_them() -> None:
    assert wrong_sums("He pays 3 x $1,200 = $3,600 and 5+5=10.") == 0
    assert wrong_sums("He pays 3 x $1,200 = $3,601 and 5+5=11.") == 2
    assert wrong_sums("25% of 80 = 20") == 1, "not read: only the difference to the original counts"


def examples() -> list[StepwiseExample]:
    read = [found for _, found in READERS["gsm8k-steps"].read([(1, ROW)], "steps")]
    assert all(isinstance(found, StepwiseExample) for found in read)
    return [found for found in read if isinstance(found, StepwiseExample)]


def test_the_reader_gives_the_solution_and_its_wrong_twin_with_labels() -> None:
    right, wrong = examples()
    assert right.steps == [*map(without_marks, LINES)] and set(right.labels) == {1}
    assert wrong.prompt == right.prompt and wrong.labels.count(-1) == 1
    for index, (label, step) in enumerate(zip(wrong.labels, right.steps, strict=True)):
        assert (wrong.steps[index] == step) == (label == 1)
        assert wrong_sums(wrong.steps[index]) == int(label == -1)


def test_both_twins_fall_into_one_split() -> None:
    rows = [(i, {**ROW, "question": f"{QUESTION} Day {i + 400}."}) for i in range(1, 41)]
    read = [found for _, found in READERS["gsm8k-steps"].read(rows, "steps")]
    records = [found for found in read if isinstance(found, StepwiseExample)]
    splits = split_records(records, 7, SplitSpec(validation=0, test=0.4))
    names = {
        split: {e.example_id.rsplit("-", 1)[0] for e in part} for split, part in splits.items()
    }
    assert len(records) == 80 and not names["train"] & names["test"]
    assert len(splits["test"]) == 2 * len(names["test"])


def test_a_solution_without_a_result_is_an_error() -> None:
    (problem,) = [f for _, f in READERS["gsm8k-steps"].read([(1, {**ROW, "answer": "?"})], "s")]
    assert isinstance(problem, DataError) and "names no result" in str(problem)
