"""Run an experiment through the graph from a shell: ``python -m harness_jobs.launch <key>
[--stages a,b]``.

Only what is not fresh is selected: a stage whose recipe changed, whatever follows it, and what
this Dagster instance has not recorded. An unchanged experiment starts no run. The run is the same
as one started from the UI: same instance, same partition, same events; interrupting it cancels it,
and the next launch goes on from what was published.
"""

import argparse
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from harness_assets.graph import LEADERBOARD, SECTION_KEYS, stage_key
from harness_jobs.definitions import job_named
from harness_jobs.display import RunDisplay
from harness_jobs.failures import write_failure_note
from harness_jobs.recovery import owner_tag
from harness_jobs.registry import (
    recorded_version,
    registered_instance,
    sections_changed,
)
from reward_harness.errors import HarnessError, SpecError
from reward_harness.experiments import find_experiment, read_experiments
from reward_harness.spec import ExperimentSpec
from reward_harness.stages import STAGES, stage_status, wanted_stages
from reward_harness.stages.make import StageStatus
from reward_harness.store import ArtifactStore
from reward_harness.studies import read_study
from reward_harness.workspace import Workspace

LAUNCH_TAG = "harness/launch"
LOG_NAME = "launch.log"


def select_stages(
    spec: ExperimentSpec, named: Sequence[str], status: Mapping[str, StageStatus]
) -> list[str]:
    """Names of the stages to consider, inputs first: all, or those named and whatever they need
    that was never made. ``SpecError`` for one the experiment does not have.
    """
    wanted = [stage.name for stage in wanted_stages(spec)]
    for name in named:
        if name not in wanted:
            raise SpecError(
                f"no stage {name!r} in this experiment",
                where=spec.key,
                expected=f"one of: {', '.join(wanted)}",
            )
    chosen = set(named or wanted)
    for name in reversed(wanted):
        if name in chosen:
            needed = STAGES[name].inputs_of(spec)
            chosen.update(needs for needs in needed if status[needs] is StageStatus.MISSING)
    return [name for name in wanted if name in chosen]


def plan(
    instance: dg.DagsterInstance,
    workspace: Workspace,
    spec: ExperimentSpec,
    stages: Sequence[str],
    status: Mapping[str, StageStatus],
) -> list[dg.AssetKey]:
    """Asset keys of ``stages`` that have to run, in order; empty if all are fresh and recorded."""
    store = ArtifactStore(workspace.runs)
    keys: list[dg.AssetKey] = []
    for name in stages:
        current = store.current(spec.key, name)
        recorded = recorded_version(instance, stage_key(name), spec.key)
        if status[name] is not StageStatus.FRESH or current is None or recorded != current.digest:
            keys.append(stage_key(name))
    if sections_changed(instance, spec):
        keys = [*SECTION_KEYS.values(), *keys]
    return keys


def launch(key: str, named: Sequence[str]) -> int:
    """Run what is not fresh; returns the process's exit code."""
    workspace = Workspace.discover()
    spec = find_experiment(workspace, key)
    if spec.status == "archived":
        raise SpecError(
            "experiment is archived",
            where=key,
            fix="Set `status: active` in its file to run it again.",
        )
    with registered_instance(workspace, [key]) as instance:
        status = stage_status(workspace, spec, wanted_stages(spec))
        stages = select_stages(spec, named, status)
        keys = plan(instance, workspace, spec, stages, status)
        if not named and any(key.path[0] == "evaluations" for key in keys):
            keys.append(LEADERBOARD)
        display = RunDisplay(spec, stages, {k.path[-1] for k in keys})
        if not keys:
            display.nothing_to_do()
            display.show_results(ArtifactStore(workspace.runs))
            return 0
        return _execute(instance, spec, keys, display)


def _execute(
    instance: dg.DagsterInstance, spec: ExperimentSpec, keys: list[dg.AssetKey], display: RunDisplay
) -> int:
    """Execute the job on this thread while another follows its events."""
    workspace = Workspace.discover()
    tag = uuid.uuid4().hex
    job = "smoke" if spec.compute.launcher == "inline" else "run_experiment"
    done = threading.Event()
    follower = threading.Thread(target=display.follow, args=(instance, LAUNCH_TAG, tag, done))
    follower.start()
    try:
        with stderr_into(workspace.dagster_home / LOG_NAME):
            result = dg.execute_job(
                dg.build_reconstructable_job("harness_jobs.launch", "reconstruct_job", (job,)),
                instance=instance,
                tags={"dagster/partition": spec.key, LAUNCH_TAG: tag, **owner_tag()},
                asset_selection=keys,
            )
    finally:
        done.set()
        follower.join()
    run = result.dagster_run
    display.finished(None if result.success else write_failure_note(workspace, instance, run))
    display.show_results(ArtifactStore(workspace.runs))
    return 0 if result.success else 1


@contextmanager
def stderr_into(path: Path) -> Iterator[None]:
    """Send standard error, also of step processes, into a file: the display shows the events."""
    sys.stderr.flush()
    kept = os.dup(sys.stderr.fileno())
    with path.open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, sys.stderr.fileno())
        os.close(kept)


def register_all() -> int:
    """Make every active experiment file a partition, so that the UI shows it at once."""
    workspace = Workspace.discover()
    found = read_experiments(workspace)
    for problem in found.problems:
        sys.stderr.write(f"warning: {problem}\n")
    active = [spec.key for spec in found.specs if spec.status == "active"]
    with registered_instance(workspace, active, [study.name for study in found.studies]):
        return 0


def report_study(name: str) -> int:
    """Materialize a study's report over the members that have run; the process's exit code."""
    workspace = Workspace.discover()
    read_study(workspace.studies, name)
    with registered_instance(workspace, (), [name]) as instance:
        with stderr_into(workspace.dagster_home / LOG_NAME):
            result = job_named("report_study").execute_in_process(
                instance=instance, partition_key=name, raise_on_error=False
            )
        for event in result.get_step_failure_events():
            error = event.step_failure_data.error
            sys.stderr.write(f"error: {error.message.strip() if error else event.message}\n")
    return 0 if result.success else 1


def reconstruct_job(name: str) -> dg.JobDefinition:
    """How a step process finds its job again."""
    return job_named(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, run, and turn a known error into one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m harness_jobs.launch", description=__doc__)
    parser.add_argument("key", nargs="?", help="experiment: a file data/experiments/<key>.yaml")
    parser.add_argument("--register", action="store_true", help="only register all experiments")
    parser.add_argument("--study-report", metavar="STUDY", help="only make a study's report")
    parser.add_argument(
        "--stages", default="", help="comma-separated; default: all. Missing inputs come along"
    )
    parsed = parser.parse_args(arguments)
    if parsed.key is None and not parsed.register and not parsed.study_report:
        parser.error("name an experiment, or use --register or --study-report")
    try:
        if parsed.register:
            return register_all()
        if parsed.study_report:
            return report_study(parsed.study_report)
        return launch(parsed.key, [name for name in parsed.stages.split(",") if name])
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
