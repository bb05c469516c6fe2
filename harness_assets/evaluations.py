"""Evaluation assets: a report on the rewards, one on the policies, and the board over all
experiments.
"""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import (
    LEADERBOARD,
    LLM_RETRY,
    OWNERS,
    STUDIES,
    STUDY_REPORT,
    stage_asset,
    stage_key,
)
from harness_assets.materialize import final_failure, log_progress, materialize
from harness_assets.record import record
from harness_resources.compute import Compute
from harness_resources.store import Store
from reward_harness.errors import HarnessError
from reward_harness.stages import Services


@dg.asset(**stage_asset("rm_report", kinds={"html"}))
def rm_report(context: dg.AssetExecutionContext, store: Store) -> Iterator[dg.MaterializeResult]:
    """How far each reward can be trusted: accuracy against baselines, length bias, calibration,
    agreement.
    """
    yield from materialize(context, store)


@dg.asset(**stage_asset("policy_report", kinds={"html"}, pool="gpu"))
def policy_report(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """What training did to the policies: reward, KL, length, wins against the reference, samples
    side by side.
    """
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("hacking_report", kinds={"html"}))
def hacking_report(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Whether a policy games its reward: length drift, reward divergence and status of each
    on-policy run.
    """
    yield from materialize(context, store)


@dg.asset(**stage_asset("signal_report", kinds={"html"}, pool="llm_api", retry_policy=LLM_RETRY))
def signal_report(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Whether the criteria make a signal: each validated against the truth, weighted, ablated."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("weights_report", kinds={"html"}))
def weights_report(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """What each weighting of a composite reward picks among fixed responses, before training."""
    yield from materialize(context, store)


@dg.asset(
    key=LEADERBOARD,
    group_name="evaluations",
    deps=[stage_key("rm_report"), stage_key("policy_report")],
    kinds={"html"},
    owners=OWNERS,
    code_version="1",
    pool="ledger",
    automation_condition=dg.AutomationCondition.any_deps_updated(),
)
def leaderboard(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """All experiments' reports side by side."""
    from reward_harness.stages.leaderboard import make_leaderboard

    services = Services(progress=log_progress(context), run_id=context.run.run_id)
    artifact, reused = make_leaderboard(store.workspace(), services)
    return record(artifact, reused=reused)


@dg.asset(
    key=STUDY_REPORT,
    group_name="evaluations",
    partitions_def=STUDIES,
    deps=[
        dg.AssetDep(stage_key(name), partition_mapping=dg.AllPartitionMapping())
        for name in ("rm_report", "policy_report")
    ],
    kinds={"html"},
    owners=OWNERS,
    code_version="1",
    pool="ledger",
)
def study_report(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """A study's answer: each variant over its seeds, against the baseline, corrected for the
    number of comparisons.
    """
    from reward_harness.stages.study_report import make_study_report

    services = Services(progress=log_progress(context), run_id=context.run.run_id)
    study = store.study(context.partition_key)
    try:
        artifact, reused = make_study_report(store.workspace(), study, services)
    except HarnessError as error:
        raise final_failure(error) from error
    return record(artifact, reused=reused)
