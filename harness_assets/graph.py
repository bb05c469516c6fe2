"""Asset keys and arguments, derived from the library's stage table, so that graph and library
cannot disagree.
"""

from typing import Any

import dagster as dg

from reward_harness.spec import SECTIONS
from reward_harness.stages.table import STAGES, Stage

EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")
OWNERS = ["team:reward-harness"]
PROMPT_TEMPLATES = dg.AssetKey(["rubrics", "prompt_templates"])
DATA_SOURCES = dg.AssetKey(["datasets", "sources"])
POLICY_BASE = dg.AssetKey(["policies", "base_model"])
REWARD_BASE = dg.AssetKey(["reward_models", "base_model"])
LEADERBOARD = dg.AssetKey(["evaluations", "leaderboard"])
LLM_RETRY = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)
EXTERNAL_INPUTS = {"policy": POLICY_BASE, "reward_model_bt": REWARD_BASE}
"""A stage that reads this spec section also depends on this external asset."""


def stage_key(name: str) -> dg.AssetKey:
    """The asset key of a stage: its group, then its name."""
    return dg.AssetKey([STAGES[name].group, name])


def section_key(name: str) -> dg.AssetKey:
    """The asset key of one section of the experiment's file."""
    return dg.AssetKey(["datasets", "experiment_spec", name])


SECTION_KEYS = {name: section_key(name) for name in SECTIONS}


def _deps(stage: Stage) -> list[dg.AssetKey]:
    deps = [section_key(name) for name in stage.sections]
    deps += [stage_key(name) for name in stage.inputs]
    if stage.group == "datasets":
        deps.append(DATA_SOURCES)
    if stage.templates:
        deps.append(PROMPT_TEMPLATES)
    if stage.name in ("sft_checkpoint", "bt_reward_model"):
        deps += [EXTERNAL_INPUTS[s] for s in stage.sections if s in EXTERNAL_INPUTS]
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
