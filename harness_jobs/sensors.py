"""Sensors: experiment files become partitions, drift of what is served is noticed, failures leave
a note.
"""

import dagster as dg

from harness_assets.graph import EXPERIMENTS, SECTION_KEYS, STUDIES, section_key, stage_key
from harness_jobs.external import external_runs
from harness_jobs.failures import write_failure_note
from harness_jobs.registry import changed_shared_inputs, recorded_version, sections_changed
from harness_resources.store import Store
from reward_harness.experiments import Experiments, read_experiments
from reward_harness.hashing import digest_json
from reward_harness.spec import ExperimentSpec
from reward_harness.stages.make import StageStatus, stage_status
from reward_harness.stages.table import SERVED_FROM, STAGES
from reward_harness.studies import MEMBER_KEY


@dg.sensor(
    name="experiment_registry",
    job_name="prepare_data",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A new experiment file becomes a partition; a changed one marks its readers stale.",
)
def experiment_registry(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult:
    """Add partitions, record changed sections, report prompt templates and sources."""
    found = read_experiments(store.workspace())
    for problem in found.problems:
        context.log.warning(problem)
    active = [spec for spec in found.specs if spec.status == "active"]
    new = _new_partitions(context.instance, found, active)
    requests = [
        dg.RunRequest(
            run_key=f"{spec.key}@{digest_json(spec.section_digests())[:16]}",
            partition_key=spec.key,
            asset_selection=list(SECTION_KEYS.values()),
            tags={"trigger": "experiment_registry"},
        )
        for spec in active
        if _is_followed(context.instance, spec) and sections_changed(context.instance, spec)
    ]
    changes = list(changed_shared_inputs(context.instance, store.workspace()))
    quiet = not (new or requests or changes)
    return dg.SensorResult(
        dynamic_partitions_requests=new,
        run_requests=requests,
        asset_events=changes,
        skip_reason=("; ".join(found.problems) or "no experiment file changed") if quiet else None,
    )


def _new_partitions(
    instance: dg.DagsterInstance, found: Experiments, active: list[ExperimentSpec]
) -> list[dg.AddDynamicPartitionsRequest]:
    """What makes each active experiment and study a partition that is none yet."""
    wanted = {EXPERIMENTS: [s.key for s in active], STUDIES: [s.name for s in found.studies]}
    requests: list[dg.AddDynamicPartitionsRequest] = []
    for partitions, keys in wanted.items():
        known = set(instance.get_dynamic_partitions(str(partitions.name)))
        if new := [key for key in keys if key not in known]:
            requests.append(partitions.build_add_request(new))
    return requests


def _is_followed(instance: dg.DagsterInstance, spec: ExperimentSpec) -> bool:
    """Whether the sections of this experiment are recorded as they change: a study's member only
    once it has run, for a study of a hundred members would else start a hundred runs.
    """
    first = next(iter(SECTION_KEYS))
    return (
        MEMBER_KEY.match(spec.key) is None
        or recorded_version(instance, section_key(first), spec.key) is not None
    )


@dg.sensor(
    name="deployed_rubric_drift",
    job_name="build_reward_model",
    minimum_interval_seconds=600,
    description="The served reward is no longer the newest: redeploy or say so, by experiment.",
)
def deployed_rubric_drift(
    context: dg.SensorEvaluationContext, store: Store
) -> dg.SensorResult | dg.SkipReason:
    """Compare each experiment's deployment with its current best reward."""
    requests: list[dg.RunRequest] = []
    notes: list[str] = []
    for spec in read_experiments(store.workspace()).specs:
        drifted = _drift(store, spec)
        if spec.status != "active" or drifted is None:
            continue
        if spec.reward_model.on_drift == "notify":
            notes.append(f"{spec.key}: {drifted}")
            continue
        selection = [stage_key("rm_artifact"), stage_key("rm_deployment")]
        requests.append(
            dg.RunRequest(
                run_key=f"{spec.key}@{drifted}", partition_key=spec.key, asset_selection=selection
            )
        )
    if not requests:
        return dg.SkipReason("; ".join(notes) or "every deployment serves the newest reward")
    return dg.SensorResult(run_requests=requests)


def _drift(store: Store, spec: ExperimentSpec) -> str | None:
    """Why the experiment's deployment is behind, or None; only deployed experiments can be."""
    artifacts = store.artifacts()
    if artifacts.current(spec.key, "rm_deployment") is None:
        return None
    stages = [STAGES["rm_artifact"], STAGES["rm_deployment"]]
    status = stage_status(store.workspace(), spec, stages)
    if all(state is StageStatus.FRESH for state in status.values()):
        return None
    reward = SERVED_FROM[spec.reward_model.serve]
    current = artifacts.current(spec.key, reward)
    return f"serves an older reward than {reward} {current.digest[:12]}" if current else None


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes data/dagster/failures/<run>.md: cause, last log lines, how to resume.",
)
def run_failure(context: dg.RunFailureSensorContext, store: Store) -> None:
    """Leave a note that a person can act on without the UI; the command line writes its runs'."""
    message = context.failure_event.message or ""
    write_failure_note(store.workspace(), context.instance, context.dagster_run, message)


SENSORS = [experiment_registry, deployed_rubric_drift, external_runs, run_failure]
