"""What part of a text is graded, and noise on labels."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.rubrics.extraction import extract
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.sections import Extraction


def by_tag(text: str, **fields) -> str:
    return extract(Extraction(strategy="tag", **fields), text)


def by_regex(text: str, pattern: str, **fields) -> str:
    return extract(Extraction(strategy="regex", pattern=pattern, **fields), text)


def answer(text: str) -> str:
    return extract(Extraction(strategy="answer"), text)


def test_identity_changes_nothing():
    assert extract(Extraction(), " <content>a</content>\n") == " <content>a</content>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x <content>kept</content> y", "kept"),
        ("<CONTENT>Kept</Content>", "Kept"),
        ('<content lang="en">\n kept\n</content >', "kept"),
        ("<content>one</content> x <content>two</content>", "one\n\ntwo"),
        ("<content>one</content><content>  </content>", "one"),
        ("<content> \n </content>", "<content> \n </content>"),
        ("<content>open", "<content>open"),
        ("closed</content>", "closed</content>"),
        ("<contents>other</contents>", "<contents>other</contents>"),
        ("<content>a <content>b</content> c", "a <content>b"),
        ("nothing", "nothing"),
    ],
)
def test_tag(text, expected):
    assert by_tag(text) == expected


def test_tag_name_and_separator_are_settings():
    text = "<a.b>1</a.b><axb>2</axb><a.b>3</a.b>"
    assert by_tag(text, tag="a.b", join_separator=" | ") == "1 | 3"


@pytest.mark.parametrize(
    ("pattern", "group", "expected"),
    [
        (r"A: (\w+)", 0, "A: one\n\nA: two"),
        (r"A: (\w+)", 1, "one\n\ntwo"),
        (r"A: (\w+)( more)?", 2, "A: one; A: two"),
        (r"B: (\w+)", 1, "A: one; A: two"),
        (r"(?i)a: (t\w+)", 1, "two"),
    ],
)
def test_regex_takes_the_chosen_group(pattern, group, expected):
    assert by_regex("A: one; A: two", pattern, group=group) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>long</think> <answer>42</answer>", "42"),
        ("<Think>long</THINK>\nIt is 42.", "It is 42."),
        ("a <think>x</think> b <think>y</think> c", "a  b  c"),
        ("<think>x</think><answer> </answer> 42", "<answer> </answer> 42"),
        ("<think>only</think>", "<think>only</think>"),
        ("plain", "plain"),
    ],
)
def test_answer(text, expected):
    assert answer(text) == expected


@given(st.text(), st.sampled_from(["identity", "tag", "answer"]))
def test_a_text_never_becomes_blank(text, strategy):
    found = extract(Extraction(strategy=strategy), text)
    assert found == text or found.strip()


def test_unclosed_tags_and_long_texts_take_linear_time():
    started = time.perf_counter()
    hostile = "<content " * 50_000 + "<content>" * 50_000
    assert by_tag(hostile) == hostile
    assert by_regex("a" * 1_000_000, r"(?s)^(a+)$", group=1) == "a" * 100_000
    assert time.perf_counter() - started < 2


# --- in a search


def record(prompt_id: str = "p", ranks=(1, 2, 2), order=(0, 1, 2)) -> RankedPrompt:
    candidates = [
        Candidate(candidate_id=f"c{i}", text=f"<think>t</think> text {i}", rank=ranks[i])
        for i in order
    ]
    question = Message(role="user", content="<content>asked</content> and more")
    return RankedPrompt(prompt_id=prompt_id, prompt=[question], candidates=candidates)


def test_a_search_sees_extracted_texts():
    (plain,) = search_prompts([record()], "labels")
    assert plain.text == "<content>asked</content> and more"
    (found,) = search_prompts(
        [record()],
        "labels",
        extract=Extraction(strategy="tag"),
        candidate_extract=Extraction(strategy="answer"),
    )
    assert found.text == "asked"
    assert found.responses == ("text 0", "text 1", "text 2")


def test_noise_flips_its_share_antisymmetrically_and_no_ties():
    records = [record(f"p{i}") for i in range(600)]
    plain = search_prompts(records, "labels")
    noisy = search_prompts(records, "labels", noise=0.1)
    flipped = [int((a.judged != b.judged).sum()) // 2 for a, b in zip(plain, noisy, strict=True)]
    # two of the three pairs have a preference
    assert sum(flipped) / 1200 == pytest.approx(0.1, abs=0.025)
    for found in noisy:
        assert (found.judged == -found.judged.T).all()
        assert found.judged[1, 2] == 0


def test_noise_belongs_to_the_pair_not_to_its_place():
    for number in range(40):
        first, *_ = search_prompts([record(f"p{number}", (1, 2, 3))], "labels", noise=0.4)
        order = (2, 0, 1)
        moved, *_ = search_prompts([record(f"p{number}", (1, 2, 3), order)], "labels", noise=0.4)
        assert (moved.judged == first.judged[np.ix_(order, order)]).all()


def test_noise_follows_the_seed():
    records = [record(f"p{i}") for i in range(50)]
    first, again, other = (
        [p.judged for p in search_prompts(records, "labels", noise=0.3, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
