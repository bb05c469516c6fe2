"""``python -m reward_harness.rl.record_manifest --manifest FILE``: declare a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reward_harness.cli import runs
from reward_harness.rm.commands import run_command


def record_manifest(
    manifest: Annotated[Path, typer.Option(help="training manifest, JSON")],
) -> None:
    """Declare a run before it starts."""
    runs.record_manifest(manifest)


if __name__ == "__main__":
    run_command(record_manifest)
