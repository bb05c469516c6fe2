import json
from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError
from reward_harness.model_spec import ModelSpec
from reward_harness.models.folders import model_folder
from reward_harness.models.reward_head import RewardModel
from reward_harness.rewards.base import conversation_of, logistic
from reward_harness.rewards.classifier import ClassifierRM
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import (
    RMArtifact,
    Scaling,
    content_id,
    read_artifact,
    write_artifact,
)
from reward_harness.rm.package import describe_composite, rubric_artifact, rubric_runtime
from reward_harness.rubrics.types import Rubric
from reward_harness.search_sections import Extraction, SearchConfig


def rewrite(folder: Path, **changes) -> None:
    path = folder / "artifact.json"
    body = json.loads(path.read_bytes())
    body.update(changes)
    path.write_text(json.dumps({k: v for k, v in body.items() if v is not None}))


def test_a_folder_and_a_single_file_are_one_artifact(city_artifact, tmp_path: Path):
    folder, artifact = city_artifact
    file = write_artifact(artifact, tmp_path / "exported" / "rm.json")
    chat = conversation_of("capital?", "Paris")
    first, second = load_rm(folder), load_rm(file)
    assert (first.artifact_id, first.digest) == (second.artifact_id, second.digest)
    assert first.score(chat) == second.score(chat) == 1.0


def test_a_served_rubric_grades_the_part_of_a_response_that_its_search_graded(
    named_city: Rubric, tmp_path: Path
):
    runtime = rubric_runtime(
        SearchConfig(backend="heuristic", candidate_extract=Extraction(strategy="answer")), 7, None
    )
    artifact = rubric_artifact({"__shared__": named_city}, runtime, {})
    rm = load_rm(write_artifact(artifact, tmp_path / "rm.json"))

    def score(response: str) -> float:
        return rm.score(conversation_of("capital?", response))

    assert score("<think>no</think><answer>Paris</answer>") == score("Paris") > score("no")
    assert score("<think>Paris</think><answer>no</answer>") == score("no")


def test_the_identity_leaves_out_when_and_from_what(city_artifact):
    _, artifact = city_artifact
    later = artifact.model_copy(update={"created_at_utc": "2030-01-01", "source_run_id": "other"})
    assert content_id(later.content) == artifact.artifact_id
    reweighted = artifact.model_copy(update={"normalization": Scaling(mean=1.0, std=2.0, n=3)})
    assert content_id(reweighted.content) != artifact.artifact_id


def test_provenance_lies_under_log_and_comes_back(city_artifact, tmp_path: Path):
    _, artifact = city_artifact
    made = artifact.model_copy(
        update={"created_at_utc": "2030-01-01T00:00:00+00:00", "dataset_hash": "d"}
    )
    write_artifact(made, tmp_path / "made")
    assert "created_at_utc" not in json.loads((tmp_path / "made" / "artifact.json").read_bytes())
    assert read_artifact(tmp_path / "made").dataset_hash == "d"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": "9.0"}, "unknown schema version"),
        ({"runtime_snapshot": None}, "no runtime snapshot"),
        ({"artifact_id": "rm-0000"}, "does not match the artifact id"),
        ({"kind": "oracle"}, "field 'kind'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_artifact_is_refused_with_the_reason(city_artifact, changes, reason):
    folder, _ = city_artifact
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=reason):
        load_rm(folder)


def test_a_changed_weight_is_noticed(city_artifact):
    folder, _ = city_artifact
    text = (folder / "artifact.json").read_text()
    (folder / "artifact.json").write_text(text.replace('"weight": 6.0', '"weight": 9.0'))
    with pytest.raises(ArtifactError, match="does not match the artifact id"):
        load_rm(folder)


def test_missing_and_torn_files_are_artifact_errors(tmp_path: Path):
    with pytest.raises(ArtifactError, match="no such"):
        load_rm(tmp_path / "nowhere")
    (tmp_path / "artifact.json").write_text('{"schema_version": ')
    with pytest.raises(ArtifactError, match="not valid JSON"):
        load_rm(tmp_path)


def test_no_secret_and_no_time_is_in_the_identity(city_artifact, monkeypatch):
    folder, artifact = city_artifact
    text = (folder / "artifact.json").read_text()
    assert "created" not in text and 'api_key"' not in text
    assert RMArtifact.model_validate_json(text).artifact_id == artifact.artifact_id


def test_a_composite_is_its_classifier_and_the_two_rules_at_their_weights(tmp_path: Path):
    backbone = model_folder(ModelSpec(source="random", name="tiny-encoder"), tmp_path / "cache")
    model = tmp_path / "rm" / "model"
    RewardModel.from_backbone(backbone, max_length=64).save(model)
    write_artifact(describe_composite(model, (0.5, 0.3, 0.2)), tmp_path / "rm")
    rm = load_rm(tmp_path / "rm")
    learned = ClassifierRM.load(model)
    for response, rules in (("Paris", 0.3 + 0.2), ("Certainly! Paris", 0.2 / 2)):
        chat = conversation_of("capital?", response)
        expected = 0.5 * logistic(learned.score(chat)) + rules
        assert rm.score(chat) == pytest.approx(expected, abs=1e-6)
