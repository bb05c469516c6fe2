"""Start ``harness_jobs.launch``: the library knows the Dagster side only as a command."""

from __future__ import annotations

import os
import subprocess
import sys

from reward_harness.workspace import Workspace


def launch(workspace: Workspace, *arguments: str) -> int:
    """Run it in a process of its own, which handles Ctrl-C itself; its exit code."""
    workspace.dagster_home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"DAGSTER_HOME": str(workspace.dagster_home)}
    child = subprocess.Popen(
        [sys.executable, "-m", "harness_jobs.launch", *arguments], env=environment
    )
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue
