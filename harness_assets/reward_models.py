"""Reward-model assets: trained classifiers and the packaged artifact that the experiment serves."""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import LLM_RETRY, OWNERS, REWARD_BASE, stage_asset
from harness_assets.materialize import materialize
from harness_resources.compute import Compute
from harness_resources.llm import LLM
from harness_resources.store import Store

GATES = (
    "heldout_agreement",
    "master_key",
    "null_response",
    "length_padding",
    "prompt_injection",
    "swap_consistency",
    "unscored_share",
)
"""Names of the gates in the manifest of ``rm_artifact``; a test holds them against what the stage
reports.
"""

base_model = dg.AssetSpec(
    REWARD_BASE,
    group_name="reward_models",
    description="The pretrained model that rewards start from (reward_model.bt.backbone).",
    kinds={"huggingface"},
    owners=OWNERS,
)


@dg.asset(**stage_asset("bt_reward_model", kinds={"pytorch"}, pool="gpu"))
def bt_reward_model(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """A Bradley-Terry reward model on preference pairs, with held-out accuracy beside the length
    baselines.
    """
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("rubric_reward_model", kinds={"pytorch"}, pool="gpu"))
def rubric_reward_model(
    context: dg.AssetExecutionContext, store: Store, compute: Compute, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """A model that reproduces the searched rubric's scores, measured beside the Bradley-Terry
    model.
    """
    yield from materialize(context, store, compute=compute, llm=llm)


@dg.asset(**stage_asset("reward_ensemble", kinds={"pytorch"}, pool="gpu"))
def reward_ensemble(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Bradley-Terry models of different seeds: their mean, lowered where they disagree."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("process_reward_model", kinds={"pytorch"}, pool="gpu"))
def process_reward_model(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Whether each step of a solution is right, beside a twin that sees the whole only."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("classifier_reward_model", kinds={"pytorch"}, pool="gpu"))
def classifier_reward_model(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """A Bradley-Terry model on pairs made from a policy's scored samples."""
    yield from materialize(context, store, compute=compute)


@dg.asset(
    **stage_asset(
        "rm_artifact", kinds={"json"}, gates=GATES, pool="llm_api", retry_policy=LLM_RETRY
    )
)
def rm_artifact(
    context: dg.AssetExecutionContext, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """The reward that the experiment serves, packaged with everything scoring depends on, and
    gated.
    """
    yield from materialize(context, store, llm=llm)
