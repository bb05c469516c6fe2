"""Serving assets: the deployment that policies train against, and the op that takes one back."""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg

from harness_assets.graph import stage_asset, stage_key
from harness_assets.materialize import materialize
from harness_resources.store import Store
from reward_harness.rm.deployments import DeploymentManifest, Deployments
from reward_harness.workspace import Workspace


@dg.asset(**stage_asset("rm_deployment", kinds={"fastapi"}))
def rm_deployment(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """The artifact behind the target's pointer, with probe items whose scores the server must
    reproduce.
    """
    target = store.experiment(context.partition_key).reward_model.deploy_target
    for result in materialize(context, store):
        shown = {**in_force(store.workspace(), target), **(result.metadata or {})}
        yield result._replace(metadata=shown)


class RollbackConfig(dg.Config):
    """Which target goes back, and who says so."""

    target: Literal["dev", "staging", "prod"] = "dev"
    by: str | None = None


@dg.op
def rollback_deployment(
    context: dg.OpExecutionContext, config: RollbackConfig, store: Store
) -> None:
    """Put the deployment before the current one in force again, as ``harness rollback`` does."""
    deployments = Deployments(store.workspace(), config.target)
    before = deployments.current()
    now = deployments.rollback(config.by)
    context.log.info(f"{config.target} now serves {now.artifact_id}")
    partition = _experiment_of(now)
    if partition is not None:
        context.log_event(
            dg.AssetObservation(
                stage_key("rm_deployment"),
                partition=partition,
                metadata={
                    **in_force(store.workspace(), config.target),
                    "rolled back from": before.artifact_id if before else "",
                },
            )
        )


def in_force(workspace: Workspace, target: Literal["dev", "staging", "prod"]) -> dict[str, Any]:
    """What the target serves now, what it served before, who switched it and when."""
    deployments = Deployments(workspace, target)
    manifest = deployments.current()
    if manifest is None:
        return {}
    switches = deployments.history()
    last = switches[-1] if switches else None
    return {
        "target": target,
        "serves": manifest.artifact_id,
        "served before": manifest.previous_artifact_id or "nothing",
        "deployed by": manifest.deployed_by,
        "deployed at": manifest.deployed_at_utc,
        "last switch": f"{last.action} by {last.by} at {last.at}" if last else "unknown",
        "deploy_id": manifest.deploy_id,
    }


def _experiment_of(manifest: DeploymentManifest) -> str | None:
    """The experiment that made the artifact, where one did: ``data/runs/<experiment>/…``."""
    parts = manifest.artifact_path.split("/")
    return parts[2] if parts[:2] == ["data", "runs"] and len(parts) > 3 else None
