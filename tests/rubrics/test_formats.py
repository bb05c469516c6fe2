"""Rubrics from and to the formats of others: what is kept, what is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reward_harness.cli import app
from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import DataError
from reward_harness.rubrics.catalogue import initial_rubric
from reward_harness.rubrics.files import SHARED, preset_for, read_rubrics, write_as, write_rubrics
from reward_harness.rubrics.formats import losses
from reward_harness.rubrics.search.problem import SearchPrompt, search_prompts
from reward_harness.rubrics.types import SCALE_BOUNDS, Criterion, Rubric

texts = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=30).filter(
    lambda t: t.strip()
)
parts = st.lists(
    st.tuples(texts, st.floats(0, 1e6), st.sampled_from([1, -1])), min_size=1, max_size=5
)


def rubric(items, **fields) -> Rubric:
    criteria = [
        Criterion(criterion_id=f"c{i}", text=t, weight=w, polarity=p)
        for i, (t, w, p) in enumerate(items, 1)
    ]
    return Rubric(rubric_id="r", criteria=criteria, **fields)


PLAIN = rubric([("Names a source.", 2, 1), ("Is rude.", 0.5, -1)])


def write(path: Path, body: object) -> Path:
    path.write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    return path


def contents(rubrics: dict[str, Rubric]) -> dict[str, list[tuple[str, float, int]]]:
    return {n: [(c.text, c.weight, c.polarity) for c in r.criteria] for n, r in rubrics.items()}


# --- reading


def test_the_papers_format(tmp_path):
    items = [{"criterion": "Names a source.", "weight": 2}, {"criterion": "Rude.", "weight": -0.5}]
    path = write(tmp_path / "a.json", {"prompt": "Why?", "rubrics": items, "id": 3})
    expected = {"Why?": [("Names a source.", 2.0, 1), ("Rude.", 0.5, -1)]}
    assert contents(read_rubrics(path)) == expected


def test_open_instruct_lines(tmp_path):
    lines = [
        {"query": f"Q{i}", "rubrics": [{"title": "t", "description": f"D{i}", "weight": i}]}
        for i in (1, 2)
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert contents(read_rubrics(path)) == {"Q1": [("D1", 1.0, 1)], "Q2": [("D2", 2.0, 1)]}


def test_verifiers_toml(tmp_path):
    path = write(
        tmp_path / "a.toml",
        """
[[criteria]]
name = "sourced"
text = "Names a source."
weight = 2.0

