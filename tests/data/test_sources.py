"""Sources are found in mirror, path, hub in this order, hold what they pin, and fail with one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reward_harness.data.records import PreferencePair, RankedPrompt, RLPrompt, StepwiseExample
from reward_harness.data.source_spec import read_source, source_names
from reward_harness.data.sources import fingerprint, resolve
from reward_harness.errors import DataError, SpecError
from reward_harness.workspace import Workspace

REVISION = "0" * 39 + "a"
ROWS = [{"prompt": f"Q{i}", "chosen": "good", "rejected": "bad"} for i in range(4)]


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA_MIRROR", raising=False)


def describe(workspace: Workspace, **fields: Any) -> None:
    """Write data/sources/toy.yaml."""
    content = {
        "description": "toy",
        "licence": "CC0",
        "reader": "trl-preference",
        "path": "data/toy.jsonl",
    }
    merged = {k: v for k, v in {**content, **fields}.items() if v is not None}
    (workspace.sources / "toy.yaml").write_text(yaml.safe_dump(merged))


def rows_file(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def toy_rows(workspace: Workspace, rows: list[Any] = ROWS) -> Path:
    return rows_file(workspace.root / "data" / "toy.jsonl", rows)


def error_of(workspace: Workspace, wanted: Any = PreferencePair) -> str:
    with pytest.raises(DataError) as error:
        resolve(workspace, "toy", wanted)
    return str(error.value)


def test_a_local_path_is_relative_to_the_project(workspace: Workspace) -> None:
    describe(workspace)
    toy_rows(workspace)
    resolved = resolve(workspace, "toy", PreferencePair)
    assert resolved.origin == "path"
    assert [p.prompt[0].content for p in resolved.records] == ["Q0", "Q1", "Q2", "Q3"]
    assert [p.pair_id for p in resolved.records][:2] == ["toy-000001", "toy-000002"]


def test_the_mirror_comes_first_and_the_path_where_the_mirror_lacks_the_file(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(workspace, file="pairs/toy.jsonl")
    toy_rows(workspace)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("HARNESS_DATA_MIRROR", str(mirror))
    assert resolve(workspace, "toy", PreferencePair).origin == "path"
    rows_file(mirror / "pairs/toy.jsonl", ROWS)
    assert resolve(workspace, "toy", PreferencePair).origin == "mirror"


def test_a_file_of_a_pinned_hub_revision_is_read_from_the_hubs_cache(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    rows_file(cache / "datasets--me--toy" / "snapshots" / REVISION / "data/toy.jsonl", ROWS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    hub = {"id": "me/toy", "revision": REVISION, "file": "data/toy.jsonl"}
    describe(workspace, path=None, hub=hub)
    resolved = resolve(workspace, "toy", PreferencePair)
    assert (resolved.origin, len(resolved.records)) == ("hub", 4)


@pytest.mark.slow
def test_a_split_is_loaded_through_datasets_with_the_same_records(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``load_dataset`` takes a folder where it takes a repository, so the real code runs offline."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    describe(workspace)
    toy_rows(workspace)
    local = resolve(workspace, "toy", PreferencePair)
    folder = rows_file(tmp_path / "repository" / "train.jsonl", ROWS).parent
    hub = {"id": str(folder), "revision": REVISION, "split": "train"}
    describe(workspace, path=None, hub=hub, sha256=local.sha256)
    resolved = resolve(workspace, "toy", PreferencePair)
    assert (resolved.origin, resolved.records) == ("hub", local.records)


def test_a_source_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = {"id": "me/toy", "revision": REVISION, "file": "toy.jsonl"}
    describe(workspace, file="pairs/toy.jsonl", hub=hub)
    found = error_of(workspace)
    assert "HARNESS_DATA_MIRROR is not set" in found
    monkeypatch.setenv("HARNESS_DATA_MIRROR", str(tmp_path))
    found = error_of(workspace)
    for part in [
        f"mirror: no file {tmp_path}/pairs/toy.jsonl",
        f"path: no file {workspace.root}/data/toy.jsonl",
        "hub: me/toy at 000000000000 not available",
        "Point HARNESS_DATA_MIRROR at a folder that holds pairs/toy.jsonl",
    ]:
        assert part in found


def test_a_mirror_that_is_no_folder_is_an_error_of_its_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(workspace)
    toy_rows(workspace)
    monkeypatch.setenv("HARNESS_DATA_MIRROR", "/nowhere/mirror")
    assert "the mirror's folder does not exist; got '/nowhere/mirror'" in error_of(workspace)


def test_an_unknown_source_lists_those_that_exist(workspace: Workspace) -> None:
    with pytest.raises(DataError) as error:
        resolve(workspace, "toor", RankedPrompt)
    assert "no source 'toor'" in str(error.value)
    for name in source_names(workspace):
        assert name in str(error.value)


def test_a_changed_file_does_not_match_its_pin(workspace: Workspace) -> None:
    describe(workspace)
    toy_rows(workspace)
    pin = resolve(workspace, "toy", PreferencePair).sha256
    describe(workspace, sha256=pin)
    assert len(resolve(workspace, "toy", PreferencePair).records) == 4
    path = toy_rows(workspace, [*ROWS[:3], {**ROWS[3], "chosen": "Good"}])
    found = error_of(workspace)
    assert found.startswith(f"{path}: records are not the ones that the source pins")
    assert pin in found


BAD = {"prompt": "Q", "chosen": "x", "rejected": "x"}


def test_an_invalid_row_is_an_error_unless_it_is_listed(workspace: Workspace) -> None:
    path = toy_rows(workspace, [ROWS[0], BAD, ROWS[1]])
    describe(workspace)
    found = error_of(workspace)
    assert found.startswith(f"{path}:2: ")
    assert "the same text" in found
    assert "known_invalid" in found
    describe(workspace, known_invalid=[{"line": 2, "reason": "no difference"}])
    resolved = resolve(workspace, "toy", PreferencePair)
    assert len(resolved.records) == 2
    assert [(row.line, row.reason) for row in resolved.left_out] == [(2, "no difference")]


@pytest.mark.parametrize(
    ("line", "says"),
    [(1, "listed under known_invalid, but there is nothing wrong"), (9, "not in the file")],
)
def test_a_listed_row_that_is_valid_or_missing_is_an_error(
    workspace: Workspace, line: int, says: str
) -> None:
    toy_rows(workspace)
    describe(workspace, known_invalid=[{"line": line, "reason": "was bad once"}])
    assert says in error_of(workspace)


def test_duplicate_ids_of_a_source_are_refused(workspace: Workspace) -> None:
    row = {
        "prompt_id": "same",
        "prompt": [{"role": "user", "content": "Q"}],
        "candidates": [{"candidate_id": c, "text": c} for c in "ab"],
    }
    toy_rows(workspace, [row, row])
    describe(workspace, reader="ranked-prompts")
    assert "id is used twice" in error_of(workspace, RankedPrompt)


def test_the_rubric_dataset_needs_its_top_level_key(workspace: Workspace) -> None:
    describe(workspace, reader="rubric-dataset", path="data/toy.json")
    path = workspace.root / "data" / "toy.json"
    path.write_text('{"promts": []}')
    assert "top-level key 'prompts' with a list is missing" in error_of(workspace, RankedPrompt)
    path.write_text(json.dumps({"prompts": [{"prompt_id": "p", "prompt": "Q", "candidates": []}]}))
    found = error_of(workspace, RankedPrompt)
    assert found.startswith(f"{path}: item 1: ")
    assert "at least 2 items" in found


def test_another_record_type_is_derived_and_a_senseless_one_refused(workspace: Workspace) -> None:
    describe(workspace)
    toy_rows(workspace)
    assert len(resolve(workspace, "toy", RLPrompt).records) == 4
    found = error_of(workspace, StepwiseExample)
    assert "source 'toy': cannot make StepwiseExample records" in found


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reader": "csv"}, "there is no such reader; there are: trl-preference"),
        ({"reader": None, "path": None}, "either a `reader` or `generated`"),
        ({"path": None}, "needs a `file`, a `path` or a `hub` entry"),
        ({"sha256": "abc"}, "64 lowercase hex digits"),
        ({"licence": None}, "licence"),
        ({"hub": {"id": "a/b", "revision": "main", "split": "train"}}, "hub.revision"),
        ({"hub": {"id": "a/b", "revision": REVISION}}, "either a `file`"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_a_source_file_that_is_not_valid_names_the_field(
    workspace: Workspace, fields: dict[str, Any], says: str
) -> None:
    describe(workspace, **fields)
    with pytest.raises(SpecError) as error:
        read_source(workspace, "toy")
    assert says in str(error.value)
    assert "toy.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("generated", "says"),
    [
        ({"generator": "poetry"}, "no such generator; got 'poetry'"),
        ({"generator": "arithmetic", "params": {"count": 1}}, "field 'count'"),
        ({"generator": "arithmetic", "params": {"size": 9}}, "field 'size'"),
    ],
)
def test_a_generator_with_wrong_parameters_is_an_error(
    workspace: Workspace, generated: dict[str, Any], says: str
) -> None:
    describe(workspace, reader=None, path=None, generated=generated)
    with pytest.raises((SpecError, DataError), match=says):
        resolve(workspace, "toy", RLPrompt)


def test_the_fingerprint_follows_what_decides_the_records_and_nothing_else(
    workspace: Workspace,
) -> None:
    describe(workspace)
    toy_rows(workspace)
    first = fingerprint(workspace, "toy")
    describe(workspace, description="told in other words")
    assert fingerprint(workspace, "toy") == first
    toy_rows(workspace, ROWS[:3])
    assert fingerprint(workspace, "toy") != first
    describe(workspace, sha256="a" * 64)
    pinned = fingerprint(workspace, "toy")
    toy_rows(workspace)
    assert fingerprint(workspace, "toy") == pinned


def test_every_shipped_source_file_is_valid_and_says_its_licence(workspace: Workspace) -> None:
    names = source_names(workspace)
    assert {"tour", "sums", "smoke", "hh-rlhf-harmless", "gsm8k"} <= set(names)
    for name in names:
        spec = read_source(workspace, name)
        assert spec.licence
        assert spec.generated or spec.sha256 or spec.hub, f"{name} is not pinned"
        if "NC" in spec.licence:
            assert spec.evaluation_only
