"""Running experiments through the real graph in a private project, and asking Dagster what is
stale.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from harness_assets.graph import SECTION_KEYS, stage_key
from harness_jobs.definitions import defs
from reward_harness.spec import read_experiment
from reward_harness.stages import stage_status, wanted_stages
from reward_harness.stages.make import StageStatus
from reward_harness.workspace import Workspace
from tests.conftest import copy_project

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_TIMEOUT_S = 420


def environment_for(workspace: Workspace) -> dict[str, str]:
    """The environment of a command that works on this project alone."""
    return os.environ | {
        "HARNESS_ROOT": str(workspace.root),
        "DAGSTER_HOME": str(workspace.data / "dagster"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def launch_process(
    workspace: Workspace, key: str, stages: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    """``harness experiment run`` in a process group of its own; output is merged and captured."""
    argv = [sys.executable, "-m", "reward_harness.cli", "experiment", "run", key]
    argv += ["--stages", ",".join(stages)] if stages else []
    return subprocess.Popen(
        argv,
        cwd=REPOSITORY,
        env=environment_for(workspace) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def launch(workspace: Workspace) -> Callable[..., str]:
    """Run an experiment and return what was printed; the exit code must be the expected one."""

    def run(key: str, stages: Sequence[str] = (), code: int = 0, **environment: str) -> str:
        with launch_process(workspace, key, stages, **environment) as process:
            output, _ = process.communicate(timeout=LAUNCH_TIMEOUT_S)
        assert process.returncode == code, output[-4000:]
        return output

    return run


@pytest.fixture
def harness(workspace: Workspace) -> Callable[..., str]:
    """Run a ``harness`` command that must succeed; returns its output."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "reward_harness.cli", *arguments],
            cwd=REPOSITORY,
            env=environment_for(workspace),
            capture_output=True,
            text=True,
            timeout=LAUNCH_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def smoke_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a project in which `smoke` ran to its end, once for all tests."""
    root = tmp_path_factory.mktemp("finished") / "project"
    private = copy_project(root)
    with launch_process(private, "smoke") as process:
        output, _ = process.communicate(timeout=LAUNCH_TIMEOUT_S)
    assert process.returncode == 0, output[-4000:]
    return root


@pytest.fixture
def finished(smoke_once: Path, workspace: Workspace) -> Workspace:
    """A private copy of the project in which `smoke` has finished."""
    shutil.rmtree(workspace.root)
    shutil.copytree(smoke_once, workspace.root)
    return workspace


@pytest.fixture
def edit(workspace: Workspace) -> Callable[[str, Callable[[dict], None]], None]:
    """Change an experiment's YAML file through a function on its content."""

    def change(key: str, function: Callable[[dict], None]) -> None:
        path = workspace.experiments / f"{key}.yaml"
        content = yaml.safe_load(path.read_text())
        function(content)
        path.write_text(yaml.safe_dump(content))

    return change


def instance_of(workspace: Workspace) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(workspace.dagster_home))


def stages_of(workspace: Workspace, key: str) -> list[str]:
    """Names of the stages that the experiment has."""
    return [stage.name for stage in wanted_stages(read_experiment(workspace.experiments, key))]


def stale_stages(workspace: Workspace, key: str) -> set[str]:
    """Names of the stages (and ``leaderboard``) that Dagster itself calls stale or missing."""
    names = [*stages_of(workspace, key), "leaderboard"]
    with instance_of(workspace) as instance:
        resolver = CachingStaleStatusResolver(
            instance, defs().resolve_asset_graph(), LoadingContextForTest(instance)
        )
        found: set[str] = set()
        for name in names:
            asset = dg.AssetKey(["evaluations", name]) if name == "leaderboard" else stage_key(name)
            partition = None if name == "leaderboard" else key
            if resolver.get_status(asset, partition) != StaleStatus.FRESH:
                found.add(name)
    return found


def planned(workspace: Workspace, key: str) -> set[str]:
    """Names of the stages that the next run would make: what changed, and all that follows it.

    Dagster itself marks the direct readers of a change; those behind them follow as they run.
    """
    spec = read_experiment(workspace.experiments, key)
    status = stage_status(workspace, spec, wanted_stages(spec))
    return {name for name, state in status.items() if state is not StageStatus.FRESH}


def materializations(workspace: Workspace, key: str) -> dict[str, int]:
    """How often each stage's partition was materialized."""
    with instance_of(workspace) as instance:
        return {
            name: len(
                instance.fetch_materializations(
                    dg.AssetRecordsFilter(asset_key=stage_key(name), asset_partitions=[key]),
                    limit=100,
                ).records
            )
            for name in stages_of(workspace, key)
        }


__all__ = ["SECTION_KEYS", "instance_of", "launch_process", "materializations", "stale_stages"]
