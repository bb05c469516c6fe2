"""Recorded external runs become events of external assets, each once."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from harness_assets.external import CHECKPOINT, EVAL_REPORT, TRAINING_RUN
from harness_jobs.external import external_runs
from harness_resources.store import Store
from reward_harness.runs.registry import Registry
from reward_harness.runs.schemas import EvalReport, TrainingManifest, TrainingResult
from reward_harness.workspace import Workspace
from tests.lineage.test_runs import eval_of, manifest_of, record, result_of


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("HARNESS_ROOT", str(tmp_path))
    return Registry(Workspace(tmp_path))


def tick(instance: dg.DagsterInstance) -> list[tuple[str, str, str]]:
    """One evaluation of the sensor; what it reported goes into the instance, as the daemon does."""
    with dg.build_sensor_context(instance=instance, resources={"store": Store()}) as context:
        result = external_runs(context)
    if isinstance(result, dg.SkipReason):
        return []
    for request in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return [
        (type(event).__name__, event.asset_key.path[-1], event.partition)
        for event in result.asset_events
    ]


def test_each_record_is_reported_once(registry):
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(instance) == []
        record(registry, TrainingManifest, manifest_of("good"))
        record(registry, TrainingManifest, manifest_of("bad"))
        assert {event[2] for event in tick(instance)} == {"good", "bad"}
        assert instance.get_materialized_partitions(TRAINING_RUN) == {"good", "bad"}
        record(registry, TrainingResult, result_of("good"))
        record(registry, TrainingResult, result_of("bad", "failed"))
        record(registry, EvalReport, eval_of("e1", "good", "2026-03-02T00:00:00Z"))
        assert sorted(tick(instance)) == [
            ("AssetMaterialization", "external_checkpoint", "good"),
            ("AssetMaterialization", "external_eval_report", "e1"),
            ("AssetObservation", "external_checkpoint", "bad"),
        ]
        assert tick(instance) == []
        assert instance.get_materialized_partitions(CHECKPOINT) == {"good"}
        event = instance.get_latest_materialization_event(EVAL_REPORT)
        metadata = event.asset_materialization.metadata
        assert metadata["accuracy"].value == 0.5 and metadata["training_run"].value == "good"


def test_a_success_without_a_checkpoint_materializes_none(registry):
    record(registry, TrainingManifest, manifest_of("run"))
    record(registry, TrainingResult, result_of("run", output={"log_path": "/log"}))
    with dg.DagsterInstance.ephemeral() as instance:
        assert ("AssetObservation", "external_checkpoint", "run") in tick(instance)


def test_a_broken_record_is_told_and_stops_nothing_else(registry):
    folder = registry.root / "manifests"
    folder.mkdir(parents=True)
    (folder / "broken.json").write_text("{}")
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"store": Store()}) as context,
    ):
        skipped = external_runs(context)
    assert isinstance(skipped, dg.SkipReason) and "broken.json" in skipped.skip_message
