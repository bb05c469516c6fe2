"""Dataset assets: the experiment's own sections, the sources they name, and canonical records
split by prompt.
"""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import (
    DATA_SOURCES,
    EXPERIMENTS,
    LLM_RETRY,
    OWNERS,
    SECTION_KEYS,
    stage_asset,
)
from harness_assets.materialize import materialize
from harness_resources.llm import LLM
from harness_resources.store import Store

sources = dg.AssetSpec(
    DATA_SOURCES,
    group_name="datasets",
    description="Every dataset that an experiment can name: data/sources/*.yaml with pinned "
    "content. Changes are reported by the registry sensor and by every launch.",
    kinds={"yaml"},
    owners=OWNERS,
)


@dg.multi_asset(
    name="experiment_spec",
    specs=[
        dg.AssetSpec(
            key,
            group_name="datasets",
            description=f"Section `{name}` of the experiment's YAML file, with the seed.",
            kinds={"yaml"},
            owners=OWNERS,
            code_version="1",
        )
        for name, key in SECTION_KEYS.items()
    ],
    partitions_def=EXPERIMENTS,
)
def experiment_spec(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """The experiment's file, one output and data version for each section, so that staleness is
    exact.
    """
    spec = store.experiment(context.partition_key)
    for name, digest in spec.section_digests().items():
        content = {"seed": spec.seed, "section": spec.section(name)}
        yield dg.MaterializeResult(
            asset_key=SECTION_KEYS[name],
            data_version=dg.DataVersion(digest),
            metadata={"content": dg.MetadataValue.json(content)},
        )


@dg.asset(**stage_asset("preference_pairs", kinds={"jsonl"}))
def preference_pairs(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Two responses to one prompt, the first preferred; split by prompt."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("ranked_prompts", kinds={"jsonl"}))
def ranked_prompts(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Prompts with several ranked responses: what rubrics are searched and measured on."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("sft_examples", kinds={"jsonl"}))
def sft_examples(context: dg.AssetExecutionContext, store: Store) -> Iterator[dg.MaterializeResult]:
    """Prompts with the response to imitate."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("rl_prompts", kinds={"jsonl"}))
def rl_prompts(context: dg.AssetExecutionContext, store: Store) -> Iterator[dg.MaterializeResult]:
    """Prompts that policies are rolled out and evaluated on."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("reasoning_steps", kinds={"jsonl"}))
def reasoning_steps(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Solutions in steps with a label for each step."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("synthetic_sft", kinds={"jsonl"}, pool="gpu"))
def synthetic_sft(
    context: dg.AssetExecutionContext, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """Examples that a model drafted, critiqued under a constitution and revised."""
    yield from materialize(context, store, llm=llm)


@dg.asset(**stage_asset("ai_preferences", kinds={"jsonl"}, pool="gpu"))
def ai_preferences(
    context: dg.AssetExecutionContext, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """Two samples of the SFT policy to each prompt, preferred by a judge under a constitution."""
    yield from materialize(context, store, llm=llm)


@dg.asset(**stage_asset("rl_samples", kinds={"jsonl"}, pool="gpu"))
def rl_samples(context: dg.AssetExecutionContext, store: Store) -> Iterator[dg.MaterializeResult]:
    """A batch of responses of one of the experiment's policies."""
    yield from materialize(context, store)


@dg.asset(**stage_asset("score_dataset", kinds={"jsonl"}, pool="llm_api", retry_policy=LLM_RETRY))
def score_dataset(
    context: dg.AssetExecutionContext, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """Each different sample graded several times: mean and spread of every criterion."""
    yield from materialize(context, store, llm=llm)


@dg.asset(**stage_asset("distilled_preferences", kinds={"jsonl"}))
def distilled_preferences(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """Pairs of scored samples that differ by more than their noise; split by prompt."""
    yield from materialize(context, store)
