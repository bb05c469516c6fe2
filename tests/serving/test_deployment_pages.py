"""What Dagster shows of a deployment, and the job that takes one back."""

import dagster as dg
import pytest
import yaml

from harness_assets.graph import EXPERIMENTS, stage_key
from harness_assets.serving import RollbackConfig, in_force, rm_deployment
from harness_jobs.jobs import rollback
from harness_resources.store import Store
from reward_harness.rm.deployments import Deployments
from tests.serving.conftest import toy_spec


@pytest.fixture
def instance() -> dg.DagsterInstance:
    found = dg.DagsterInstance.ephemeral()
    found.add_dynamic_partitions(EXPERIMENTS.name, ["toy"])
    return found


def rolled_back(toy, instance, **config) -> dg.ExecuteInProcessResult:
    return rollback.execute_in_process(
        instance=instance,
        resources={"store": Store(root=str(toy.workspace.root))},
        run_config=dg.RunConfig(ops={"rollback_deployment": RollbackConfig(**config)}),
        raise_on_error=False,
    )


def test_the_job_does_what_the_command_does_and_is_seen_on_the_page(deploy_word, instance):
    first, second = deploy_word(), deploy_word("It is Paris")
    dev = Deployments(first.workspace, "dev")
    before = dev.current()
    assert rolled_back(first, instance, target="dev", by="ann").success
    assert dev.current().artifact_digest == first.rm_artifact.digest
    assert [(e.action, e.by) for e in dev.history()][-1] == ("rollback", "ann")
    (event,) = instance.fetch_observations(stage_key("rm_deployment"), limit=1).records
    seen = event.asset_observation
    assert seen.partition == "toy"
    assert seen.metadata["serves"].value == dev.current().artifact_id
    assert seen.metadata["rolled back from"].value == before.artifact_id
    assert second.rm_artifact.digest == before.artifact_digest
    again = rolled_back(first, instance)
    assert not again.success  # there is nothing before the first


def test_the_page_shows_what_is_served_what_was_who_and_when(deploy_word, instance):
    first = deploy_word()
    toy = deploy_word("It is Paris")
    spec = toy_spec({"backend": "heuristic"}, {})
    toy.workspace.experiments.mkdir(parents=True, exist_ok=True)
    body = spec.model_dump(mode="json", exclude={"key"}, exclude_unset=True)
    (toy.workspace.experiments / "toy.yaml").write_text(yaml.safe_dump(body))
    result = dg.materialize(
        [rm_deployment],
        partition_key="toy",
        instance=instance,
        resources={"store": Store(root=str(toy.workspace.root))},
    )
    (event,) = result.asset_materializations_for_node("serving__rm_deployment")
    current = Deployments(toy.workspace, "dev").current()
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["serves"] == current.artifact_id
    assert current.artifact_digest == toy.rm_artifact.digest
    assert (
        shown["served before"]
        == Deployments(toy.workspace, "dev").manifest(current.previous_deploy_id).artifact_id
    )
    assert (shown["deployed by"], shown["deployed at"]) == (
        current.deployed_by,
        current.deployed_at_utc,
    )
    assert shown["last switch"].startswith("deploy by ")
    assert first.rm_artifact.digest != toy.rm_artifact.digest


def test_a_target_without_deployments_shows_nothing(workspace):
    assert in_force(workspace, "prod") == {}
