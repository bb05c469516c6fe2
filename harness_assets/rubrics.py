"""Rubric assets: the searched population and the rubric that held up on prompts the search never
saw.
"""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from pydantic import Field

from harness_assets.graph import LLM_RETRY, OWNERS, PROMPT_TEMPLATES, stage_asset
from harness_assets.materialize import materialize
from harness_resources.llm import LLM
from harness_resources.store import Store


class SearchRun(dg.Config):
    """What a run may ask of the search besides its budget (resource ``llm``)."""

    again: str = Field(
        default="",
        description="Search again although nothing changed: a name for the repetition, such as its "
        "date. Only a rubric that is better on the held-out prompts replaces the one in force.",
    )


prompt_templates = dg.AssetSpec(
    PROMPT_TEMPLATES,
    group_name="rubrics",
    description="The prompts of initializer, proposer, verifier and judge: prompts/*/<role>.yaml. "
    "Changes are reported by the registry sensor and by every launch.",
    kinds={"yaml"},
    owners=OWNERS,
)


@dg.asset(
    **stage_asset("rubric_population", kinds={"json"}, pool="llm_api", retry_policy=LLM_RETRY)
)
def rubric_population(
    context: dg.AssetExecutionContext, config: SearchRun, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """Rubrics found by the search on the training prompts, with scores, history and cost."""
    yield from materialize(context, store, llm=llm, again=config.again)


@dg.asset(
    **stage_asset(
        "best_rubric",
        kinds={"json"},
        pool="llm_api",
        retry_policy=LLM_RETRY,
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=15), warn_window=timedelta(days=8)
        ),
    )
)
def best_rubric(
    context: dg.AssetExecutionContext, store: Store, llm: LLM
) -> Iterator[dg.MaterializeResult]:
    """The rubric selected on held-out prompts, measured on a third split beside the initial one."""
    yield from materialize(context, store, llm=llm)
