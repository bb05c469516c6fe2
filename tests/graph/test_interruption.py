"""Loss of nothing: killed and concurrent runs finish, and no published artifact is broken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from harness_assets.graph import EXPERIMENTS
from harness_jobs.registry import registered_instance
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.conftest import launch_process, stages_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(900)]


def kill_in_the_middle_of(workspace: Workspace, stage: str, **environment: str) -> None:
    """Start `smoke` and SIGKILL its whole process group while ``stage`` is being built."""
    process = launch_process(workspace, "smoke", **environment)
    folder = ArtifactStore(workspace.runs).stage_folder("smoke", stage)
    deadline = time.monotonic() + 300
    while not list(folder.glob(".building-*")):
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, f"{stage} did not start"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert ArtifactStore(workspace.runs).current("smoke", stage) is None


def verify_all(workspace: Workspace) -> None:
    store = ArtifactStore(workspace.runs)
    for name in stages_of(workspace, "smoke"):
        artifact = store.current("smoke", name)
        assert artifact is not None, name
        artifact.verify()
        assert not list(store.stage_folder("smoke", name).glob(".building-*"))


def test_run_killed_in_search_sft_and_ppo_finishes_when_started_again(
    workspace: Workspace, launch: Callable[..., str]
) -> None:
    for stage in ("rubric_population", "sft_checkpoint", "ppo_checkpoint"):
        kill_in_the_middle_of(workspace, stage)
    output = launch("smoke")
    assert "smoke: finished" in output
    verify_all(workspace)


def test_two_runs_of_one_experiment_at_once_share_the_work(workspace: Workspace) -> None:
    processes = [launch_process(workspace, "smoke") for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    verify_all(workspace)
    store = ArtifactStore(workspace.runs)
    for name in stages_of(workspace, "smoke"):
        assert len({p.digest for p in store.publications("smoke", name)}) == 1, name


def opens_a_new_instance(root: str, barrier: Barrier) -> None:
    workspace = Workspace(Path(root))
    barrier.wait(timeout=120)
    with registered_instance(workspace, ["smoke"]) as instance:
        assert instance.has_dynamic_partition(str(EXPERIMENTS.name), "smoke")


def test_processes_that_create_the_dagster_instance_at_once_all_get_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(workspace.dagster_home))
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    processes = [
        spawn.Process(target=opens_a_new_instance, args=(str(workspace.root), barrier))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
