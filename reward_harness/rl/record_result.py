"""``python -m reward_harness.rl.record_result --result FILE``: record how a run ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def record_result(
    result: Annotated[Path, typer.Option(help="result manifest, JSON")],
) -> None:
    """Record how a run ended: succeeded, failed or canceled."""
    runs.record_result(result)


if __name__ == "__main__":
    run_command(record_result)
