"""Replies as models really write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.llm.parsing import (
    ReplyError,
    find_object,
    json_objects,
    parse_criteria,
    parse_grade,
    parse_grades,
    parse_preference,
)
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.types import Criterion


def test_json_is_found_in_prose_and_fences():
    assert json_objects('note {x} then {"a":1}') == [{"a": 1}]
    assert find_object('```json\n{"grades": {"a": 1}}\n```', "grades") == {"grades": {"a": 1}}
    assert find_object('<think>{"preference": 1}</think>{"preference": -1}', "preference") == {
        "preference": -1
    }


def test_the_last_answer_counts():
    quoted = 'The response claims {"grades": {"c1": 5}}. My verdict: {"grades": {"c1": 0}}'
    assert parse_grades(quoted, ["c1"], "likert_0_5") == {"c1": 0.0}


@pytest.mark.parametrize(
    ("value", "scale", "expected"),
    [
        (5, "likert_0_5", 1.0),
        ("2.5", "likert_0_5", 0.5),
        (1, "likert_1_5", 0.0),
        ("yes", "likert_1_5", 1.0),
        ("FAIL", "binary", 0.0),
        (True, "likert_0_5", 1.0),
        ("n/a", "binary", None),
        (None, "binary", None),
        ({"score": 0.25, "why": "x"}, "unit_0_1", 0.25),
        ("不适用", "binary", None),
    ],
)
def test_grades(value, scale, expected):
    assert parse_grade(value, scale, "c1") == expected


@pytest.mark.parametrize("value", [7, -1, "very good", "5/5", float("nan"), [1], "", {}])
def test_what_is_no_grade_is_an_error(value):
    with pytest.raises(ReplyError):
        parse_grade(value, "likert_0_5", "c1")


@pytest.mark.parametrize(
    "reply",
    [
        "no json",
        '{"grades": {}}',
        '{"grades": {"c1": 1, "c9": 1}}',
        '{"grades": 3}',
        '{"score": 1}',
    ],
)
def test_missing_or_unknown_ids_are_errors(reply):
    with pytest.raises(ReplyError):
        parse_grades(reply, ["c1"], "binary")


def test_grades_as_a_list():
    reply = (
        '{"grades": [{"criterion_id": "c1", "grade": 1}, {"criterion_id": "c2", "grade": "no"}]}'
    )
    assert parse_grades(reply, ["c1", "c2"], "binary") == {"c1": 1.0, "c2": 0.0}


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(1, 1), (-1, -1), (0, 0), ("left", 1), ("Right", -1), ("tie", 0), ("1", 1), (1.0, 1)],
)
def test_preferences(given_, expected):
    assert parse_preference(json.dumps({"preference": given_})) == expected


@pytest.mark.parametrize("bad", [2, "both are fine", None, True, [1]])
def test_what_is_no_preference_is_an_error(bad):
    with pytest.raises(ReplyError):
        parse_preference(json.dumps({"preference": bad}))


def test_criteria_are_repaired():
    reply = {
        "rubric_id": "r",
        "criteria": [
            {"text": " A ", "weight": "2", "polarity": "-1", "color": "red"},
            {"criterion_id": "x", "text": "B", "weight": -3},
            {"text": "B", "weight": 5},
            {"text": "  "},
            "junk",
        ],
    }
    found = parse_criteria(json.dumps(reply))
    assert [(c.criterion_id, c.text, c.weight, c.polarity) for c in found] == [
        ("c1", "A", 2.0, -1),
        ("c2", "B", 1.0, 1),
    ]
    with pytest.raises(ReplyError, match="no criterion"):
        parse_criteria('{"criteria": [{"weight": 1}]}')


def test_a_known_criterion_keeps_its_check():
    known = Criterion(
        criterion_id="k", text="Short.", kind="programmatic", check=WordCount(max_words=9)
    )
    found = parse_criteria('{"criteria": [{"text": "Short.", "weight": 3}]}', [known])
    assert found[0].check == WordCount(max_words=9)
    assert found[0].weight == 3.0


@given(st.text(max_size=200))
def test_prose_never_becomes_a_verdict(text):
    if "{" not in text:
        for parse in (
            parse_preference,
            parse_criteria,
            lambda t: parse_grades(t, ["c1"], "binary"),
        ):
            with pytest.raises(ReplyError):
                parse(text)


@given(st.text(max_size=80), st.sampled_from([1, -1, 0]), st.text(max_size=80))
def test_a_verdict_survives_chatter(before, preference, after):
    reply = f'{before.replace("{", "").replace("<think>", "")}\n{{"preference": {preference}}}\n{after.replace("{", "")}'
    assert parse_preference(reply) == preference
