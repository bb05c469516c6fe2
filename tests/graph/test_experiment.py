"""`smoke` through the real graph: what runs, what stays fresh, what an edit turns stale."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from reward_harness.manifest import TAKEN_FROM
from reward_harness.stages.table import STAGES
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.conftest import materializations, planned, stages_of, stale_stages

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(900)]

READERS_OF_RUBRIC = {"rm_artifact", "rm_report", "policy_report", "signal_report"}
AFTER_RUBRIC = READERS_OF_RUBRIC | {
    "rm_deployment",
    "grpo_checkpoint",
    "ppo_checkpoint",
    "hacking_report",
}
AFTER_PPO = {"ppo_checkpoint", "policy_report", "hacking_report"}
SECTIONS_ONLY = ("preference_pairs",)
"""A launch of a fresh stage records the edited sections and runs no stage."""


def test_every_stage_publishes_an_artifact_that_verifies(finished: Workspace) -> None:
    store = ArtifactStore(finished.runs)
    for name in stages_of(finished, "smoke"):
        artifact = store.current("smoke", name)
        assert artifact is not None, name
        artifact.verify()
        assert set(artifact.manifest.inputs) <= set(STAGES[name].inputs)
        assert (artifact.path / "summary.md").read_text().strip(), name
    board = store.current("all", "leaderboard")
    assert board is not None and board.manifest.inputs


def test_inputs_of_every_artifact_are_the_current_upstream_digests(finished: Workspace) -> None:
    store = ArtifactStore(finished.runs)
    for name in stages_of(finished, "smoke"):
        for upstream, digest in store.current("smoke", name).publication.inputs.items():
            assert store.current("smoke", upstream).digest == digest, (name, upstream)


def test_unchanged_experiment_is_fresh_and_runs_nothing(
    finished: Workspace, launch: Callable[..., str]
) -> None:
    before = materializations(finished, "smoke")
    assert set(before.values()) == {1}
    assert stale_stages(finished, "smoke") == set()
    assert "everything is fresh" in launch("smoke")
    assert materializations(finished, "smoke") == before


def test_edited_ppo_section_makes_ppo_and_what_follows_stale(
    finished: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    edit("smoke", lambda spec: spec["policy"]["ppo"].update(max_steps=3))
    launch("smoke", SECTIONS_ONLY)
    assert planned(finished, "smoke") == AFTER_PPO
    assert stale_stages(finished, "smoke") == {"ppo_checkpoint"}
    launch("smoke")
    assert stale_stages(finished, "smoke") == planned(finished, "smoke") == set()
    counts = materializations(finished, "smoke")
    assert {name for name, count in counts.items() if count == 2} == AFTER_PPO


def test_changed_rubric_makes_exactly_its_descendants_stale(
    finished: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    store = ArtifactStore(finished.runs)
    before = store.current("smoke", "best_rubric").digest
    preset = finished.root / "data" / "preset.json"
    rubric = json.loads(store.current("smoke", "best_rubric").file("rubric.json").read_text())
    content = rubric["__shared__"]
    content["criteria"] = content["criteria"][:1]
    preset.write_text(json.dumps(content))
    edit(
        "smoke",
        lambda spec: spec["search"].update(preset_rubric="data/preset.json", generations=1),
    )
    launch("smoke", ("rubric_population", "best_rubric"))
    assert store.current("smoke", "best_rubric").digest != before
    assert planned(finished, "smoke") == AFTER_RUBRIC
    assert stale_stages(finished, "smoke") == READERS_OF_RUBRIC


def test_same_rubric_found_again_leaves_its_descendants_fresh(
    finished: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    store = ArtifactStore(finished.runs)
    before = store.current("smoke", "best_rubric").digest
    edit("smoke", lambda spec: spec["search"].update(max_calls=10_000))
    launch("smoke", ("rubric_population", "best_rubric", "rm_artifact"))
    assert store.current("smoke", "best_rubric").digest == before
    assert stale_stages(finished, "smoke") == set()


def test_an_experiment_takes_what_its_like_made_and_makes_what_differs(
    finished: Workspace, launch: Callable[..., str], harness: Callable[..., str]
) -> None:
    (finished.experiments / "longer.yaml").write_text(
        "extends: smoke\npolicy: {ppo: {max_steps: 3}}\n"
    )
    output = launch("longer")
    store = ArtifactStore(finished.runs)
    made = {name: store.current("longer", name) for name in stages_of(finished, "longer")}
    taken = {name for name, one in made.items() if TAKEN_FROM in one.manifest.notes}
    assert taken == {
        "preference_pairs",
        "ranked_prompts",
        "sft_examples",
        "rl_prompts",
        "reasoning_steps",
        "rubric_population",
        "best_rubric",
        "bt_reward_model",
        "sft_checkpoint",
        "dpo_checkpoint",
    }
    for name in taken:
        source = store.current("smoke", name)
        assert made[name].manifest.notes[TAKEN_FROM] == source.manifest.artifact_id
        assert f"taken from {source.manifest.artifact_id}" in output
        made[name].verify()
    assert planned(finished, "longer") == stale_stages(finished, "longer") == set()
    dpo = made["dpo_checkpoint"].manifest.artifact_id
    for _ in range(2):  # nothing of the first reproduction shortens the second
        assert "same content" in harness("reproduce", dpo)
    assert not list((finished.cache / "resume").glob("*"))
    assert "in smoke" in harness("lineage", "show", "longer", "--stage", "dpo_checkpoint")


def test_lineage_command_reaches_the_dataset(
    finished: Workspace, harness: Callable[..., str]
) -> None:
    text = harness("lineage", "show", "smoke", "--stage", "ppo_checkpoint")
    for name in (
        "ppo_checkpoint",
        "sft_checkpoint",
        "rm_deployment",
        "rm_artifact",
        "ranked_prompts",
    ):
        assert name in text


def test_reproduce_makes_a_dataset_and_a_checkpoint_again(
    finished: Workspace, harness: Callable[..., str]
) -> None:
    store = ArtifactStore(finished.runs)
    for stage in ("preference_pairs", "sft_checkpoint"):
        digest = store.current("smoke", stage).digest
        assert "same content" in harness("reproduce", f"smoke/{stage}/{digest[:16]}")
