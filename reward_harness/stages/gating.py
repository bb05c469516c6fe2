"""What the gates of ``rm_artifact`` are measured against besides attacks: the judge asked in both
orders, and the incumbent reward that the experiment names.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.data.records import RankedPrompt
from reward_harness.llm.event_loop import run_sync
from reward_harness.manifest import Cost
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import RMArtifact, RubricRuntime
from reward_harness.rm.gate_rules import Genuine, Swaps
from reward_harness.rm.gates import score_genuine
from reward_harness.rm.swaps import swap_consistency
from reward_harness.stages.costs import cost_of_roles
from reward_harness.stages.make import StageRun


def incumbent_scores(run: StageRun, prompts: Sequence[RankedPrompt]) -> Genuine | None:
    """How the reward named by ``gates.incumbent`` scores the same responses; None without one."""
    from reward_harness.stages.reproduce import parse_artifact_id

    named = run.experiment.reward_model.gates.incumbent
    if named is None:
        return None
    artifact = run.store.load(*parse_artifact_id(named))
    rm = load_rm(artifact.path, run.services.device or "cpu", cache=run.workspace.cache)
    try:
        return score_genuine(rm, prompts)
    finally:
        rm.close()


def judge_swaps(
    run: StageRun, packaged: RMArtifact, prompts: Sequence[RankedPrompt]
) -> tuple[Swaps | None, Cost]:
    """The search's judge on held-out pairs, and what that cost; None where no model judged."""
    from reward_harness.rubrics.search.surroundings import Surroundings, open_search_roles

    runtime = packaged.runtime_snapshot
    if not isinstance(runtime, RubricRuntime):
        return None, Cost()
    around = Surroundings(cache=run.workspace.cache, prompts=run.workspace.prompts)
    roles = open_search_roles(run.experiment.search, around)
    if roles is None:
        return None, Cost()
    try:
        limit = run.experiment.reward_model.gates.attacked_responses
        return swap_consistency(roles, prompts, runtime.graded, limit), cost_of_roles(roles)
    finally:
        run_sync(roles.aclose())
