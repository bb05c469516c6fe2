"""Every reader on rows of its published schema, and what it says of rows that break it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.data.readers import READERS
from reward_harness.data.readers.transcripts import messages_of, split_transcript
from reward_harness.data.records import Message
from reward_harness.errors import DataError


def read(name: str, *rows: Any) -> list[Any]:
    return [read for _, read in READERS[name].read(enumerate(rows, start=1), "toy")]


def one(name: str, row: Any) -> Any:
    (record,) = read(name, row)
    assert not isinstance(record, DataError), record
    return record


def problem(name: str, row: Any) -> str:
    (found,) = read(name, row)
    assert isinstance(found, DataError), found
    return str(found)


def turns(prompt: list[Message]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in prompt]


HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"


def test_hh_splits_at_the_last_assistant_turn_and_keeps_all_turns_before() -> None:
    pair = one("hh-rlhf", {"chosen": f"{HH} see you", "rejected": f"{HH} no"})
    assert turns(pair.prompt) == [("user", "hi"), ("assistant", "hello"), ("user", "bye")]
    assert (pair.chosen, pair.rejected, pair.pair_id) == ("see you", "no", "toy-000001")


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [
        (f"{HH} a", HH.replace("bye", "ciao") + " b", "prompts of chosen and rejected differ"),
        (f"{HH}  ", f"{HH} b", "response of chosen is empty"),
        (f"{HH} a", HH, "response of rejected is empty"),
        ("\n\nHuman: hi", f"{HH} b", "no assistant turn"),
        ("x\n\nAssistant: a", "x\n\nAssistant: b", "does not start with a turn"),
        (f"{HH} a", f"{HH} a", "same text"),
        (None, f"{HH} a", "field 'chosen'"),
    ],
)
def test_hh_rows_that_are_no_pair_are_told_apart(chosen: Any, rejected: str, says: str) -> None:
    assert says in problem("hh-rlhf", {"chosen": chosen, "rejected": rejected})


speech = st.text(
    alphabet=st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1
).filter(lambda t: t.strip() == t)


@given(st.lists(speech, min_size=1, max_size=6), speech)
def test_any_conversation_survives_the_transcript_layout(said: list[str], answer: str) -> None:
    roles = [("Human", "user"), ("Assistant", "assistant")]
    prompt = "".join(f"\n\n{roles[i % 2][0]}: {text}" for i, text in enumerate(said))
    before, response = split_transcript(f"{prompt}\n\nAssistant: {answer}")
    assert response == answer
    assert turns(messages_of(before)) == [(roles[i % 2][1], t) for i, t in enumerate(said)]


def chat(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


ANSWERS = ({"role": "assistant", "content": "blue."}, {"role": "assistant", "content": "green."})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "The sky is", "chosen": "blue.", "rejected": "green."},
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": chat("The sky is"), "chosen": [ANSWERS[0]], "rejected": [ANSWERS[1]]},
        {"chosen": chat("The sky is", "blue."), "rejected": chat("The sky is", "green.")},
        {"prompt": chat("The sky is"), "chosen": "blue.", "rejected": "green."},
    ],
    ids=["explicit", "implicit", "explicit chat", "implicit chat", "chat prompt, plain answers"],
)
def test_all_layouts_of_a_trl_preference_make_the_same_pair(row: dict[str, Any]) -> None:
    pair = one("trl-preference", row)
    assert turns(pair.prompt) == [("user", "The sky is")]
    assert (pair.chosen, pair.rejected) == ("blue.", "green.")


def test_an_implicit_prompt_ends_at_a_word() -> None:
    pair = one("trl-preference", {"chosen": "The cat sat", "rejected": "The car drove"})
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("The", "cat sat", "car drove")


words = st.lists(st.sampled_from(["sun", "sunny", "moon", "mo", "a"]), min_size=1, max_size=5)


@given(words, words, words)
def test_an_implicit_prompt_loses_no_word(shared: list[str], a: list[str], b: list[str]) -> None:
    chosen, rejected = " ".join([*shared, "x", *a]), " ".join([*shared, "y", *b])
    pair = one("trl-preference", {"chosen": chosen, "rejected": rejected})
    assert f"{pair.prompt[0].content} {pair.chosen}" == chosen
    assert pair.prompt[0].content == " ".join(shared)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": "Yes", "rejected": "No"}, "do not start with the same prompt"),
        ({"chosen": chat("a", "b"), "rejected": chat("c", "d")}, "prompts of chosen and rejected"),
        ({"chosen": chat("a"), "rejected": chat("a", "d")}, "last message of chosen"),
        ({"chosen": "a", "rejected": chat("a", "d")}, "one of chosen and rejected is text"),
        ({"chosen": [ANSWERS[0]], "rejected": [ANSWERS[1]]}, "there is no prompt"),
        ({"prompt": "Q", "chosen": "a"}, "'rejected' is missing"),
        ({"prompt": "Q", "chosen": " ", "rejected": "b"}, "'chosen' is blank"),
    ],
)
def test_broken_trl_rows_say_what_is_wrong(row: dict[str, Any], says: str) -> None:
    assert says in problem("trl-preference", row)


def test_reward_bench_and_judge_bench_rows_become_pairs() -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "math-prm", "id": 3}
    pair = one("reward-bench", row)
    assert (pair.chosen, pair.source, pair.pair_id) == ("a", "math-prm", "toy-000001")
    row = {
        "pair_id": "81ec",
        "original_id": "10",
        "source": "mmlu-pro",
        "question": "Q",
        "response_model": "m",
        "response_A": "wrong",
        "response_B": "right",
        "label": "B>A",
    }
    pair = one("judge-bench", row)
    assert (pair.pair_id, pair.chosen, pair.rejected) == ("81ec", "right", "wrong")
    assert one("judge-bench", {**row, "label": "A>B"}).chosen == "wrong"
    assert "'A>B' or 'B>A'" in problem("judge-bench", {**row, "label": "A=B"})


RUBRIC_ROW = {
    "prompt_id": "p1",
    "prompt": "Write",
    "candidates": [
        {
            "candidate_id": "c1",
            "text": "good",
            "source": "strong",
            "metadata": {"quality": 0.9, "rank": 1, "note": "kept"},
        },
        {"candidate_id": "c2", "text": "bad"},
    ],
}


def test_the_rubric_dataset_lifts_labels_out_of_the_metadata() -> None:
    first, second = one("rubric-dataset", RUBRIC_ROW).candidates
    assert (first.rank, first.quality, first.source) == (1, 0.9, "strong")
    assert first.metadata == {"note": "kept"}
    assert (second.rank, second.quality, second.metadata) == (None, None, {})


@pytest.mark.parametrize("rank", [0, 1.5, "1"])
def test_a_rank_in_the_rubric_dataset_is_an_integer_from_1(rank: Any) -> None:
    candidates = [{**RUBRIC_ROW["candidates"][0], "metadata": {"rank": rank}}]  # type: ignore[dict-item]
    found = problem("rubric-dataset", {**RUBRIC_ROW, "candidates": candidates})
    assert "candidates.0.metadata.rank" in found


def test_a_rubric_prompt_with_one_candidate_is_refused() -> None:
    row = {**RUBRIC_ROW, "candidates": RUBRIC_ROW["candidates"][:1]}
    assert "at least 2 items" in problem("rubric-dataset", row)


def graded(source: str, response: str, grades: list[int], prompt: str = "Q") -> dict[str, Any]:
    text = (
        "###Task Description:\nGrade.\n\n###The instruction to evaluate:\n"
        f"{prompt}\n\n###Response to evaluate:\n{response}\n\n###Reference Answer (Score 5):\nR"
    )
    return {"idx": 7, "response_source": source, "instruction": text, "gpt4_score": grades}


def test_prometheus_rows_of_one_prompt_become_a_ranking_by_mean_grade() -> None:
    rows = [graded("m1", "ok", [3, 3]), graded("m2", "best", [5, 4]), graded("m3", "so", [2, 4])]
    (record,) = read("prometheus", *rows)
    assert record.prompt_id == "toy-7"
    assert [(c.candidate_id, c.rank, c.quality) for c in record.candidates] == [
        ("m1", 2, 3),
        ("m2", 1, 4.5),
        ("m3", 2, 3),
    ]
    (found,) = read("prometheus", graded("m1", "a", [1]), graded("m2", "b", [1], prompt="Q2"))
    assert "different prompts" in str(found)


def test_alpaca_joins_instruction_and_input() -> None:
    row = {"instruction": "Sum up.", "input": "Long text", "output": "Short"}
    assert one("alpaca", row).prompt[0].content == "Sum up.\n\nLong text"
    assert one("alpaca", {**row, "input": ""}).prompt[0].content == "Sum up."


def test_gsm8k_gives_clean_solutions_and_checkable_problems_of_the_same_prompt() -> None:
    row = {"question": "Q?", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 1,024"}
    solution, prompt = one("gsm8k-solutions", row), one("gsm8k-problems", row)
    assert solution.response == "48/2 = 24 clips.\n#### 1,024"
    assert prompt.answer == "1024"
    assert solution.prompt == prompt.prompt
    assert "'#### N' at its end" in problem("gsm8k-problems", {"question": "Q", "answer": "24"})


def test_decoded_prm800k_keeps_labels_beside_steps() -> None:
    record = one("prm800k-decoded", {"problem": "P", "steps": ["a", "b"], "labels": [1, -1]})
    assert (record.steps, record.labels) == (["a", "b"], [1, -1])
    row = {"problem": "P", "steps": ["a", "b"], "labels": [1]}
    assert "2 steps but 1 labels" in problem("prm800k-decoded", row)
    assert "labels.0" in problem("prm800k-decoded", {**row, "labels": [2, 1]})


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": False}


def prm_row(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"question": {"problem": "P"}, "label": {"steps": list(steps), "total_time": 3}}


def test_original_prm800k_follows_the_path_the_labeller_took() -> None:
    row = prm_row(
        {"completions": [completion("a", -1), completion("b", 1)], "chosen_completion": 1},
        {"completions": [completion("c", 0)], "human_completion": completion("d", None)},
        {"completions": [completion("e", None), completion("f", -1)], "chosen_completion": None},
        {"completions": [completion("never reached", 1)], "chosen_completion": 0},
    )
    record = one("prm800k", row)
    assert (record.steps, record.labels) == (["b", "d", "f"], [1, 1, -1])


def test_original_prm800k_rows_without_a_usable_path_are_problems() -> None:
    row = prm_row({"completions": [completion("a", None)], "chosen_completion": None})
    assert "no step of the solution is rated" in problem("prm800k", row)
    row = prm_row({"completions": [completion("a", 1)], "chosen_completion": 3})
    assert "chosen_completion of step 1" in problem("prm800k", row)


def test_big_bench_mistake_stops_at_the_first_mistake() -> None:
    row = {"task": "sorting", "input": "I", "steps": ["a", "b", "c"], "mistake_index": 1}
    record = one("big-bench-mistake", row)
    assert (record.steps, record.labels, record.source) == (["a", "b"], [1, -1], "sorting")
    assert one("big-bench-mistake", {**row, "mistake_index": None}).labels == [1, 1, 1]
    assert "names no step" in problem("big-bench-mistake", {**row, "mistake_index": 3})
