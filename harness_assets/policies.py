"""Policy assets: one checkpoint for each training method."""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import OWNERS, POLICY_BASE, stage_asset
from harness_assets.materialize import materialize
from harness_resources.compute import Compute
from harness_resources.store import Store

base_model = dg.AssetSpec(
    POLICY_BASE,
    group_name="policies",
    description="The pretrained language model that policies start from (policy.model).",
    kinds={"huggingface"},
    owners=OWNERS,
)
KINDS = {"pytorch", "huggingface"}
GATES = ("reward_hacking",)


@dg.asset(**stage_asset("sft_checkpoint", kinds=KINDS, pool="gpu"))
def sft_checkpoint(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Supervised fine-tuning, loss on the response only: the reference of all other policies."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("dpo_checkpoint", kinds=KINDS, pool="gpu"))
def dpo_checkpoint(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Direct preference optimisation from the SFT checkpoint."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("grpo_checkpoint", kinds=KINDS, pool="gpu", gates=GATES))
def grpo_checkpoint(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Group-relative policy optimisation against the deployed reward."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("ppo_checkpoint", kinds=KINDS, pool="gpu", gates=GATES))
def ppo_checkpoint(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Proximal policy optimisation against the deployed reward, with the project's own trainer."""
    yield from materialize(context, store, compute=compute)


@dg.asset(**stage_asset("iterative_dpo_checkpoint", kinds=KINDS, pool="gpu"))
def iterative_dpo_checkpoint(
    context: dg.AssetExecutionContext, store: Store, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Rounds of sampling, scoring by the deployed reward, pairing and DPO."""
    yield from materialize(context, store, compute=compute)
