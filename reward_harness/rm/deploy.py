"""Deploy a reward-model artifact to a target.

python -m reward_harness.rm.deploy --artifact data/runs/tour/rm_artifact/<digest>
--deployment-target dev
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reward_harness.rm.commands import run_command
from reward_harness.rm.deployments import Deployments
from reward_harness.workspace import Workspace

__all__ = ["Deployments", "deploy"]


def deploy(
    artifact: Annotated[Path, typer.Option(help="artifact folder, or an exported .json")],
    deployment_target: Annotated[Literal["dev", "staging", "prod"], typer.Option()] = "dev",
    deployed_by: Annotated[str | None, typer.Option(help="default: the user's name")] = None,
) -> None:
    """Verify the artifact and its gates, record the deployment, switch the target's pointer."""
    manifest = Deployments(Workspace.discover(), deployment_target).deploy(artifact, deployed_by)
    typer.echo(manifest.model_dump_json(indent=1))


if __name__ == "__main__":
    run_command(deploy)
