"""Dataset stages: split by prompt, the same bytes from the same records, measured honestly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from reward_harness.data.files import read_records
from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
    prompt_key,
)
from reward_harness.data.splits import SPLITS
from reward_harness.errors import DataError
from reward_harness.spec import ExperimentSpec, read_experiment
from reward_harness.stages.make import StageStatus, make, stage_status
from reward_harness.stages.table import STAGES
from reward_harness.store import Artifact
from reward_harness.workspace import Workspace

RECORDS: dict[str, type[Record]] = {
    "preference_pairs": PreferencePair,
    "ranked_prompts": RankedPrompt,
    "sft_examples": SFTExample,
    "rl_prompts": RLPrompt,
    "reasoning_steps": StepwiseExample,
}


@pytest.fixture
def tour(workspace: Workspace) -> ExperimentSpec:
    return read_experiment(workspace.experiments, "tour")


def keys(artifact: Artifact, stage: str, split: str) -> set[str]:
    return {
        prompt_key(r.prompt) for r in read_records(artifact.file(f"{split}.jsonl"), RECORDS[stage])
    }


def change(spec: ExperimentSpec, **dataset: object) -> ExperimentSpec:
    content = spec.model_dump(mode="json")
    content["dataset"] |= dataset
    return ExperimentSpec.model_validate(content)


def test_a_prompt_is_in_the_same_split_in_every_stage(
    workspace: Workspace, tour: ExperimentSpec
) -> None:
    made = {s: make(workspace, tour, s)[0] for s in list(RECORDS)[:4]}
    for split in SPLITS:
        found = {stage: keys(artifact, stage, split) for stage, artifact in made.items()}
        assert len(found["ranked_prompts"]) > 0
        assert all(each == found["ranked_prompts"] for each in found.values())


def test_a_stage_publishes_records_stats_summary_and_picture(
    workspace: Workspace, tour: ExperimentSpec
) -> None:
    artifact, _ = make(workspace, tour, "preference_pairs")
    outputs = {o.path: o.bytes for o in artifact.manifest.outputs}
    assert set(outputs) == {
        *(f"{split}.jsonl" for split in SPLITS),
        "left_out.jsonl",
        "stats.json",
        "summary.md",
        "plot.png",
    }
    assert 1_000 < outputs["plot.png"] < 150_000
    metrics = artifact.manifest.metrics
    assert sum(metrics[f"records_{s}"].value for s in SPLITS) == 56 * 15
    assert sum(metrics[f"prompts_{s}"].value for s in SPLITS) == 56
    longer = metrics["longer_wins_share"]
    assert longer.ci_low is not None and longer.ci_low < longer.value
    assert longer.n == 56
    assert metrics["near_duplicate_share"].direction == "min"
    assert "| train |" in (artifact.path / "summary.md").read_text()


@pytest.mark.parametrize("stage", list(RECORDS))
def test_the_same_records_make_the_same_bytes(
    workspace: Workspace, tmp_path: Path, stage: str
) -> None:
    from reward_harness.stages.make import Services, StageRun, builder_of, plan_recipe
    from reward_harness.store import ArtifactStore

    spec = read_experiment(workspace.experiments, "smoke")
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        run = StageRun(
            STAGES[stage],
            spec,
            workspace,
            ArtifactStore(workspace.runs),
            {},
            Services(),
            plan_recipe(workspace, spec, STAGES[stage], {}),
        )
        builder_of(STAGES[stage])(run, folder)
        contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert contents[0] == contents[1]
    assert read_records(tmp_path / "one" / "train.jsonl", RECORDS[stage])


def test_a_changed_source_makes_its_stages_stale_and_only_them(
    workspace: Workspace, tour: ExperimentSpec
) -> None:
    for name in ("ranked_prompts", "reasoning_steps"):
        make(workspace, tour, name)
    stages = [STAGES["ranked_prompts"], STAGES["reasoning_steps"]]
    assert set(stage_status(workspace, tour, stages).values()) == {StageStatus.FRESH}
    path = workspace.sources / "tour.yaml"
    content = yaml.safe_load(path.read_text())
    del content["sha256"]
    path.write_text(yaml.safe_dump(content))
    status = stage_status(workspace, tour, stages)
    assert status == {
        "ranked_prompts": StageStatus.STALE,
        "reasoning_steps": StageStatus.FRESH,
    }


def test_a_limit_is_a_number_of_prompts(workspace: Workspace, tour: ExperimentSpec) -> None:
    limited = change(tour, preferences={"source": "tour", "limit": 20, "pairs": "adjacent"})
    metrics = make(workspace, limited, "preference_pairs")[0].manifest.metrics
    assert sum(metrics[f"prompts_{s}"].value for s in SPLITS) == 20
    assert sum(metrics[f"records_{s}"].value for s in SPLITS) == 20 * 5


def test_rows_that_were_left_out_are_listed_and_counted(
    workspace: Workspace, tour: ExperimentSpec
) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": "a b", "rejected": "a"} for i in range(60)]
    rows[10]["rejected"] = "a b"
    path = workspace.root / "data" / "toy.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    known = [{"line": 11, "reason": "both sides are equal"}]
    source = {
        "description": "toy",
        "licence": "CC0",
        "reader": "trl-preference",
        "path": "data/toy.jsonl",
        "known_invalid": known,
    }
    (workspace.sources / "toy.yaml").write_text(yaml.safe_dump(source))
    artifact, _ = make(workspace, change(tour, preferences={"source": "toy"}), "preference_pairs")
    assert [
        json.loads(x) for x in artifact.file("left_out.jsonl").read_text().splitlines()
    ] == known
    assert artifact.manifest.metrics["left_out"].value == 1
    assert artifact.manifest.metrics["longer_wins_share"].value == 1.0


def test_a_source_for_evaluation_is_not_trained_on(
    workspace: Workspace, tour: ExperimentSpec
) -> None:
    path = workspace.sources / "tour.yaml"
    path.write_text(path.read_text() + "evaluation_only: true\n")
    with pytest.raises(DataError, match=r"'tour' .* is for evaluation, not for a dataset stage"):
        make(workspace, tour, "sft_examples")
    assert not (workspace.runs / "tour/sft_examples/publications.jsonl").exists()


def test_a_source_of_another_kind_is_refused(workspace: Workspace, tour: ExperimentSpec) -> None:
    with pytest.raises(DataError, match="cannot make StepwiseExample records"):
        make(workspace, change(tour, reasoning={"source": "tour"}), "reasoning_steps")


@pytest.mark.parametrize("key", ["tour", "smoke", "hh-harmless", "hh-harmless-gpu"])
def test_shipped_experiments_are_valid_and_say_what_they_are_for(
    workspace: Workspace, key: str
) -> None:
    path = workspace.experiments / f"{key}.yaml"
    assert path.read_text().startswith("# ")
    spec = read_experiment(workspace.experiments, key)
    assert len(spec.description) > 20
    assert spec.policy.sft and spec.policy.dpo and spec.policy.grpo and spec.policy.ppo
    assert spec.reward_model.bt