[[criteria]]
name = "rude"
text = "Is rude."
choices = ["Yes", "No"]
""",
    )
    found = read_rubrics(path)[SHARED]
    assert [c.criterion_id for c in found.criteria] == ["sourced", "rude"]
    assert [(c.weight, c.polarity) for c in found.criteria] == [(2.0, 1), (1.0, -1)]
    assert found.scale == "binary"


def test_numeric_choices_are_a_likert_scale(tmp_path):
    body = 'criteria = [{name = "a", text = "t", choices = ["1", "2", "3", "4", "5"]}]'
    assert read_rubrics(write(tmp_path / "a.toml", body))[SHARED].scale == "likert_1_5"


def test_own_shapes(tmp_path):
    own = PLAIN.model_dump(mode="json")
    entry = {"prompt_id": "p1", "rubric": own, "score": 0.7}
    for body, name in (
        (own, SHARED),
        ({"p1": own}, "p1"),
        ([entry], "p1"),
        ({"best_rubrics": [entry], "best_scores": {}}, "p1"),
    ):
        assert read_rubrics(write(tmp_path / "a.json", body)) == {name: PLAIN}
    assert read_rubrics(write(tmp_path / "a.jsonl", json.dumps(entry))) == {"p1": PLAIN}


def test_equal_texts_of_a_foreign_file_are_all_kept(tmp_path):
    items = [{"criterion": "Same.", "weight": 1}, {"criterion": "Same.", "weight": 2}]
    path = write(tmp_path / "a.json", {"rubrics": items})
    assert contents(read_rubrics(path)) == {SHARED: [("Same.", 1.0, 1), ("Same.", 2.0, 1)]}


# --- errors


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (
            "a.jsonl",
            '{"prompt": "p", "rubrics": [{"criterion": "c", "weight": 1}]}\n'
            '{"prompt": "q", "rubrics": [{"criterion": "c"}, {"criterion": "d", "weight": "x"}]}',
            r"a\.jsonl:2: field 'rubrics\.1\.weight' is not valid",
        ),
        ("a.jsonl", '{"prompt": "p"}', r"a\.jsonl:1: not an entry of a known rubric format"),
        (
            "a.jsonl",
            '{"query": "p", "rubrics": [{"description": "c"}]}\n' * 2,
            r"a\.jsonl:2: two rubrics for one prompt",
        ),
        ("a.json", '{\n "prompt": }', r"a\.json:2: not valid JSON"),
        ("a.json", '{"query": "p", "rubrics": []}', r"field 'rubrics' is not valid"),
        ("a.json", '{"p1": {"criteria": []}}', r"a\.json: p1: field 'rubric_id' is missing"),
        ("a.json", "{}", r"a\.json: no rubric in it"),
        ("a.json", "7", r"a\.json: not an entry"),
        ("a.toml", 'criteria = [{name = "a"}]', r"field 'criteria\.0\.text' is missing"),
        (
            "a.toml",
            'criteria = [{name = "a", text = "t", choices = ["bad", "good"]}]',
            "a: choices of no",
        ),
        ("a.toml", 'criteria = [{text = "t"}]', r"field 'criteria\.0\.name' is missing"),
        (
            "a.toml",
            'criteria = [{name = "a", text = "t", weight = -1}]',
            r"field 'criteria\.0\.weight' is not valid",
        ),
        (
            "a.toml",
            'criteria = [{name = "a", text = "t"}, {name = "a", text = "u"}]',
            r"two criteria of one name",
        ),
        (
            "a.toml",
            'criteria = [{name = "a", text = "t"}, {name = "b", text = "u", choices = ["1", "2", "3", "4", "5"]}]',
            r"graded on one scale",
        ),
        ("a.toml", "criteria = [", r"a\.toml: not valid TOML"),
    ],
)
def test_an_error_names_place_and_field(tmp_path, name, body, message):
    with pytest.raises(DataError, match=message):
        read_rubrics(write(tmp_path / name, body))


def test_a_missing_file_is_one_error(tmp_path):
    for name in ("a.json", "a.jsonl", "a.toml"):
        with pytest.raises(DataError, match="no such file"):
            read_rubrics(tmp_path / name)


# --- writing


@given(st.dictionaries(texts, parts, min_size=1, max_size=3), st.sampled_from([".json", ".jsonl"]))
def test_texts_weights_and_faults_survive_every_format(named, suffix):
    rubrics = {name: rubric(items) for name, items in named.items()}
    with tempfile.TemporaryDirectory() as folder:
        for format in ("own", "paper", "open-instruct"):
            path = Path(folder) / f"a{suffix}"
            write_as(path, rubrics, format)
            found = read_rubrics(path)
            assert contents(found) == contents(rubrics)
            assert {n: r.digest for n, r in found.items()} == {
                n: r.digest for n, r in rubrics.items()
            }
            before = path.read_bytes()
            write_as(path, found, format)
            assert path.read_bytes() == before


@given(parts, st.sampled_from(sorted(set(SCALE_BOUNDS) - {"unit_0_1"})))
def test_verifiers_round_trip(items, scale):
    given_rubric = rubric(items, scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        write_as(path, {"p": given_rubric}, "verifiers")
        found = read_rubrics(path)[SHARED]
    assert found.digest == given_rubric.digest
    assert [c.criterion_id for c in found.criteria] == [
        c.criterion_id for c in given_rubric.criteria
    ]


def test_code_is_not_written_as_words(tmp_path):
    with pytest.raises(DataError, match="no criterion that code computes"):
        write_as(tmp_path / "a.json", {SHARED: initial_rubric()}, "paper")
    write_as(tmp_path / "a.json", {SHARED: initial_rubric()}, "own")
    assert read_rubrics(tmp_path / "a.json") == {SHARED: initial_rubric()}


def test_a_name_that_does_not_fit_the_format_is_refused(tmp_path):
    with pytest.raises(DataError, match="not written to such a file"):
        write_as(tmp_path / "a.toml", {SHARED: PLAIN}, "paper")
    with pytest.raises(DataError, match="a verifiers file is one rubric"):
        write_as(tmp_path / "a.toml", {"a": PLAIN, "b": PLAIN}, "verifiers")


def test_losses_are_named():
    rich = Rubric(
        rubric_id="r",
        criteria=[Criterion(criterion_id="a", text="t", check_points=("x",))],
        scale="binary",
        votes=3,
    )
    assert losses(rich, "paper") == ["check_points", "scale binary", "votes 3"]
    assert losses(rich, "verifiers") == ["check_points", "votes 3"]
    fine = PLAIN.model_copy(update={"scale": "unit_0_1"})
    assert losses(fine, "verifiers") == ["scale unit_0_1"]
    assert losses(rich, "own") == losses(PLAIN, "paper") == []


# --- presets


def prompts() -> list[SearchPrompt]:
    candidates = [Candidate(candidate_id=str(i), text=f"t{i}", rank=i + 1) for i in range(2)]
    return search_prompts(
        [
            RankedPrompt(
                prompt_id=f"p{i}",
                prompt=[Message(role="user", content=f"Question {i}?")],
                candidates=candidates,
            )
            for i in range(3)
        ],
        "labels",
    )


def test_presets_are_found_by_id_text_and_the_shared_name(tmp_path):
    by_id, by_text, shared = (rubric([(t, 1, 1)]) for t in ("one", "two", "three"))
    path = tmp_path / "a.json"
    write_rubrics(path, {"p0": by_id, "Question 1?": by_text, SHARED: shared})
    assert preset_for(path, prompts(), strict=True) == {
        "p0": by_id,
        "p1": by_text,
        "p2": shared,
        SHARED: shared,
    }


def test_a_prompt_without_a_preset_is_left_out_or_an_error(tmp_path):
    path = tmp_path / "a.json"
    write_rubrics(path, {"p0": PLAIN, "p2": PLAIN})
    assert sorted(preset_for(path, prompts(), strict=False)) == ["p0", "p2"]
    with pytest.raises(DataError, match=r"no preset rubric for 1 of 3 prompts.*none for p1"):
        preset_for(path, prompts(), strict=True)


# --- command


def test_convert(tmp_path):
    source, target = tmp_path / "a.json", tmp_path / "b.jsonl"
    write_rubrics(source, {"p0": PLAIN})
    arguments = ["rubrics", "convert", str(source), str(target), "--to", "open-instruct"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(target.read_text()) == {
        "query": "p0",
        "rubrics": [
            {"description": "Names a source.", "weight": 2.0},
            {"description": "Is rude.", "weight": -0.5},
        ],
    }
    assert CliRunner().invoke(app, [*arguments[:-1], "other"]).exit_code == 2
