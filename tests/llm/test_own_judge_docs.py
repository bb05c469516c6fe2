"""docs/own-judge.md: its experiment runs against a real local endpoint, at the cost the page says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from reward_harness.errors import EndpointRefused
from reward_harness.spec import ExperimentSpec, read_experiment
from reward_harness.stages.make import Services, make
from reward_harness.store import Artifact
from reward_harness.workspace import Workspace
from tests.llm.simulator import Simulator, role_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own-judge.md").read_text()
ADDRESS = "http://localhost:8000/v1"
STAGES = (
    "preference_pairs",
    "ranked_prompts",
    "rubric_population",
    "best_rubric",
    "rm_artifact",
)


def judged(workspace: Workspace, url: str) -> ExperimentSpec:
    """The page's experiment, with the test's endpoint for its address."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert ADDRESS in text
    (workspace.experiments / "judged.yaml").write_text(text.replace(ADDRESS, url))
    return read_experiment(workspace.experiments, "judged")


def run(workspace: Workspace, spec: ExperimentSpec) -> dict[str, Artifact]:
    return {stage: make(workspace, spec, stage, Services())[0] for stage in STAGES}


def test_the_experiment_asks_the_endpoint_and_pays_for_nothing_twice(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator() as endpoint:
        spec = judged(workspace, endpoint.url)
        with pytest.raises(EndpointRefused, match="MY_JUDGE_KEY"):
            run(workspace, spec)
        monkeypatch.setenv("MY_JUDGE_KEY", endpoint.key)
        made = run(workspace, spec)
        assert spec.search.max_calls is not None and 0 < endpoint.received < spec.search.max_calls
        assert endpoint.repeated() == [] and endpoint.max_in_flight <= 16
        models = {(role_of(body), body["model"].split("-")[-2]) for body in endpoint.bodies}
        assert {("proposer", "72B"), ("judge", "7B"), ("verifier", "7B")} <= models

        shown = [json.loads(b["messages"][1]["content"]) for b in endpoint.bodies if asks_judge(b)]
        orders = {(asked["left"], asked["right"]) for asked in shown}
        assert orders and all((right, left) in orders for left, right in orders)
        gates = made["rm_artifact"].manifest.gates
        assert gates["swap_consistency"].passed and gates["unscored_share"].passed

        paid = endpoint.received
        shutil.rmtree(workspace.runs)
        again = run(workspace, spec)
        assert endpoint.received == paid, "the verdict store knew every answer"
        assert {n: a.digest for n, a in again.items()} == {n: a.digest for n, a in made.items()}
    assert endpoint.key not in "".join(
        path.read_text(errors="replace") for path in workspace.runs.rglob("*") if path.is_file()
    )


def asks_judge(body: dict) -> bool:
    return role_of(body) == "judge"
