"""Which steps Dagster tries again: those that ask a judge, after what another try may change."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg
import pytest
import yaml
from dagster._core.execution.plan import active

from harness_assets.graph import LLM_RETRY, stage_key
from harness_jobs.definitions import defs, job_named
from harness_jobs.registry import registered_instance
from reward_harness.llm.circuit import FAILURES_AT_START
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.llm.simulator import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(300)]


class Clock:
    """The executor's clock, on which waiting takes no time."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def time(self) -> float:
        return time.time() + self.waited_s

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(active, "time", found)
    return found


@pytest.fixture
def run(workspace: Workspace) -> Callable[..., dg.ExecuteInProcessResult]:
    """Run stages of the experiment `paid`, whose judge is an endpoint."""
    search = {"backend": "openai", "generations": 1, "population_size": 3}
    search["endpoint"] = {"concurrency": 1, "max_retries": 0}
    content = {"extends": "smoke", "search": search}
    content["dataset"] = {"ranked": {"source": "tour", "limit": 8}}
    content["compute"] = {"memory_fraction": 1e-9}
    (workspace.experiments / "paid.yaml").write_text(yaml.safe_dump(content))

    def execute(job: str, *stages: str) -> dg.ExecuteInProcessResult:
        with registered_instance(workspace, ["paid"]) as instance:
            return job_named(job).execute_in_process(
                instance=instance,
                partition_key="paid",
                asset_selection=[stage_key(name) for name in stages],
                raise_on_error=False,
            )

    return execute


def retried(result: dg.ExecuteInProcessResult) -> list[str]:
    return [str(e.step_key) for e in result.all_events if e.is_step_up_for_retry]


def message(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = result.get_step_failure_events()
    return failure.step_failure_data.error.message


def test_a_search_is_tried_again_after_an_outage_and_not_after_a_refusal(
    workspace: Workspace,
    run: Callable[..., dg.ExecuteInProcessResult],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run("prepare_data", "ranked_prompts").success
    with Simulator() as endpoint:
        monkeypatch.setenv("LLM_BASE_URL", endpoint.url)
        monkeypatch.setenv("LLM_API_KEY", "sk-of-somebody-else")
        refused = run("search_rubrics", "rubric_population")
        assert not refused.success and retried(refused) == []
        assert "HTTP 401" in message(refused) and "LLM_API_KEY" in message(refused)

        monkeypatch.setenv("LLM_API_KEY", endpoint.key)
        endpoint.told = [(503, {})] * FAILURES_AT_START
        again = run("search_rubrics", "rubric_population")
        assert again.success and retried(again) == ["rubrics__rubric_population"]
        assert endpoint.told == [] and endpoint.repeated() == []
    assert clock.waited_s == pytest.approx(LLM_RETRY.delay, abs=2)
    made = ArtifactStore(workspace.runs).current("paid", "rubric_population")
    assert made is not None and made.manifest.cost.llm_calls > 0


def test_a_trainer_is_not_tried_again(
    run: Callable[..., dg.ExecuteInProcessResult], clock: Clock
) -> None:
    assert run("prepare_data", "sft_examples").success
    failed = run("train_policies", "sft_checkpoint")
    assert not failed.success and retried(failed) == []
    assert "memory" in message(failed)
    assert clock.waited_s == 0


def test_what_asks_a_judge_is_retried_and_what_holds_a_gpu_is_not() -> None:
    found = [asset for asset in defs().assets or () if isinstance(asset, dg.AssetsDefinition)]
    pooled = [asset.op for asset in found if asset.is_executable and asset.op.pool]
    assert {op.pool for op in pooled} == {"gpu", "ledger", "llm_api"}
    for op in pooled:
        assert op.retry_policy == (LLM_RETRY if op.pool == "llm_api" else None), op.name
