"""What a user does in the Dagster UI, by clicking: see the graph, run an experiment, read its
report, cancel.
"""

from __future__ import annotations

import re
import time

import psutil
import pytest
import yaml
from playwright.sync_api import Page, expect

from reward_harness.workspace import Workspace
from tests.ui.conftest import UI, materialize, shoot

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui"), pytest.mark.timeout(900)]
GROUPS = ["datasets", "rubrics", "reward_models", "serving", "policies", "evaluations"]


def test_graph_shows_the_six_groups(page: Page) -> None:
    page.goto("/asset-groups")
    for group in GROUPS:
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    shoot(page, "graph-groups")
    assert page.get_by_text("Failed to load").count() == 0


def test_smoke_runs_by_clicking_and_its_report_opens_from_the_asset_page(
    page: Page, ui: UI
) -> None:
    materialize(page, "smoke", "smoke")
    shoot(page, "smoke-launched")
    run = ui.wait_for_run("smoke", "smoke", {"SUCCESS"}, timeout_s=400)

    page.goto(f"/runs/{run['runId']}")
    expect(page.get_by_text("Success").first).to_be_visible()
    page.wait_for_timeout(2000)
    shoot(page, "smoke-run")

    page.goto("/assets/evaluations/policy_report?view=partitions&partition=smoke")
    page.wait_for_timeout(3000)
    shoot(page, "policy-report-asset")
    link = page.get_by_role("link", name=re.compile(r"report\.html")).first
    expect(link).to_be_visible()
    page.goto(link.get_attribute("href") or "")
    expect(page.locator("body")).to_contain_text("smoke")
    assert page.locator("h1").first.inner_text().strip()
    shoot(page, "policy-report")


def test_lineage_of_a_policy_leads_to_the_dataset(page: Page) -> None:
    page.goto("/assets/policies/ppo_checkpoint?view=lineage&lineageScope=upstream")
    for name in ("ppo_checkpoint", "sft_checkpoint", "rm_deployment", "rl_prompts"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.wait_for_timeout(2000)
    shoot(page, "ppo-lineage")
    assert page.get_by_text("leaderboard", exact=True).count() == 0, "it is not upstream"


def test_cancelling_a_run_leaves_no_trainer(page: Page, ui: UI) -> None:
    long = {"extends": "smoke", "compute": {"launcher": "local"}}
    long["policy"] = {"sft": {"max_steps": 100_000}}
    path = ui.workspace.experiments / "endless.yaml"
    path.write_text(yaml.safe_dump(long))
    ui.graphql(
        """mutation($key: String!) {addDynamicPartition(partitionsDefName: "experiment",
        partitionKey: $key, repositorySelector: {repositoryName: "__repository__",
        repositoryLocationName: "harness_jobs.definitions"}) {__typename}}""",
        key="endless",
    )
    materialize(page, "prepare_data", "endless")
    ui.wait_for_run("prepare_data", "endless", {"SUCCESS"}, timeout_s=240)
    materialize(page, "train_policies", "endless")
    run = ui.wait_for_run("train_policies", "endless", {"STARTED"}, timeout_s=120)
    wait_for(lambda: trainers(ui.workspace), timeout_s=180)

    page.goto(f"/runs/{run['runId']}")
    page.get_by_role("button", name=re.compile("Terminate")).first.click()
    page.get_by_role("button", name=re.compile("Terminate 1 run")).click()
    ui.wait_for_run("train_policies", "endless", {"CANCELED"}, timeout_s=60)
    wait_for(lambda: not trainers(ui.workspace), timeout_s=30)
    shoot(page, "cancelled")
    path.unlink()
    assert not trainers(ui.workspace)


def trainers(workspace: Workspace) -> list[psutil.Process]:
    """Processes of the training worker on this project's jobs."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        ours = any(word.startswith(str(workspace.root)) for word in words)
        if ours and any(word.endswith(".worker") for word in words):
            found.append(process)
    return found


def wait_for(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true in time"
        time.sleep(0.5)
