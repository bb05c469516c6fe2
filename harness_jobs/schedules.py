"""The weekly re-search of rubrics: one run for each active experiment, named by the tick's date.

Each searches anew (other random choices, the same data and settings); unless what it finds is
significantly better on the held-out prompts, the rubric in force is published again and everything
made from it stays fresh.
"""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import research_config, stage_key
from harness_resources.store import Store
from reward_harness.errors import SpecError
from reward_harness.spec import experiment_keys
from reward_harness.stages.table import STAGES

RESEARCH = ("rubric_population", "best_rubric")


@dg.schedule(
    name="weekly_rubric_research",
    job_name="search_rubrics",
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    description="Search again for every active experiment; unless something better is found, the "
    "rubric in force stays and all else fresh.",
)
def weekly_rubric_research(
    context: dg.ScheduleEvaluationContext, store: Store
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One RunRequest for each active experiment that has a search with held-out prompts."""
    day = context.scheduled_execution_time.date().isoformat()
    known = set(context.instance.get_dynamic_partitions("experiment"))
    asked = 0
    for key in experiment_keys(store.workspace().experiments):
        try:
            spec = store.experiment(key)
        except SpecError as error:
            context.log.warning(str(error))
            continue
        searches = STAGES["best_rubric"].wanted(spec) and spec.search.scope == "shared"
        if key in known and spec.status == "active" and searches:
            asked += 1
            yield dg.RunRequest(
                run_key=f"{key}@{day}",
                partition_key=key,
                asset_selection=[stage_key(name) for name in RESEARCH],
                run_config=research_config(day),
                tags={"trigger": "weekly_rubric_research"},
            )
    if not asked:
        yield dg.SkipReason("no active experiment with a rubric search is registered")


SCHEDULES = [weekly_rubric_research]
