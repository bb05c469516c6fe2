"""``python -m reward_harness.rl.show_lineage --training-run-id ID``: a run and its reward."""

from __future__ import annotations

from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def show_lineage(
    training_run_id: Annotated[str, typer.Option(help="the run")],
) -> None:
    """All that is recorded of a run, and the reward that it trained on, as JSON."""
    runs.show(training_run_id, as_json=True)


if __name__ == "__main__":
    run_command(show_lineage)
