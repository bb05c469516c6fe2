"""Asset keys and arguments, derived from the library's stage table, so that graph and library
cannot disagree.
"""

from typing import Any

import dagster as dg

from reward_harness.spec import SECTIONS
from reward_harness.stages.table import STAGES, Stage

EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")
STUDIES = dg.DynamicPartitionsDefinition(name="study")
OWNERS = ["team:reward-harness"]
PROMPT_TEMPLATES = dg.AssetKey(["rubrics", "prompt_templates"])
DATA_SOURCES = dg.AssetKey(["datasets", "sources"])
POLICY_BASE = dg.AssetKey(["policies", "base_model"])
REWARD_BASE = dg.AssetKey(["reward_models", "base_model"])
LEADERBOARD = dg.AssetKey(["evaluations", "leaderboard"])
STUDY_REPORT = dg.AssetKey(["evaluations", "study_report"])
LLM_RETRY = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)
EXTERNAL_INPUTS = {
    "sft_checkpoint": POLICY_BASE,
    "synthetic_sft": POLICY_BASE,
    "bt_reward_model": REWARD_BASE,
    "rubric_reward_model": REWARD_BASE,
    "reward_ensemble": REWARD_BASE,
    "process_reward_model": REWARD_BASE,
    "classifier_reward_model": REWARD_BASE,
}
"""Stages that start from a pretrained model, an external asset."""


def stage_key(name: str) -> dg.AssetKey:
    """The asset key of a stage: its group, then its name."""
    return dg.AssetKey([STAGES[name].group, name])


def research_config(again: str) -> dg.RunConfig:
    """The run config of a search that is repeated under this name."""
    op = stage_key("rubric_population").to_python_identifier()
    return dg.RunConfig(ops={op: {"config": {"again": again}}})


def section_key(name: str) -> dg.AssetKey:
    """The asset key of one section of the experiment's file."""
    return dg.AssetKey(["datasets", "experiment_spec", name])


SECTION_KEYS = {name: section_key(name) for name in SECTIONS}


def _deps(stage: Stage) -> list[dg.AssetKey]:
    deps = [section_key(name) for name in stage.sections]
    deps += [stage_key(name) for name in stage.inputs]
    if stage.from_source:
        deps.append(DATA_SOURCES)
    if stage.templates:
        deps.append(PROMPT_TEMPLATES)
    if stage.name in EXTERNAL_INPUTS:
        deps.append(EXTERNAL_INPUTS[stage.name])
    return deps


def stage_asset(
    name: str, *, kinds: set[str], gates: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """Arguments of ``dg.asset`` for the stage ``name``; ``gates`` become its check specs."""
    stage = STAGES[name]
    key = stage_key(name)
    return {
        "key": key,
        "group_name": stage.group,
        "partitions_def": EXPERIMENTS,
        "deps": _deps(stage),
        "code_version": stage.code_version,
        "kinds": kinds,
        "owners": OWNERS,
        "tags": {"stage": name},
        "output_required": False,
        "check_specs": [
            dg.AssetCheckSpec(gate, asset=key, description=f"gate {gate}") for gate in gates
        ],
        **more,
    }
