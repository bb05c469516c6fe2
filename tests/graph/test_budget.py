"""A budget as run config: the run stops at it, says how to go on, and the next one goes on."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from harness_assets.graph import stage_key
from harness_jobs.definitions import job_named
from harness_jobs.registry import registered_instance
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.llm.simulator import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(300)]
STAGES = ("ranked_prompts", "rubric_population", "best_rubric")


def run(workspace: Workspace, job: str, *stages: str, **budget: float) -> dg.ExecuteInProcessResult:
    with registered_instance(workspace, ["paid"]) as instance:
        return job_named(job).execute_in_process(
            instance=instance,
            partition_key="paid",
            asset_selection=[stage_key(name) for name in stages],
            run_config={"resources": {"llm": {"config": budget}}},
            raise_on_error=False,
        )


@pytest.mark.parametrize(
    ("budget", "asked"),
    [({"max_calls": 30}, 30), ({"max_tokens": 300}, 20), ({"max_usd": 0.095}, 10)],
)
def test_a_run_stops_at_its_budget_and_the_next_one_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, budget: dict[str, float], asked: int
) -> None:
    search = {"backend": "openai", "generations": 1, "population_size": 3}
    search["endpoint"] = {"concurrency": 1}
    body = {"extends": "tour", "search": search}
    body["dataset"] = {"ranked": {"source": "tour", "limit": 8}}
    (workspace.experiments / "paid.yaml").write_text(yaml.safe_dump(body))
    assert run(workspace, "prepare_data", STAGES[0]).success
    with Simulator(cost=0.01) as endpoint:
        monkeypatch.setenv("LLM_API_KEY", endpoint.key)
        monkeypatch.setenv("LLM_BASE_URL", endpoint.url)
        stopped = run(workspace, "search_rubrics", *STAGES[1:], **budget)
        assert not stopped.success
        assert endpoint.received == asked
        (failure,) = (e for e in stopped.all_events if e.is_step_failure)
        told = failure.step_failure_data.error.message
        assert "budget used up" in told
        assert "raise the cap and run the same command to go on" in told
        assert not any(event.is_step_up_for_retry for event in stopped.all_events)
        assert run(workspace, "search_rubrics", *STAGES[1:]).success
        assert endpoint.repeated() == []
    population = ArtifactStore(workspace.runs).current("paid", "rubric_population")
    assert population is not None and population.manifest.cost.llm_calls > 0
