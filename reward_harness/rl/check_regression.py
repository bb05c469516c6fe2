"""``python -m reward_harness.rl.check_regression --training-run-id ID``: exit code 1 if worse."""

from __future__ import annotations

from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def check_regression(
    training_run_id: Annotated[str, typer.Option(help="the run")],
    baseline: Annotated[str | None, typer.Option(help="a report or a run")] = None,
    threshold_pct: Annotated[float, typer.Option(min=0)] = 5.0,
) -> None:
    """A run's reports against the newest comparable ones, as JSON."""
    runs.check_regression(training_run_id, threshold_pct, baseline, as_json=True)


if __name__ == "__main__":
    run_command(check_regression)
