"""Record files: canonical bytes, and errors that name file, line, field, got and expected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.data.files import read_records, records_digest, write_records
from reward_harness.data.records import Candidate, Message, PreferencePair, RankedPrompt, RLPrompt
from reward_harness.errors import DataError

ASK = [Message(role="user", content="Why?")]


def pair(number: int, **changes: object) -> dict[str, object]:
    content = {"pair_id": f"p{number}", "chosen": "a", "rejected": "b", "source": "toy"}
    return {**content, "prompt": [{"role": "user", "content": "Why?"}], **changes}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_equal_records_make_equal_bytes_and_read_back(tmp_path: Path, name: str) -> None:
    records = [PreferencePair.model_validate(pair(n)) for n in range(3)]
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    write_records(first, records)
    write_records(second, records)
    assert first.read_bytes() == second.read_bytes()
    assert read_records(first, PreferencePair) == records


def test_lines_are_canonical_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    write_records(path, [RLPrompt(prompt_id="ü", prompt=ASK, answer="4")])
    assert path.read_text() == (
        '{"answer":"4","prompt":[{"content":"Why?","role":"user"}],"prompt_id":"ü","source":""}\n'
    )


text = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() != "")


@given(st.lists(text, min_size=1, max_size=8, unique=True), text)
def test_any_text_survives_writing_and_reading(ids: list[str], content: str) -> None:
    import tempfile

    records = [RLPrompt(prompt_id=i, prompt=[Message(role="user", content=content)]) for i in ids]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        write_records(path, records)
        assert read_records(path, RLPrompt) == records
        assert records_digest(read_records(path, RLPrompt)) == records_digest(records)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (pair(2, chosen="  "), ["field 'chosen'", "text that is not blank"]),
        ({k: v for k, v in pair(2).items() if k != "rejected"}, ["'rejected' is missing"]),
        (pair(2, prompt=[]), ["field 'prompt'", "at least 1 item"]),
        (pair(2, prompt=[{"role": "robot", "content": "x"}]), ["'prompt.0.role'", "got 'robot'"]),
        (pair(2, chosen="b"), ["chosen and rejected are the same text"]),
        (pair(2, extra=1), ["field 'extra'"]),
        ([1, 2], ["record is not valid"]),
    ],
)
def test_an_invalid_record_names_file_line_field_got_and_expected(
    tmp_path: Path, row: object, says: list[str]
) -> None:
    path = written(tmp_path, pair(1), row)
    with pytest.raises(DataError) as error:
        read_records(path, PreferencePair)
    for part in [f"{path}:2", *says]:
        assert part in str(error.value)


def test_a_line_that_is_no_json_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: not valid JSON"):
        read_records(path, RLPrompt)


def test_a_repeated_id_names_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path, pair(1), pair(2), pair(1))
    with pytest.raises(DataError, match=r":3: id is used twice; got 'p1'.*line 1"):
        read_records(path, PreferencePair)


def test_a_missing_file_and_a_torn_archive_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.jsonl", RLPrompt)
    torn = tmp_path / "torn.jsonl.gz"
    row = json.dumps({"prompt_id": "a", "prompt": [{"role": "user", "content": "x" * 5000}]})
    packed = gzip.compress(row.encode())
    for damaged in (packed[:-12], packed[:20] + b"\xff\xff" + packed[22:], b"no gzip"):
        torn.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            read_records(torn, RLPrompt)


@pytest.mark.parametrize("rank", [0, -1, 1.0, "1", True])
def test_a_rank_is_an_integer_from_1(rank: object) -> None:
    with pytest.raises(ValueError, match="rank"):
        Candidate.model_validate({"candidate_id": "a", "text": "x", "rank": rank})


def test_a_ranked_prompt_needs_two_different_candidates() -> None:
    one = Candidate(candidate_id="a", text="x")
    with pytest.raises(ValueError, match="at least 2"):
        RankedPrompt(prompt_id="p", prompt=ASK, candidates=[one])
    with pytest.raises(ValueError, match="duplicate candidate_id"):
        RankedPrompt(prompt_id="p", prompt=ASK, candidates=[one, one])
