"""What a user can get wrong on the command line: one clear error each, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from reward_harness.errors import ArtifactError
from reward_harness.spec import read_experiment
from reward_harness.stages import STAGES, make
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph")]


def errors_in(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


def write(workspace: Workspace, key: str, **content: object) -> Path:
    path = workspace.experiments / f"{key}.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke", **content}))
    return path


def test_unknown_field_is_told_with_file_and_line(
    workspace: Workspace, launch: Callable[..., str]
) -> None:
    path = write(workspace, "wrong", polcy={"sft": None})
    (error,) = errors_in(launch("wrong", code=2))
    assert f"{path}:2: unknown field 'polcy'" in error


def test_bad_key_is_told_with_the_rule(workspace: Workspace, launch: Callable[..., str]) -> None:
    (error,) = errors_in(launch("Not a key", code=2))
    assert "not a usable experiment key; got 'Not a key'; expected 2 to 48" in error


def test_unknown_stage_lists_those_there_are(
    workspace: Workspace, launch: Callable[..., str]
) -> None:
    (error,) = errors_in(launch("smoke", ("sft",), code=2))
    assert "no stage 'sft' in this experiment" in error and "sft_checkpoint" in error


def test_missing_dataset_is_told_by_the_failed_stage(
    workspace: Workspace, launch: Callable[..., str]
) -> None:
    write(workspace, "lost", dataset={"sft": {"source": "no-such-source"}})
    output = launch("lost", ("sft_examples",), code=1)
    assert "✗ sft_examples" in output
    assert "no source 'no-such-source'; expected one of:" in output
    (note,) = (workspace.dagster_home / "failures").glob("*.md")
    assert f"what failed, and how to go on: {note}" in output
    assert "- `datasets__sft_examples`: " in note.read_text()
    assert "Resume: `harness experiment run lost`" in note.read_text()


def test_mirror_that_lacks_a_file_is_told_with_both_ways_out(
    workspace: Workspace, launch: Callable[..., str], tmp_path: Path
) -> None:
    output = launch("hh-harmless", ("preference_pairs",), code=1, HARNESS_DATA_MIRROR=str(tmp_path))
    assert "✗ preference_pairs" in output
    assert "hh_rlhf_harmless_base_test.jsonl.gz" in output and "HARNESS_DATA_MIRROR" in output


def test_stage_without_its_input_says_what_to_run(workspace: Workspace) -> None:
    spec = read_experiment(workspace.experiments, "smoke")
    with pytest.raises(ArtifactError, match="has not been made for this experiment") as told:
        make(workspace, spec, "rubric_population")
    assert "harness experiment run smoke --stages" in str(told.value)


def test_a_named_stage_takes_along_only_what_it_needs_and_was_never_made(
    workspace: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    store = ArtifactStore(workspace.runs)

    def made() -> dict[str, str]:
        found = {name: store.current("smoke", name) for name in STAGES}
        return {name: artifact.digest for name, artifact in found.items() if artifact}

    launch("smoke", ("best_rubric",))
    first = made()
    assert set(first) == {"ranked_prompts", "rubric_population", "best_rubric"}
    edit("smoke", lambda spec: spec["search"].update(generations=1))
    launch("smoke", ("best_rubric",))
    assert made()["rubric_population"] == first["rubric_population"]


def test_corrupt_artifact_stops_its_consumer_and_names_the_file(
    finished: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    artifact = ArtifactStore(finished.runs).current("smoke", "sft_examples")
    path = artifact.path / "train.jsonl"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    edit("smoke", lambda spec: spec["policy"]["sft"].update(max_steps=3))
    output = launch("smoke", ("sft_checkpoint",), code=1)
    assert "train.jsonl: file does not match its digest" in output


def test_too_little_memory_stops_before_training_with_what_would_fit(
    finished: Workspace, launch: Callable[..., str], edit: Callable[..., None]
) -> None:
    edit("smoke", lambda spec: spec["compute"].update(memory_fraction=1e-9))
    output = launch("smoke", ("sft_checkpoint",), code=1)
    assert "✗ sft_checkpoint" in output
    assert "memory" in output
