"""``python -m reward_harness.rl.compare_runs --training-run-id ID --baseline ID``."""

from __future__ import annotations

from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def compare_runs(
    training_run_id: Annotated[str, typer.Option(help="the run")],
    baseline: Annotated[str, typer.Option(help="the run it is compared with")],
    threshold_pct: Annotated[float, typer.Option(min=0)] = 5.0,
) -> None:
    """Two runs on the benchmarks that both were measured on, as JSON."""
    runs.compare(training_run_id, baseline, threshold_pct, as_json=True)


if __name__ == "__main__":
    run_command(compare_runs)
