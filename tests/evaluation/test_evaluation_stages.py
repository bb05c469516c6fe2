"""The report stages on the smoke experiment: real datasets, serving stages and tiny random models."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from reward_harness.environment import environment_of
from reward_harness.errors import ArtifactError
from reward_harness.evaluation.results import PolicyResults, RewardResults, read_results
from reward_harness.hashing import canonical_json
from reward_harness.lineage.provenance import lineage_of
from reward_harness.manifest import Code, Outcome
from reward_harness.models.embedded import load_policy_folder, model_folder
from reward_harness.models.reward_head import RewardModel
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import ModelSpec
from reward_harness.spec import ExperimentSpec, read_experiment
from reward_harness.stages import Services, make
from reward_harness.stages.leaderboard import make_leaderboard
from reward_harness.stages.reproduce import reproduce
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.workspace import Workspace

RESPONSE_WORDS = 4


def publish(workspace: Workspace, stage: str, build: Callable[[Path], None]) -> Artifact:
    def built(folder: Path) -> Outcome:
        build(folder)
        return Outcome()

    artifact, _ = ArtifactStore(workspace.runs).produce(
        Recipe("smoke", stage, "1", {"by": "test"}, {}),
        built,
        snapshot={},
        environment=environment_of,
        code=Code(version="1"),
        run_id="test",
    )
    return artifact


def write_rubric(folder: Path) -> None:
    check = WordCount(min_words=1, max_words=RESPONSE_WORDS)
    criterion = Criterion(criterion_id="short", text="Short.", kind="programmatic", check=check)
    rubric = Rubric(rubric_id="short", criteria=(criterion,))
    content = {"__shared__": rubric.model_dump(mode="json")}
    (folder / "rubric.json").write_bytes(canonical_json(content))
    (folder / "graded_parts.json").write_bytes(b"{}")


def write_rows(folder: Path, **columns: list[float]) -> None:
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    (folder / "metrics.jsonl").write_bytes(b"".join(canonical_json(r) + b"\n" for r in rows))


def write_reward_model(folder: Path, cache: Path) -> None:
    backbone = model_folder(ModelSpec(source="random", name="tiny-encoder"), cache)
    model = RewardModel.from_backbone(backbone, max_length=64)
    generator = torch.Generator().manual_seed(0)
    model.head.weight.data = torch.randn(model.head.weight.shape, generator=generator)
    model.save(folder / "model")
    write_rows(folder, loss=[0.69, 0.68, 0.67])


def write_policy(folder: Path, cache: Path, shift: float, **columns: list[float]) -> None:
    """The tiny model, its weights moved by ``shift`` in a seeded direction."""
    source = model_folder(ModelSpec(source="random", name="tiny-causal"), cache)
    model, tokenizer = load_policy_folder(source)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += shift * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder, **columns)


@pytest.fixture
def ready(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory):
    """The smoke experiment with everything that the reports read."""
    kept = tmp_path_factory.getbasetemp() / "evaluation-stages"
    cache = kept / "cache"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(cache))
    torch.set_num_threads(1)
    spec = read_experiment(workspace.experiments, "smoke")
    if not (kept / "runs").is_dir():
        prepare(workspace, spec, cache)
        shutil.copytree(workspace.runs, kept / "runs")
    else:
        shutil.copytree(kept / "runs", workspace.runs)
    return spec


def prepare(workspace: Workspace, spec: ExperimentSpec, cache: Path) -> None:
    for stage in ("preference_pairs", "ranked_prompts", "rl_prompts"):
        make(workspace, spec, stage)
    publish(workspace, "best_rubric", write_rubric)
    publish(workspace, "bt_reward_model", lambda folder: write_reward_model(folder, cache))
    for stage in ("rm_artifact", "rm_deployment"):
        make(workspace, spec, stage)
    losses = {"loss": [3.0, 2.0, 1.0]}
    rewards = {"reward_mean": [0.4, 0.5, 0.6]}
    for name, shift, columns in (
        ("sft", 0.0, losses),
        ("dpo", 0.0, losses),
        ("grpo", 0.01, rewards),
        ("ppo", 0.2, rewards),
    ):
        publish(
            workspace,
            f"{name}_checkpoint",
            lambda folder, s=shift, c=columns: write_policy(folder, cache, s, **c),
        )


def made(workspace: Workspace, spec, stage: str) -> Artifact:
    artifact, reused = make(workspace, spec, stage)
    assert not reused
    return artifact


def digest_of(workspace: Workspace, stage: str) -> str:
    artifact = ArtifactStore(workspace.runs).current("smoke", stage)
    assert artifact is not None
    return artifact.digest


def test_the_reward_report_measures_the_served_reward_and_the_other_one(workspace, ready):
    artifact = made(workspace, ready, "rm_report")
    results = read_results(artifact.file("report.json"), RewardResults)
    assert [r.name for r in results.rewards] == ["rubric", "classifier"]
    assert results.served == "rubric"
    rubric, classifier = results.rewards
    assert rubric.digest == digest_of(workspace, "rm_artifact")
    assert classifier.digest == digest_of(workspace, "bt_reward_model")
    test = (artifact.path.parents[1] / "preference_pairs").glob("*/test.jsonl")
    assert rubric.pairs.n_pairs == len(next(test).read_text().splitlines())
    assert rubric.pairs.length_bias.value < 0  # the rubric pays for short answers only
    assert rubric.ranked is not None and results.agreements[0].first == "rubric"
    assert results.gates.keys() == artifact_gates(workspace)
    assert results.classifier_training.steps == 3
    metrics = artifact.manifest.metrics
    assert metrics["rubric_accuracy"].direction == "max"
    assert metrics["rubric_accuracy"].ci_low is not None
    assert metrics["rubric_length_bias"].direction == "min"


def artifact_gates(workspace: Workspace) -> set[str]:
    artifact = ArtifactStore(workspace.runs).current("smoke", "rm_artifact")
    return artifact.manifest.gates.keys()


def test_the_policy_report_compares_every_checkpoint_under_two_scorers(workspace, ready):
    artifact = made(workspace, ready, "policy_report")
    results = read_results(artifact.file("report.json"), PolicyResults)
    by_name = {p.name: p for p in results.policies}
    assert list(by_name) == ["sft", "dpo", "grpo", "ppo"]
    assert [s.name for s in results.scorers] == ["rubric", "classifier"]
    assert by_name["ppo"].digest == digest_of(workspace, "ppo_checkpoint")
    assert by_name["sft"].kl_sequence is None
    # dpo has sft's own weights: the same texts, no KL, no change
    same = by_name["dpo"]
    assert same.kl_sequence.value == pytest.approx(0.0, abs=1e-5)
    assert same.by_scorer["rubric"].change.value == 0.0
    assert same.by_scorer["rubric"].win_rate.value == 0.5
    assert by_name["ppo"].kl_sequence.value > by_name["grpo"].kl_sequence.value
    assert results.training["ppo"].first == 0.4 and results.training["ppo"].last == 0.6
    assert set(results.explanations) == {"dpo", "grpo", "ppo"}
    metrics = artifact.manifest.metrics
    assert metrics["dpo_win_rate"].value == 0.5
    assert metrics["ppo_kl"].direction == "none"
    assert "ppo_classifier_reward_change" in metrics
    rows = [json.loads(line) for line in artifact.file("samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * ready.evaluation.prompts
    assert set(rows[0]["scores"]) == {"rubric", "classifier"}


def test_reports_are_the_same_bytes_when_made_again(workspace, ready):
    for stage in ("rm_report", "policy_report"):
        artifact = made(workspace, ready, stage)
        assert reproduce(workspace, artifact.manifest.artifact_id, Services()).same_content, stage


def test_pages_are_self_contained_and_name_their_sources(workspace, ready):
    for stage in ("rm_report", "policy_report"):
        artifact = made(workspace, ready, stage)
        html = artifact.file("report.html").read_text(encoding="utf-8")
        assert "What should I do next" in html
        assert not any(
            word in html for word in ("<script", "http-equiv", "<link", "@import", "src=")
        )
        assert html.count("url(") == html.count("url(#")  # a figure's own clip paths
        for digest in artifact.manifest.inputs.values():
            assert digest in html
        assert artifact.file("plot.png").stat().st_size < 150_000
        assert artifact.file("summary.md").read_text().startswith("# ")


def test_a_served_classifier_is_judged_beside_the_rubric(workspace, ready):
    path = workspace.experiments / "smoke.yaml"
    content = yaml.safe_load(path.read_text())
    content["reward_model"]["serve"] = "classifier"
    path.write_text(yaml.safe_dump(content))
    spec = read_experiment(workspace.experiments, "smoke")
    for stage in ("rm_artifact", "rm_deployment"):
        make(workspace, spec, stage)
    artifact = made(workspace, spec, "policy_report")
    results = read_results(artifact.file("report.json"), PolicyResults)
    assert [s.name for s in results.scorers] == ["classifier", "rubric"]
    assert "best_rubric" in artifact.manifest.inputs
    assert "bt_reward_model" not in artifact.manifest.inputs


def test_the_leaderboard_collects_reports_and_is_reused_until_one_changes(workspace, ready):
    with pytest.raises(ArtifactError, match="no experiment has a report yet"):
        make_leaderboard(workspace)
    report = made(workspace, ready, "rm_report")
    first, reused = make_leaderboard(workspace)
    assert not reused
    assert first.manifest.inputs == {"smoke/rm_report": report.digest}
    assert make_leaderboard(workspace)[1]
    policies = made(workspace, ready, "policy_report")
    second, reused = make_leaderboard(workspace)
    assert not reused
    assert second.manifest.inputs["smoke/policy_report"] == policies.digest
    board = json.loads(second.file("report.json").read_bytes())
    assert board["experiments"] == ["smoke"]
    assert {row["policy"] for row in board["policies"]} == {"dpo", "grpo", "ppo"}
    assert next(r for r in board["policies"] if r["policy"] == "dpo")["adjusted_p"] == 1.0
    upstream = {node.stage for node in lineage_of(ArtifactStore(workspace.runs), "all").nodes()}
    assert {
        "leaderboard",
        "rm_report",
        "policy_report",
        "ppo_checkpoint",
        "best_rubric",
    } <= upstream


def test_an_archived_experiment_leaves_the_leaderboard(workspace, ready):
    made(workspace, ready, "rm_report")
    path = workspace.experiments / "smoke.yaml"
    path.write_text(f"status: archived\n{path.read_text()}")
    with pytest.raises(ArtifactError, match="no experiment has a report yet"):
        make_leaderboard(workspace)
