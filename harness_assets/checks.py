"""Checks that need another process or another asset: parity of the deployment, leakage, staleness
of what is served.
"""

import dagster as dg

from harness_assets.graph import stage_key
from harness_resources.reward_service import RewardService
from harness_resources.store import Store
from reward_harness.stages.table import STAGES

MAX_LEAKED_SHARE = 0.02
"""Forked conversations make a few near-duplicates unavoidable; equal prompts never cross splits."""


@dg.asset_check(
    asset=stage_key("rm_deployment"),
    description="A live server has the deployment's digest and scores its probes alike, to 1e-6.",
)
def deployment_parity(
    context: dg.AssetCheckExecutionContext, store: Store, reward_service: RewardService
) -> dg.AssetCheckResult:
    """Ask a live server."""
    from reward_harness.serving.service import verify_deployment

    deployment = store.artifacts().current(context.partition_key, "rm_deployment")
    if deployment is None:
        return _not_made("rm_deployment")
    with reward_service.url(store.workspace(), deployment) as url:
        mismatches = verify_deployment(url, deployment)
    return dg.AssetCheckResult(
        passed=not mismatches,
        description="; ".join(mismatches[:5]) or "digest and all probe scores agree",
        metadata={"mismatches": dg.MetadataValue.int(len(mismatches))},
    )


@dg.asset_check(
    asset=stage_key("rm_deployment"),
    description="What is deployed is packaged from the experiment's current reward.",
)
def serves_current_reward(
    context: dg.AssetCheckExecutionContext, store: Store
) -> dg.AssetCheckResult:
    """Compare the deployment's inputs with what the graph would package now."""
    spec = store.experiment(context.partition_key)
    artifacts = store.artifacts()
    packaged = artifacts.current(spec.key, "rm_artifact")
    if packaged is None:
        return _not_made("rm_artifact")
    stale = [
        name
        for name in STAGES["rm_artifact"].inputs_of(spec)
        if (current := artifacts.current(spec.key, name)) is not None
        and current.digest != packaged.publication.inputs.get(name)
    ]
    return dg.AssetCheckResult(
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"older than the current {', '.join(stale)}"
        if stale
        else "packaged from the current reward",
    )


@dg.asset_check(
    asset=stage_key("preference_pairs"),
    description="Hardly any held-out prompt is nearly the same as a training prompt.",
)
def no_near_duplicates(context: dg.AssetCheckExecutionContext, store: Store) -> dg.AssetCheckResult:
    """Compare test prompts with training prompts by token overlap."""
    from reward_harness.data.files import read_records
    from reward_harness.data.leakage import near_duplicates, prompt_text
    from reward_harness.data.records import PreferencePair

    pairs = store.artifacts().current(context.partition_key, "preference_pairs")
    if pairs is None:
        return _not_made("preference_pairs")
    train, test = (
        read_records(pairs.file(f"{split}.jsonl"), PreferencePair) for split in ("train", "test")
    )
    found = near_duplicates(
        [prompt_text(p.prompt) for p in test], [prompt_text(p.prompt) for p in train]
    )
    share = len(found) / len(test) if test else 0.0
    return dg.AssetCheckResult(
        passed=share <= MAX_LEAKED_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(found)} of {len(test)} held-out pairs have a near-duplicate in training",
        metadata={
            "share": dg.MetadataValue.float(share),
            "examples": dg.MetadataValue.json([str(f) for f in found[:5]]),
        },
    )


def _not_made(stage: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=True, severity=dg.AssetCheckSeverity.WARN, description=f"{stage} has not been made"
    )
