"""The note that a failed run leaves, for a person without the UI: what failed, the last log lines,
how to go on. ``data/dagster/failures/<run>.md``.
"""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from reward_harness.durable import write_atomically
from reward_harness.workspace import Workspace

LOG_LINES = 40


def write_failure_note(
    workspace: Workspace, instance: dg.DagsterInstance, run: dg.DagsterRun, message: str = ""
) -> Path:
    """Write the note of ``run``; ``message`` is told where no step failed."""
    key = run.tags.get("dagster/partition", "")
    entries = list(instance.all_logs(run.run_id))
    causes = [f"- `{entry.step_key}`: {cause_of(entry)}" for entry in entries if is_failure(entry)]
    lines = [entry.user_message for entry in entries if entry.user_message]
    note = [
        f"# {run.job_name} failed{f' for {key}' if key else ''}",
        f"run {run.run_id}, noticed {datetime.now(UTC).isoformat(timespec='seconds')}",
        "",
        *(causes or [message or "no step failed: the run itself did"]),
        "",
        resume(run.job_name, key),
        "",
        "Last log lines:",
        "```",
        *lines[-LOG_LINES:],
        "```",
    ]
    path = workspace.dagster_home / "failures" / f"{run.run_id}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(note).encode())
    return path


def resume(job: str, key: str) -> str:
    """The command that goes on, of the job for one experiment or study."""
    if not key:
        return "Launch the job again."
    command = "harness study report" if job == "report_study" else "harness experiment run"
    return f"Resume: `{command} {key}`"


def is_failure(entry: dg.EventLogEntry) -> bool:
    """Whether a step failed for good: an attempt that is tried again is no failure."""
    return entry.dagster_event_type == dg.DagsterEventType.STEP_FAILURE


def cause_of(entry: dg.EventLogEntry) -> str:
    """The innermost error's own message, without Dagster's wrapping."""
    data = entry.dagster_event.step_failure_data if entry.dagster_event else None
    error = data.error if data else None
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split()) if error else "failed"
