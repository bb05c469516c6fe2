"""``python -m reward_harness.rl.list_runs``: all runs as JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def list_runs(
    status: Annotated[str | None, typer.Option(help="only runs of this status")] = None,
) -> None:
    """All runs, oldest first, as JSON."""
    runs.list_runs(as_json=True, status=status)


if __name__ == "__main__":
    run_command(list_runs)
