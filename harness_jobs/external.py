"""The sensor that tells Dagster of recorded external runs: a declared run, a checkpoint that a
succeeded run left, an evaluation report are materializations; other ends of a run observations.

Records never change, so what has an event in its partition is known.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from harness_assets.external import CHECKPOINT, EVAL_REPORT, EVAL_RUNS, TRAINING_RUN, TRAINING_RUNS
from harness_jobs.registry import DATA_VERSION_TAG
from harness_resources.store import Store
from reward_harness.errors import DataError
from reward_harness.hashing import digest_json
from reward_harness.manifest import Frozen
from reward_harness.runs.registry import Registry, Run
from reward_harness.runs.schemas import EvalReport, TrainingResult

Event = dg.AssetMaterialization | dg.AssetObservation


@dg.sensor(
    name="external_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs recorded with `harness runs` appear as external materializations.",
)
def external_runs(
    context: dg.SensorEvaluationContext, store: Store
) -> dg.SensorResult | dg.SkipReason:
    """Report what was recorded since the last tick."""
    try:
        events = list(unreported(context.instance, Registry(store.workspace())))
    except DataError as error:
        return dg.SkipReason(str(error))
    if not events:
        return dg.SkipReason("nothing new is recorded")
    runs = {str(event.partition) for event in events if event.asset_key == TRAINING_RUN}
    evals = {str(event.partition) for event in events if event.asset_key == EVAL_REPORT}
    requests = [TRAINING_RUNS.build_add_request(sorted(runs))] if runs else []
    requests += [EVAL_RUNS.build_add_request(sorted(evals))] if evals else []
    return dg.SensorResult(dynamic_partitions_requests=requests, asset_events=events)


def unreported(instance: dg.DagsterInstance, registry: Registry) -> Iterator[Event]:
    """An event for every record that has none."""
    known = {
        key: instance.get_materialized_partitions(key)
        for key in (TRAINING_RUN, CHECKPOINT, EVAL_REPORT)
    }
    for run in registry.runs():
        name = run.manifest.training_run_id
        if name not in known[TRAINING_RUN]:
            yield _materialization(TRAINING_RUN, name, run.manifest, _declared(run))
        if run.result is not None and name not in known[CHECKPOINT]:
            yield from _end(instance, run.result)
        for report in run.evals:
            if report.eval_run_id not in known[EVAL_REPORT]:
                details = _measured(report)
                yield _materialization(EVAL_REPORT, report.eval_run_id, report, details)


def _end(instance: dg.DagsterInstance, result: TrainingResult) -> Iterator[Event]:
    """A materialization only of what is there; else an observation, once."""
    name, output = result.training_run_id, result.output
    path = output.checkpoint_path or output.model_artifact_path
    details: dict[str, Any] = {
        "status": result.status,
        "seconds": result.duration_seconds,
        "result": dg.MetadataValue.json(result.model_dump(mode="json", exclude_none=True)),
    }
    if result.status == "succeeded" and path:
        yield _materialization(
            CHECKPOINT, name, result, details | {"path": dg.MetadataValue.path(path)}
        )
        return
    records = dg.AssetRecordsFilter(asset_key=CHECKPOINT, asset_partitions=[name])
    if not instance.fetch_observations(records, limit=1).records:
        yield dg.AssetObservation(CHECKPOINT, partition=name, metadata=details)


def _materialization(
    key: dg.AssetKey, partition: str, record: Frozen, details: dict[str, Any]
) -> dg.AssetMaterialization:
    version = digest_json(record.model_dump(mode="json"))
    return dg.AssetMaterialization(
        key, partition=partition, metadata=details, tags={DATA_VERSION_TAG: version}
    )


def _declared(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "reward": manifest.rm_artifact_id,
        "endpoint": manifest.rm_endpoint,
        "dataset": f"{manifest.dataset.dataset_id} {manifest.dataset.dataset_version}",
        "trainer": f"{manifest.trainer.project} {manifest.trainer.code_version}",
        "manifest": dg.MetadataValue.json(manifest.model_dump(mode="json", exclude_none=True)),
    }


def _measured(report: EvalReport) -> dict[str, Any]:
    numbers = {
        name: dg.MetadataValue.float(metric.value) for name, metric in report.measured().items()
    }
    benchmark = report.benchmark
    return numbers | {
        "training_run": report.training_run_id,
        "benchmark": f"{benchmark.name} {benchmark.version}",
        "report": dg.MetadataValue.json(report.model_dump(mode="json", exclude_none=True)),
    }
