"""The optional stages through the stage machinery, on tiny models; their lineage and packaging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair
from reward_harness.errors import DataError
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rubrics.files import SHARED
from reward_harness.rubrics.types import Rubric
from reward_harness.spec import experiment_keys, read_experiment
from reward_harness.stages import distillation
from reward_harness.stages.make import Services, make
from reward_harness.stages.table import STAGES, wanted_stages
from reward_harness.training.launcher import InlineLauncher

TINY = (
    "{backbone: {source: random, name: tiny-encoder}, max_steps: 2, batch_size: 4, max_length: 64}"
)
LETTERS = Rubric.model_validate(
    {
        "rubric_id": "letters",
        "criteria": [
            {
                "criterion_id": "long-words",
                "text": "Long words.",
                "kind": "programmatic",
                "check": {"type": "word_length", "low": 1, "high": 12},
            }
        ],
    }
)
"""Tells any two random texts apart; the searched rubric gives most of them one score."""

ALL = f"""\
extends: smoke
dataset:
  synthetic_sft: {{prompts: 24, max_new_tokens: 8}}
  ai_preferences: {{prompts: 24, max_new_tokens: 8, temperature: 1.2, min_confidence: low}}
  rl_samples: {{prompts: 24, samples_per_prompt: 3, max_new_tokens: 8}}
  scores: {{repeats: 5}}
  distilled: {{min_margin: 0.01}}
reward_model:
  serve: ensemble
  gates: {{enforce: false, heldout_prompts: 8, attacked_responses: 4}}
  bt: {{pairs: ai_preferences}}
  rubric: {TINY}
  ensemble: {TINY[:-1]}, members: 2}}
  process: {TINY}
  distilled: {TINY}
policy:
  sft: {{examples: synthetic_sft}}
  iterative_dpo: {{max_steps: 1, batch_size: 2, rounds: 2, prompts: 6, judged_prompts: 3,
    max_prompt_tokens: 32, max_new_tokens: 8, max_length: 64, temperature: 1.2, reward: in_process}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory):
    """Every optional stage made once; a function that makes further stages there."""
    from tests.conftest import copy_project

    workspace = copy_project(tmp_path_factory.mktemp("optional") / "project")
    (workspace.experiments / "optional.yaml").write_text(ALL)
    spec = read_experiment(workspace.experiments, "optional")

    def build(stage: str, changed=spec):
        services = Services(launcher=InlineLauncher(spec.compute))
        return make(workspace, changed, stage, services)[0]

    patch = pytest.MonkeyPatch()
    patch.setattr(distillation, "searched_rubric", lambda run, folder: RubricRM({SHARED: LETTERS}))
    names = [stage.name for stage in wanted_stages(spec)]
    skipped = ("dpo_checkpoint", "grpo_checkpoint", "ppo_checkpoint")
    build.made = {n: build(n) for n in names if n not in skipped and "report" not in n}
    build.spec, build.workspace = spec, workspace
    yield build
    patch.undo()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def served(project, kind: str):
    section = project.spec.reward_model.model_copy(update={"serve": kind})
    return project.spec.model_copy(update={"reward_model": section})


@pytest.mark.parametrize(
    "stage",
    ["rubric_reward_model", "reward_ensemble", "process_reward_model", "classifier_reward_model"],
)
def test_a_trained_reward_publishes_curves_and_held_out_measures(project, stage):
    artifact = project.made[stage]
    paths = {o.path for o in artifact.manifest.outputs}
    assert {"metrics.jsonl", "plot.png", "heldout.json", "job.json", "summary.md"} <= paths
    measures = json.loads(artifact.file("heldout.json").read_text())["test"]
    assert any(measure["ci_low"] is not None for measure in measures.values())
    assert not [p for p in paths if p.endswith((".pt", ".bin", ".pkl"))]


@pytest.mark.parametrize("kind", ["rubric_model", "ensemble", "process", "distilled"])
def test_each_kind_is_packaged_gated_and_loads_as_a_reward(project, kind):
    changed = served(project, kind)
    assert STAGES["rm_artifact"].inputs_of(changed)[0] != "best_rubric"
    artifact = project("rm_artifact", changed)
    assert artifact.manifest.gates and artifact.manifest.notes["kind"] == kind
    rm = load_rm(artifact.path)
    assert rm.digest == artifact.digest
    chat = [{"role": "user", "content": "What is 2 plus 3?"}]
    value = rm.score([*chat, {"role": "assistant", "content": "2 + 3 = 5.\nThe answer is 5."}])
    assert isinstance(value, float)


def test_the_rubric_model_is_compared_with_bradley_terry_on_the_same_pairs(project):
    found = project.made["rubric_reward_model"].manifest.metrics
    assert found["heldout_bt_accuracy"].n == found["heldout_accuracy"].n
    assert found["heldout_lead_over_bt"].ci_low is not None


