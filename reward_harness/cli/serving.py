"""``harness deploy``, ``harness rollback``, ``harness serve``: what a target answers with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from reward_harness.workspace import Workspace

console = Console()
Target = Literal["dev", "staging", "prod"]
TargetOption = Annotated[Target, typer.Option(help="deployment target")]


def deploy(
    artifact: Annotated[
        str, typer.Option(help="experiment/rm_artifact/digest, or the artifact's folder or file")
    ],
    target: TargetOption = "dev",
    deployed_by: Annotated[str | None, typer.Option(help="default: the user's name")] = None,
) -> None:
    """Verify an RM artifact and its gates, and switch the target's pointer to it."""
    from reward_harness.rm.deployments import Deployments

    workspace = Workspace.discover()
    manifest = Deployments(workspace, target).deploy(
        _artifact_path(workspace, artifact), deployed_by
    )
    console.print(f"{target} now serves {manifest.artifact_id} ({manifest.artifact_digest[:12]})")
    console.print(f"before: {manifest.previous_artifact_id or 'nothing'}")


def rollback(
    target: TargetOption = "dev",
    by: Annotated[str | None, typer.Option(help="default: the user's name")] = None,
) -> None:
    """Serve what the target served before."""
    from reward_harness.rm.deployments import Deployments

    manifest = Deployments(Workspace.discover(), target).rollback(by)
    console.print(f"{target} now serves {manifest.artifact_id} ({manifest.artifact_digest[:12]})")


def _artifact_path(workspace: Workspace, named: str) -> Path:
    """The folder of an artifact named by its path or by ``experiment/stage/digest``."""
    from reward_harness.stages.reproduce import parse_artifact_id
    from reward_harness.store import ArtifactStore

    if Path(named).exists():
        return Path(named)
    return ArtifactStore(workspace.runs).load(*parse_artifact_id(named)).path
