"""Runs whose process was killed: told apart from running ones, closed, and their pool slots freed.

Dagster's daemon does this for runs that it launched. A run started from a shell belongs to no
daemon, so the next launch looks after it: a killed trainer would otherwise hold the ``gpu`` pool
for ever.
"""

import os
import socket

import dagster as dg
import psutil

OWNER_TAG = "harness/owner"
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def owner_tag() -> dict[str, str]:
    """Names this process as the one that executes a run: host, pid and start time."""
    return {OWNER_TAG: _name(psutil.Process())}


def close_killed_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs of this host whose process is gone as failed and free their slots; their ids."""
    closed: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        owner = run.tags.get(OWNER_TAG)
        if owner is None or not owner.startswith(f"{socket.gethostname()}/") or _alive(owner):
            continue
        instance.report_run_failed(run, message="its process was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        closed.append(run.run_id)
    return closed


def _name(process: psutil.Process) -> str:
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}"


def _alive(owner: str) -> bool:
    pid = int(owner.split("/")[1])
    try:
        process = psutil.Process(pid)
        return pid == os.getpid() or (
            _name(process) == owner and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False
