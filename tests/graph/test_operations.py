"""Sensors on a real instance, and a study from its file to its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from harness_assets.graph import EXPERIMENTS, STUDIES, stage_key
from harness_jobs.definitions import job_named
from harness_jobs.sensors import deployed_rubric_drift, experiment_registry
from harness_resources.store import Store
from reward_harness.stages.table import STAGES
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.conftest import instance_of, materializations, stages_of

STUDY = """\
base: smoke
description: Does it matter how many rubrics a generation has?
variants:
  few: {search.population_size: 2}
  more: {search.population_size: 4}
seeds: [7, 8]
measures: [best_rubric.heldout_agreement]
"""


@pytest.fixture
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    workspace.dagster_home.mkdir(parents=True, exist_ok=True)
    with instance_of(workspace) as opened:
        yield opened


def tick(instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> dg.SensorResult:
    """One evaluation; the partitions that it asks for are added, as the daemon does."""
    with dg.build_sensor_context(instance=instance, resources={"store": Store()}) as context:
        found = sensor(context)
    assert isinstance(found, dg.SensorResult)
    for request in found.dynamic_partitions_requests or []:
        assert isinstance(request, dg.AddDynamicPartitionsRequest)
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return found


def partitions(instance: dg.DagsterInstance, of: dg.DynamicPartitionsDefinition) -> set[str]:
    return set(instance.get_dynamic_partitions(str(of.name)))


def test_a_new_file_is_a_partition_and_a_bad_one_is_told_and_hides_nothing(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    (workspace.experiments / "mine.yaml").write_text("extends: smoke\n")
    (workspace.experiments / "broken.yaml").write_text("extends: smoke\npolicyy: 3\n")
    found = tick(instance, experiment_registry)
    assert {"mine", "smoke"} <= partitions(instance, EXPERIMENTS)
    assert "broken" not in partitions(instance, EXPERIMENTS)
    assert "mine" in {request.partition_key for request in found.run_requests or []}
    again = tick(instance, experiment_registry)
    assert not again.dynamic_partitions_requests
    assert [r.run_key for r in again.run_requests or []] == [
        r.run_key for r in found.run_requests or []
    ], "the sections were not recorded, so that the same request stands; its key deduplicates it"


def test_an_edit_asks_for_the_sections_under_another_run_key(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    def key_of() -> str:
        found = tick(instance, experiment_registry)
        return next(str(r.run_key) for r in found.run_requests or [] if r.partition_key == "mine")

    (workspace.experiments / "mine.yaml").write_text("extends: smoke\n")
    first = key_of()
    (workspace.experiments / "mine.yaml").write_text("extends: smoke\nseed: 9\n")
    assert key_of() != first


def test_an_active_study_makes_its_members_partitions_and_starts_no_run(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    (workspace.studies / "sizes.yaml").write_text(STUDY)
    found = tick(instance, experiment_registry)
    members = {f"sizes--{variant}--s{seed}" for variant in ("few", "more") for seed in (7, 8)}
    assert members <= partitions(instance, EXPERIMENTS)
    assert partitions(instance, STUDIES) == {"sizes"}, "shipped studies wait until they are asked"
    assert not members & {request.partition_key for request in found.run_requests or []}


def test_nothing_deployed_is_no_drift(workspace: Workspace, instance: dg.DagsterInstance) -> None:
    with dg.build_sensor_context(instance=instance, resources={"store": Store()}) as context:
        found = deployed_rubric_drift(context)
    assert isinstance(found, dg.SkipReason)
    assert "every deployment serves the newest reward" in str(found.skip_message)


@pytest.mark.slow
@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(600)
def test_a_deployment_behind_its_reward_is_told_or_redeployed_as_the_experiment_says(
    finished: Workspace, edit: Callable[..., None]
) -> None:
    def found() -> dg.SensorResult | dg.SkipReason:
        with (
            instance_of(finished) as opened,
            dg.build_sensor_context(instance=opened, resources={"store": Store()}) as context,
        ):
            return deployed_rubric_drift(context)

    best = ArtifactStore(finished.runs).current("smoke", "best_rubric")
    assert "every deployment serves the newest reward" in str(found().skip_message)
    edit("smoke", lambda spec: spec["reward_model"]["gates"].update(heldout_prompts=3))
    behind = f"serves an older reward than best_rubric {best.digest[:12]}"
    assert found().skip_message == f"smoke: {behind}"
    edit("smoke", lambda spec: spec["reward_model"].update(on_drift="redeploy"))
    (request,) = found().run_requests
    assert (request.partition_key, request.run_key) == ("smoke", f"smoke@{behind}")
    assert request.asset_selection == [stage_key(name) for name in ("rm_artifact", "rm_deployment")]


@pytest.mark.slow
@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(600)
def test_a_study_runs_its_members_and_reports(
    workspace: Workspace, harness: Callable[..., str]
) -> None:
    (workspace.studies / "sizes.yaml").write_text(STUDY)
    stages = "ranked_prompts,rubric_population,best_rubric"
    output = harness("study", "run", "sizes", "--stages", stages)
    report = ArtifactStore(workspace.runs).current("sizes", "study_report")
    assert report is not None, output
    results = json.loads(report.file("report.json").read_bytes())
    assert results["missing"] == []
    few, more = results["rows"]
    assert [len(row["by_seed"]) for row in (few, more)] == [2, 2]
    made = [
        ArtifactStore(workspace.runs).current(f"sizes--more--s{seed}", "best_rubric")
        for seed in (7, 8)
    ]
    assert [value["value"] for value in more["by_seed"]] == pytest.approx(
        [a.manifest.metrics["heldout_agreement"].value for a in made if a is not None]
    )
    assert "sizes" in harness("study", "list")
    assert "population_size=4" in harness("study", "show", "sizes")


@pytest.mark.slow
@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(600)
def test_the_whole_job_makes_what_the_experiment_has_and_skips_nothing_for_what_it_has_not(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    """As from the UI, where a person selects the job and not the stages."""
    instance.add_dynamic_partitions(str(EXPERIMENTS.name), ["smoke"])
    result = job_named("smoke").execute_in_process(instance=instance, partition_key="smoke")
    assert result.success
    wanted = stages_of(workspace, "smoke")
    assert materializations(workspace, "smoke") == dict.fromkeys(wanted, 1)
    absent = next(name for name in STAGES if name not in wanted)
    record = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=stage_key(absent)), limit=1
    )
    assert not record.records
    assert not [event for event in result.all_events if event.is_step_skipped]
