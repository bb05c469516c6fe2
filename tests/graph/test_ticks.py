"""What Dagster's daemons do with this project: real ticks of its schedule, sensors, backfills and
freshness policy, on a temporary instance with a code server of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateRecord
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import (
    create_test_daemon_workspace_context,
    freeze_time,
    load_remote_repo,
)
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.freshness import FreshnessDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from harness_assets.graph import EXPERIMENTS, stage_key
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.conftest import small_project
from tests.graph.conftest import instance_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LOGGER = logging.getLogger("dagster.daemon")
TODAY = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0)
MONDAY = TODAY + timedelta(days=7 - TODAY.weekday())
"""The next one: Dagster forgets ticks that are older than what dagster.yaml keeps."""
LOST = "lost"
SEARCHED = {"smoke", "tour", "tiny-1", LOST}
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Four active experiments, one of them with a source that does not exist, and an archived one."""
    private = small_project(tmp_path / "project", ["tiny-1", LOST])
    (private.experiments / "old.yaml").write_text("extends: smoke\nstatus: archived\n")
    path = private.experiments / f"{LOST}.yaml"
    path.write_text(path.read_text() + "dataset: {ranked: {source: no-such-source}}\n")
    monkeypatch.setenv("HARNESS_ROOT", str(private.root))
    monkeypatch.setenv("DAGSTER_HOME", str(private.dagster_home))
    return private


@pytest.fixture
def daemon(project: Workspace) -> Iterator[WorkspaceProcessContext]:
    target = WorkspaceFileTarget([str(project.root / "workspace.yaml")])
    with (
        instance_of(project) as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        instance.add_dynamic_partitions(str(EXPERIMENTS.name), [*sorted(SEARCHED), "old"])
        yield context


def requested(instance: dg.DagsterInstance, job: str) -> dict[str, str]:
    """Partition of every run of ``job``, by its run key."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job))
    return {run.tags["dagster/run_key"]: run.tags["dagster/partition"] for run in runs}


def schedule_tick(daemon: WorkspaceProcessContext, now: datetime) -> None:
    list(launch_scheduled_runs(daemon, LOGGER, now, iteration_times={}))


def sensor_tick(daemon: WorkspaceProcessContext, now: datetime | None = None) -> None:
    with freeze_time(now or datetime.now(UTC)):
        list(execute_sensor_iteration(daemon, LOGGER, None, None))


def test_the_schedule_asks_once_for_each_active_experiment_and_date(
    daemon: WorkspaceProcessContext,
) -> None:
    instance = daemon.instance
    schedule = load_remote_repo(daemon, "__repository__").get_schedule("weekly_rubric_research")
    with freeze_time(MONDAY - timedelta(days=1)):
        instance.start_schedule(schedule)
    soon = timedelta(seconds=5)
    schedule_tick(daemon, MONDAY - soon)
    assert requested(instance, "search_rubrics") == {}
    schedule_tick(daemon, MONDAY + soon)
    first = {f"{key}@{MONDAY.date()}": key for key in SEARCHED}
    assert requested(instance, "search_rubrics") == first

    (tick,) = instance.get_ticks(schedule.get_remote_origin_id(), schedule.selector_id)
    instance.update_tick(tick.with_status(TickStatus.STARTED))  # as a killed daemon leaves it
    schedule_tick(daemon, MONDAY + 2 * soon)
    assert requested(instance, "search_rubrics") == first
    assert instance.get_runs_count(dg.RunsFilter(job_name="search_rubrics")) == len(first)

    next_week = MONDAY + timedelta(days=7)
    schedule_tick(daemon, next_week + soon)
    second = {f"{key}@{next_week.date()}": key for key in SEARCHED}
    assert requested(instance, "search_rubrics") == first | second


def test_the_registry_asks_once_for_a_new_file(
    daemon: WorkspaceProcessContext, project: Workspace
) -> None:
    (project.experiments / "new.yaml").write_text("extends: smoke\nseed: 5\n")
    now = datetime.now(UTC)
    sensor_tick(daemon, now)
    assert "new" in daemon.instance.get_dynamic_partitions(str(EXPERIMENTS.name))
    first = requested(daemon.instance, "prepare_data")
    assert set(first.values()) == SEARCHED | {"new"}
    count = daemon.instance.get_runs_count()
    sensor_tick(daemon, now + timedelta(minutes=1))
    assert requested(daemon.instance, "prepare_data") == first
    assert daemon.instance.get_runs_count() == count


def backfilled(daemon: WorkspaceProcessContext, *keys: str) -> dict[str, dg.DagsterRun]:
    """Back-fill ``ranked_prompts`` of these experiments; the ended run of each."""
    instance, now = daemon.instance, time.time()
    workspace = daemon.create_request_context()
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="datasets",
        asset_graph=workspace.asset_graph,
        partition_names=keys,
        asset_selection=[stage_key("ranked_prompts")],
        backfill_timestamp=now,
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    list(execute_backfill_iteration(daemon, LOGGER))
    mine = dg.RunsFilter(tags={"dagster/backfill": "datasets"})
    for run in instance.get_runs(mine):
        instance.launch_run(run.run_id, workspace)
    while not all(run.status in ENDED for run in instance.get_runs(mine)):
        assert time.time() < now + 200, instance.get_runs(mine)
        time.sleep(0.2)
    runs = instance.get_runs(mine)
    assert len(runs) == len(keys)
    return {run.tags["dagster/partition"]: run for run in runs}


def test_a_backfill_is_a_run_for_each_experiment_and_a_failed_one_leaves_a_note(
    daemon: WorkspaceProcessContext, project: Workspace
) -> None:
    sensor_tick(daemon, datetime.now(UTC) - timedelta(minutes=5))  # from here on failures are seen
    runs = backfilled(daemon, "tiny-1", LOST)
    store = ArtifactStore(project.runs)
    assert runs["tiny-1"].status == dg.DagsterRunStatus.SUCCESS
    assert store.current("tiny-1", "ranked_prompts") is not None
    assert runs[LOST].status == dg.DagsterRunStatus.FAILURE
    assert store.current(LOST, "ranked_prompts") is None

    sensor_tick(daemon, datetime.now(UTC) + timedelta(minutes=5))
    (note,) = (project.dagster_home / "failures").glob("*.md")
    assert note.stem == runs[LOST].run_id
    text = note.read_text()
    assert f"failed for {LOST}" in text.splitlines()[0]
    assert "- `datasets__ranked_prompts`: " in text
    assert "no source 'no-such-source'; expected one of: " in text
    assert f"Resume: `harness experiment run {LOST}`" in text
    logged = text.split("```\n")[1].splitlines()
    assert any("datasets__ranked_prompts" in line for line in logged) and len(logged) <= 60


@pytest.mark.parametrize(
    ("days", "state"),
    [(7, FreshnessState.PASS), (9, FreshnessState.WARN), (16, FreshnessState.FAIL)],
)
def test_a_rubric_that_no_search_confirmed_for_long_is_not_fresh(
    daemon: WorkspaceProcessContext, days: int, state: FreshnessState
) -> None:
    key = stage_key("best_rubric")
    daemon.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="smoke"))
    with freeze_time(datetime.now(UTC) + timedelta(days=days)):
        list(FreshnessDaemon().run_iteration(daemon))
    (record,) = daemon.instance.get_freshness_state_records([key]).values()
    assert isinstance(record, FreshnessStateRecord) and record.freshness_state == state