def test_iterative_dpo_is_judged_by_the_reward_it_is_not_trained_on(project):
    artifact = project.made["iterative_dpo_checkpoint"]
    job = json.loads(artifact.file("job.json").read_text())
    assert job["reward"]["digest"] != job["judge"]["digest"]
    assert job["reward"]["kind"] == "artifact" and job["judge"]["kind"] == "artifact"
    assert "judge_gain_round_2" in artifact.manifest.metrics
    assert {r["round"] for r in lines(artifact.file("metrics.jsonl"))} == {1, 2}


def test_a_distilled_pair_leads_to_the_raw_scores_it_came_from(project):
    pairs = project.made["distilled_preferences"]
    made = [
        p
        for s in ("train", "validation", "test")
        for p in read_records(pairs.file(f"{s}.jsonl"), PreferencePair)
    ]
    origins = {row["pair_id"]: row for row in lines(pairs.file("origins.jsonl"))}
    assert made and {p.pair_id for p in made} == set(origins)
    scores = project.made["score_dataset"]
    raw: dict[str, list[dict]] = {}
    for row in lines(scores.file("raw_scores.jsonl")):
        raw.setdefault(row["response_id"], []).append(row)
    samples = project.made["rl_samples"]
    texts = {row["sample_id"]: row["response"] for row in lines(samples.file("samples.jsonl"))}
    for pair in made:
        origin = origins[pair.pair_id]
        means = [
            sum(row["score"] for row in raw[origin[side]]) / len(raw[origin[side]])
            for side in ("chosen_id", "rejected_id")
        ]
        assert means[0] - means[1] == pytest.approx(pair.margin) and pair.margin > origin["noise"]
        assert (texts[origin["chosen_id"]], texts[origin["rejected_id"]]) == (
            pair.chosen,
            pair.rejected,
        )
        assert origin["score_dataset"] == scores.digest
    assert pairs.manifest.inputs["score_dataset"] == scores.digest
    assert scores.manifest.inputs["rl_samples"] == samples.digest
    batch = json.loads(samples.file("batch.json").read_text())
    assert batch["training_run"] == project.made["sft_checkpoint"].digest


def test_no_prompt_of_the_distilled_pairs_is_in_two_splits(project):
    pairs = project.made["distilled_preferences"]
    splits = [
        {p.prompt[0].content for p in read_records(pairs.file(f"{s}.jsonl"), PreferencePair)}
        for s in ("train", "validation", "test")
    ]
    assert splits[0] and splits[2] and not (splits[0] & splits[2] or splits[0] & splits[1])


def test_a_batch_that_is_not_what_it_says_is_refused(project, monkeypatch):
    original = distillation.Batch.model_validate_json

    def short(text):
        batch = original(text)
        return batch.model_copy(update={"rows": batch.rows + 1})

    monkeypatch.setattr(distillation.Batch, "model_validate_json", short)
    section = project.spec.dataset.scores.model_copy(update={"repeats": 2})
    dataset = project.spec.dataset.model_copy(update={"scores": section})
    with pytest.raises(DataError, match=r"not the batch.*73 rows"):
        project("score_dataset", project.spec.model_copy(update={"dataset": dataset}))


def test_training_reads_the_generated_data_and_is_held_to_the_human_pairs(project):
    bt = json.loads(project.made["bt_reward_model"].file("job.json").read_text())
    assert bt["train"]["sha256"] != bt["test"]["sha256"]
    inputs = project.made["bt_reward_model"].manifest.inputs
    assert set(inputs) == {"preference_pairs", "ai_preferences"}
    assert set(project.made["sft_checkpoint"].manifest.inputs) == {"synthetic_sft"}
    verdicts = lines(project.made["ai_preferences"].file("verdicts.jsonl"))
    assert (
        len(verdicts) == 24 and {"left", "right", "preference", "confidence"} <= verdicts[0].keys()
    )
    kept = project.made["ai_preferences"].manifest.metrics["kept_share"]
    assert kept.n == 24 and 0 < kept.value <= 1


def test_every_shipped_experiment_reads_and_names_its_served_reward():
    folder = Path(__file__).resolve().parents[2] / "data" / "experiments"
    for key in experiment_keys(folder):
        spec = read_experiment(folder, key)
        packaged = STAGES["rm_artifact"].inputs_of(spec)
        wanted = {stage.name for stage in wanted_stages(spec)}
        assert set(packaged) <= wanted and packaged, key


@pytest.mark.parametrize("stage", ["synthetic_sft", "ai_preferences", "rl_samples"])
def test_what_a_policy_wrote_depends_on_the_precision_it_wrote_in(stage):
    assert "compute" in STAGES[stage].sections
