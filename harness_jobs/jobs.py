"""Jobs: the graph cut by group, the whole of it, and the whole of it in one process."""

import dagster as dg

from harness_assets.graph import LEADERBOARD, STUDY_REPORT, stage_key
from harness_assets.serving import rollback_deployment
from harness_resources.environments import step_processes

STAGES_OF_ALL = dg.AssetSelection.groups(
    "datasets", "rubrics", "reward_models", "serving", "policies", "evaluations"
) - dg.AssetSelection.assets(STUDY_REPORT)


SAMPLED_DATASETS = ("ai_preferences", "rl_samples", "score_dataset", "distilled_preferences")
SAMPLED = dg.AssetSelection.assets(*(stage_key(name) for name in SAMPLED_DATASETS))
"""Datasets that are made of a policy's samples, so that they come after training."""


def _group_job(name: str, description: str, *groups: str) -> dg.JobDefinition:
    selection = dg.AssetSelection.groups(*groups) - dg.AssetSelection.assets(
        LEADERBOARD, STUDY_REPORT
    )
    return dg.define_asset_job(
        name, selection=selection, description=description, executor_def=dg.in_process_executor
    )


@dg.job(executor_def=dg.in_process_executor)
def rollback() -> None:
    """A deployment target serves what it served before; the same as `harness rollback`."""
    rollback_deployment()


JOBS = [
    rollback,
    dg.define_asset_job(
        "prepare_data",
        selection=dg.AssetSelection.groups("datasets") - SAMPLED,
        description="Resolve, validate and split the experiment's data.",
        executor_def=dg.in_process_executor,
    ),
    dg.define_asset_job(
        "sample_policies",
        selection=SAMPLED,
        description="Make datasets of a policy's samples: AI preferences, scored samples, pairs.",
        executor_def=dg.in_process_executor,
    ),
    _group_job(
        "search_rubrics", "Search rubrics and select the best on held-out prompts.", "rubrics"
    ),
    _group_job(
        "build_reward_model",
        "Train, package, gate and deploy the reward.",
        "reward_models",
        "serving",
    ),
    _group_job("train_policies", "Train every policy that the experiment names.", "policies"),
    _group_job("evaluate", "Report on rewards and policies.", "evaluations"),
    dg.define_asset_job(
        "run_experiment",
        selection=STAGES_OF_ALL,
        description="The whole graph for one experiment, two step processes at a time.",
        executor_def=step_processes(),
    ),
    dg.define_asset_job(
        "smoke",
        selection=STAGES_OF_ALL,
        description="The whole graph in one process: for experiments of seconds.",
        executor_def=dg.in_process_executor,
    ),
    dg.define_asset_job(
        "refresh_leaderboard",
        selection=dg.AssetSelection.assets(LEADERBOARD),
        description="The board over all experiments.",
        executor_def=dg.in_process_executor,
    ),
    dg.define_asset_job(
        "report_study",
        selection=dg.AssetSelection.assets(STUDY_REPORT),
        description="A study's report over the members that have run.",
        executor_def=dg.in_process_executor,
    ),
]
