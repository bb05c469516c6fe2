"""docs/own-reward.md: its Python and YAML work, and the served rubric scores as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError, ScoringError
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.remote import RemoteRM
from reward_harness.rm.deployments import Deployments
from reward_harness.spec import read_experiment
from reward_harness.stages.make import Services, make
from reward_harness.workspace import Workspace
from tests.serving.conftest import server_process

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own-reward.md").read_text()
SOURCED = "Curie, see https://nobelprize.org"
LONG = "word " * 120
STAGES = ("ranked_prompts", "rubric_population", "best_rubric")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def names(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict:
    """What the page's Python defines, run in the project's folder."""
    monkeypatch.chdir(workspace.root)
    found: dict = {}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"docs/own-reward.md block {number}", "exec"), found)
    return found


def test_the_reward_in_python_scores_and_trains(names: dict) -> None:
    score = names["reward"].score
    assert score(prompt="?", response=SOURCED) == pytest.approx(1.0)
    assert score(prompt="?", response=LONG) == pytest.approx(0.3 * 0.5)
    with pytest.raises(ScoringError, match="names nothing"):
        names["NamesASource"]().score([{"role": "assistant", "content": " "}])
    told = names["reward_funcs"](prompts=["?", "?"], completions=[SOURCED, ""])
    assert told == [pytest.approx(1.0), None]


def test_the_artifact_is_served_and_deployed_but_not_to_prod(
    names: dict, workspace: Workspace
) -> None:
    folder = workspace.root / "sourced"
    rm = load_rm(folder)
    expected = [rm.score(prompt="?", response=text) for text in (SOURCED, LONG)]
    assert expected[0] == pytest.approx(1.0) and expected[1] < 0.3
    server = server_process(workspace.root, "--artifact", str(folder))
    with server as (record, _), RemoteRM(record.url) as served:
        got = [served.score(prompt="?", response=text) for text in (SOURCED, LONG)]
    assert got == pytest.approx(expected)
    deployed = Deployments(workspace, "staging").deploy(folder, "ann")
    assert deployed.artifact_digest == rm.digest
    with pytest.raises(ArtifactError, match="gates"):
        Deployments(workspace, "prod").deploy(folder, "ann")


def test_the_experiment_searches_from_the_rubric(names: dict, workspace: Workspace) -> None:
    (text,) = blocks("yaml")
    (workspace.experiments / "sourced.yaml").write_text(text)
    spec = read_experiment(workspace.experiments, "sourced")
    made = [make(workspace, spec, stage, Services())[0] for stage in STAGES]
    (unit,) = json.loads(made[1].file("population.json").read_bytes())["units"]
    assert unit["initial"] == names["rubric"].digest
    assert "initial_agreement" in made[2].manifest.metrics
