"""Two experiments at once on an instance whose records are in a real Postgres server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pgserver
import pytest
import yaml

from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.conftest import REPOSITORY, instance_of, launch_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = REPOSITORY / "docs" / "cluster.md"
VARIABLE = "HARNESS_POSTGRES_URL"
STAGES = ("ranked_prompts", "rubric_population", "best_rubric")
TROUBLE = re.compile(r"\blocked|deadlock|OperationalError|IntegrityError|UniqueViolation")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pgserver.PostgresServer]:
    """A server of this test alone, on a Unix socket."""
    with pgserver.get_server(tmp_path / "postgres", cleanup_mode="stop") as running:
        yield running


def on_postgres(
    workspace: Workspace, server: pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store the project's Dagster records as docs/cluster.md says."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert yaml.safe_load(block)["storage"]["postgres"]["postgres_url"] == {"env": VARIABLE}
    path = workspace.dagster_home / "dagster.yaml"
    path.write_text(f"{path.read_text()}\n{block}")
    monkeypatch.setenv(VARIABLE, server.get_uri().replace("postgresql:", "postgresql+psycopg2:"))


def searching(instance: dg.DagsterInstance) -> list[tuple[float, float]]:
    """When the steps of the pool `llm_api` ran, in both runs, by start."""
    found: list[tuple[float, float]] = []
    for run in instance.get_runs():
        for stage in STAGES[1:]:
            step = f"rubrics__{stage}"
            (stats,) = instance.get_run_step_stats(run.run_id, step_keys=[step])
            found.append((stats.start_time, stats.end_time))
    return sorted(found)


def test_two_experiments_run_at_once_without_lock_errors(
    workspace: Workspace, server: pgserver.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_postgres(workspace, server, monkeypatch)
    (workspace.experiments / "second.yaml").write_text("extends: smoke\nseed: 11\n")
    keys = ("smoke", "second")
    processes = [launch_process(workspace, key, STAGES) for key in keys]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs

    with instance_of(workspace) as instance:
        runs = {
            run.dagster_run.tags["dagster/partition"]: run for run in instance.get_run_records()
        }
        assert set(runs) == set(keys)
        assert {run.dagster_run.status for run in runs.values()} == {dg.DagsterRunStatus.SUCCESS}
        first, second = runs.values()
        assert first.start_time < second.end_time and second.start_time < first.end_time, "at once"
        for key in keys:
            made = ArtifactStore(workspace.runs).current(key, "best_rubric")
            (event,) = instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    dg.AssetKey(["rubrics", "best_rubric"]), asset_partitions=[key]
                ),
                limit=5,
            ).records
            assert event.asset_materialization.tags["dagster/data_version"] == made.digest
        spans = searching(instance)
    ends, starts = [end for _, end in spans], [start for start, _ in spans]
    assert len(spans) == 4 and all(a <= b for a, b in zip(ends, starts[1:], strict=False)), "pool"
    assert not list(workspace.dagster_home.rglob("*.db")), "SQLite was not used"
    logs = [*outputs, (workspace.dagster_home / "launch.log").read_text(), server.log.read_text()]
    assert [found for log in logs for found in TROUBLE.findall(log)] == []
