import json

import pytest

from harness_assets.record import record
from reward_harness.errors import ArtifactError, GateRejected
from reward_harness.rewards.base import conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rm.deployments import Deployments
from reward_harness.rm.gates import GATES
from reward_harness.rm.probes import read_deployment
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.stages import Services
from reward_harness.stages.reproduce import reproduce
from reward_harness.store import ArtifactStore


def test_the_artifact_is_gated_verified_and_deployed(deploy_word):
    toy = deploy_word()
    manifest = toy.rm_artifact.manifest
    assert set(manifest.gates) == set(GATES)
    assert all(gate.passed for gate in manifest.gates.values())
    assert manifest.metrics["heldout_agreement"].value == 1.0
    assert {o.path for o in manifest.outputs} >= {
        "artifact.json", "gates.json", "gate_report.json", "probes.jsonl", "summary.md", "plot.png", "log/provenance.json",
    }  # fmt: skip
    rm = load_rm(toy.rm_artifact.path)
    assert rm.digest == toy.rm_artifact.digest
    assert rm.score(conversation_of("capital?", "Paris")) == 1.0

    deployment = read_deployment(toy.rm_deployment.file("deployment.json"))
    assert deployment.artifact_digest == toy.rm_artifact.digest
    assert len(deployment.probes) == 16
    assert {p.score for p in deployment.probes} == {0.0, 1.0}
    current = Deployments(toy.workspace, "dev").current()
    assert current.artifact_digest == toy.rm_artifact.digest
    assert current.source_session_id.startswith("toy/best_rubric/")
    assert len(current.dataset_hash) == len(current.config_hash) == 64


def test_the_same_rubric_again_is_the_same_artifact_and_no_new_deployment(deploy_word):
    first, again = deploy_word(), deploy_word()
    assert first.rm_artifact.digest == again.rm_artifact.digest
    assert first.rm_deployment.digest == again.rm_deployment.digest
    history = (first.workspace.deployments / "dev" / "history.jsonl").read_text()
    assert len(history.splitlines()) == 1


def test_a_changed_rubric_is_deployed_over_the_old_one_which_can_come_back(deploy_word):
    first, second = deploy_word(), deploy_word("It is Paris")
    deployments = Deployments(first.workspace, "dev")
    assert deployments.current().artifact_digest == second.rm_artifact.digest
    assert deployments.rollback().artifact_digest == first.rm_artifact.digest


def test_going_back_to_an_earlier_rubric_puts_it_in_force_again(deploy_word):
    first, second = deploy_word(), deploy_word("It is Paris")
    assert second.rm_artifact.digest != first.rm_artifact.digest
    again = deploy_word()  # reuses both stages' artifacts
    assert again.rm_deployment.digest == first.rm_deployment.digest
    assert Deployments(first.workspace, "dev").current().artifact_digest == first.rm_artifact.digest


def test_what_was_rolled_back_stays_back_until_it_is_deployed_by_name(deploy_word, caplog):
    first, second = deploy_word(), deploy_word("It is Paris")
    dev = Deployments(first.workspace, "dev")
    dev.rollback("ann")
    deploy_word("It is Paris")
    assert dev.current().artifact_digest == first.rm_artifact.digest
    assert "rolled back by ann" in caplog.text and "harness deploy" in caplog.text
    dev.deploy(second.rm_artifact.path, "ann")
    deploy_word("It is Paris")
    assert dev.current().artifact_digest == second.rm_artifact.digest


def test_making_a_deployment_again_for_comparison_moves_no_pointer(deploy_word):
    first, second = deploy_word(), deploy_word("It is Paris")
    artifact_id = first.rm_deployment.manifest.artifact_id
    assert reproduce(first.workspace, artifact_id, Services()).same_content
    current = Deployments(first.workspace, "dev").current()
    assert current.artifact_digest == second.rm_artifact.digest


def test_a_rejected_artifact_is_published_but_not_deployed(deploy_word, workspace):
    with pytest.raises(GateRejected, match="heldout_agreement"):
        deploy_word("city")
    assert Deployments(workspace, "dev").current() is None
    published = list((workspace.runs / "toy" / "rm_artifact").glob("*/gates.json"))
    assert json.loads(published[0].read_text())["heldout_agreement"]["passed"] is False
    assert not list((workspace.runs / "toy" / "rm_deployment").glob("*/manifest.json"))


def test_a_rubric_that_rewards_length_is_refused_and_shows_with_what(deploy_word, workspace):
    criterion = Criterion(
        criterion_id="words", text="long", kind="programmatic", check=WordCount(min_words=200)
    )
    with pytest.raises(GateRejected):
        deploy_word(rubric=Rubric(rubric_id="long", criteria=(criterion,)))
    published = ArtifactStore(workspace.runs).current("toy", "rm_artifact")
    assert not published.manifest.gates["length_padding"].passed
    recorded = record(published, reused=False, gates=["length_padding"])
    (check,) = recorded.check_results
    assert not check.passed
    example = check.metadata["example"].value
    assert example["after"] > example["before"] and len(example["text"]) > 100
    assert set(check.metadata["attacks"].value) >= {"restate", "politeness"}


def test_unenforced_gates_let_it_pass_on_record(deploy_word):
    toy = deploy_word("city", enforce=False)
    gate = toy.rm_artifact.manifest.gates["heldout_agreement"]
    assert (gate.passed, gate.enforced) == (False, False)
    assert Deployments(toy.workspace, "dev").current().artifact_digest == toy.rm_artifact.digest
    with pytest.raises(GateRejected):
        Deployments(toy.workspace, "prod").deploy(toy.rm_artifact.path)


def test_one_changed_byte_bars_loading(deploy_word):
    toy = deploy_word()
    path = toy.rm_artifact.path / "probes.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Paris", b"Parks", 1))
    with pytest.raises(ArtifactError, match="does not match its digest"):
        load_rm(toy.rm_artifact.path)
