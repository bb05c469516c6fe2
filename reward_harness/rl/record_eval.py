"""``python -m reward_harness.rl.record_eval --report FILE``: record measurements of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def record_eval(
    report: Annotated[Path, typer.Option(help="evaluation report, JSON")],
) -> None:
    """Record measurements of what a run made."""
    runs.record_eval(report)


if __name__ == "__main__":
    run_command(record_eval)
