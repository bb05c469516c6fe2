"""The two stages on the project's own data, without a model and against an endpoint, killed and
resumed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from reward_harness.data.files import read_records
from reward_harness.data.records import RankedPrompt
from reward_harness.errors import BudgetExceeded
from reward_harness.rubrics.types import Rubric
from reward_harness.spec import read_experiment
from reward_harness.stages.make import Services, make
from tests.llm.simulator import Simulator

REPOSITORY = Path(__file__).parents[2]
WORDS = ("because", "water", "first", "the", "and", "not")


def experiment(workspace, key: str, *, limit: int | None = None, **search):
    body = {
        "extends": "tour",
        "search": search,
        "dataset": {"ranked": {"source": "tour", "limit": limit}},
    }
    (workspace.experiments / f"{key}.yaml").write_text(yaml.safe_dump(body))
    return read_experiment(workspace.experiments, key)


def run_stages(workspace, spec, *names: str, **services):
    return [make(workspace, spec, name, Services(**services))[0] for name in names]


@pytest.fixture
def simulator(monkeypatch):
    with Simulator(vocabulary=WORDS, liked=WORDS[:2]) as running:
        monkeypatch.setenv("LLM_API_KEY", running.key)
        monkeypatch.setenv("LLM_BASE_URL", running.url)
        yield running


def test_the_tour_without_a_model(workspace):
    spec = experiment(workspace, "mini", backend="heuristic", generations=2, population_size=4)
    events = []
    ranked, population, best = run_stages(
        workspace,
        spec,
        "ranked_prompts",
        "rubric_population",
        "best_rubric",
        progress=events.append,
    )
    steps = [e.step for e in events if e.stage == "rubric_population"]
    assert list(dict.fromkeys(steps)) == [0, 1, 2]
    archive = json.loads(population.file("population.json").read_text())["units"][0]["archive"]
    assert archive[0]["safe"]
    output = json.loads(population.file("search_output.json").read_text())
    trained = {r.prompt_id for r in read_records(ranked.file("train.jsonl"), RankedPrompt)}
    assert {e["prompt_id"] for e in output["best_rubrics"]} == trained
    for entry in output["best_rubrics"]:
        scores = entry["candidate_scores"]
        assert scores[entry["best_candidate_id"]] == max(scores.values())
    rubric = Rubric.model_validate(json.loads(best.file("rubric.json").read_text())["__shared__"])
    heldout = json.loads(best.file("heldout.json").read_text())
    assert heldout["selected"] == rubric.digest
    assert 0.5 < heldout["agreement"]["value"] <= 1
    assert (
        heldout["agreement"]["ci_low"]
        < heldout["agreement"]["value"]
        < heldout["agreement"]["ci_high"]
    )
    assert heldout["agreement"]["pairs"] == heldout["initial"]["pairs"]
    summary = (best.path / "summary.md").read_text()
    assert rubric.criteria[0].text in summary
    listed = json.loads(best.file("criteria.json").read_text())
    assert [c["text"] for c in listed] == [
        c.text for c in sorted(rubric.criteria, key=lambda c: -c.weight)
    ]
    assert sum(c["weight"] for c in listed) == pytest.approx(1)
    shown = [c["example"] for c in listed if c["example"]]
    assert shown
    for example in shown:
        assert example["better_grade"] > example["worse_grade"]
        assert example["better_score"] > example["worse_score"]
        assert example["better"] in summary and example["worse"] in summary
    for artifact in (population, best):
        assert 5_000 < (artifact.path / "plot.png").stat().st_size < 200_000
        assert not (artifact.path / "log").exists()
        assert artifact.manifest.cost.llm_calls == 0


def test_the_same_recipe_makes_the_same_bytes(workspace):
    spec = experiment(workspace, "mini", backend="heuristic", generations=1, population_size=3)
    first = run_stages(workspace, spec, "ranked_prompts", "rubric_population", "best_rubric")
    other = experiment(workspace, "same", backend="heuristic", generations=1, population_size=3)
    second = run_stages(workspace, other, "ranked_prompts", "rubric_population")
    assert second[1].digest == first[1].digest


def test_prompts_with_rubrics_of_their_own(workspace):
    spec = experiment(
        workspace,
        "own",
        limit=12,
        backend="heuristic",
        generations=1,
        population_size=3,
        scope="prompt_local",
    )
    _, _, best = run_stages(workspace, spec, "ranked_prompts", "rubric_population", "best_rubric")
    rubrics = json.loads(best.file("rubric.json").read_text())
    assert len(rubrics) > 1
    assert "__shared__" not in rubrics
    heldout = json.loads(best.file("heldout.json").read_text())
    assert heldout["selected_by"].startswith("on held-out candidates of")
    assert heldout["agreement"]["prompts"] == heldout["validation_prompts"] == len(rubrics)
    # one of six candidates measures: its five pairs
    assert heldout["agreement"]["pairs"] <= 5 * len(rubrics)
    assert best.manifest.metrics["heldout_agreement"].n == len(rubrics)


def test_a_run_budget_stops_and_the_next_run_goes_on(workspace, simulator):
    spec = experiment(
        workspace, "paid", limit=8, backend="openai", generations=1, population_size=3
    )
    run_stages(workspace, spec, "ranked_prompts")
    with pytest.raises(BudgetExceeded, match="run the same command"):
        run_stages(workspace, spec, "rubric_population", search_budget={"max_calls": 30})
    assert simulator.received == 30
    population, best = run_stages(workspace, spec, "rubric_population", "best_rubric")
    assert simulator.repeated() == []
    assert simulator.received == simulator.answered
    assert population.manifest.cost.llm_calls > 0
    ledger = json.loads(population.file("log/ledger.json").read_text())
    assert [line["calls"] for line in ledger] == sorted(line["calls"] for line in ledger)
    assert len(ledger) == population.manifest.metrics["generations"].value + 1
    assert ledger[-1]["calls"] == population.manifest.cost.llm_calls
    assert (population.path / "log/costs.png").stat().st_size < 200_000
    assert best.manifest.cost.llm_calls > 0
    everything = "".join(p.read_text(errors="replace") for p in population.path.rglob("*.json"))
    assert simulator.key not in everything


@pytest.mark.parametrize("answered", [7, 25, 44])
def test_a_killed_search_repeats_no_paid_call_and_ends_the_same(workspace, simulator, answered):
    spec = experiment(
        workspace, "killed", limit=8, backend="openai", generations=2, population_size=3
    )
    run_stages(workspace, spec, "ranked_prompts")
    simulator.hold_after = answered
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from reward_harness.workspace import Workspace as W; from reward_harness.spec import read_experiment as r;"
            "from reward_harness.stages.make import make; w = W.discover();"
            "make(w, r(w.experiments, 'killed'), 'rubric_population')",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "HARNESS_ROOT": str(workspace.root), "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 60
    while simulator.answered < answered and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)  # answers on their way are read and kept; every further request hangs
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    assert simulator.answered >= answered
    simulator.release()
    resumed = run_stages(workspace, spec, "rubric_population")[0]
    assert simulator.repeated() == []
    untouched = experiment(
        workspace, "whole", limit=8, backend="openai", generations=2, population_size=3
    )
    (workspace.cache / "verdicts.sqlite").unlink()
    whole = run_stages(workspace, untouched, "ranked_prompts", "rubric_population")[1]
    assert resumed.digest == whole.digest
