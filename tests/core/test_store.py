"""The store publishes atomically, reuses by recipe, verifies on read and survives kills and races."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reward_harness.environment import environment_of
from reward_harness.errors import ArtifactError, GateRejected
from reward_harness.manifest import Code, Gate, Metric, Outcome
from reward_harness.store import Artifact, ArtifactStore, Recipe

RECIPE = Recipe("toy", "sft_checkpoint", "1", {"policy": "a"}, {"sft_examples": "b"})


def produce(
    store: ArtifactStore, build, recipe: Recipe = RECIPE, run_id: str = "r"
) -> tuple[Artifact, bool]:
    return store.produce(
        recipe,
        build,
        snapshot={"key": "toy"},
        environment=environment_of,
        code=Code(version="1"),
        run_id=run_id,
    )


def writer(text: str, **outcome):
    def build(folder: Path) -> Outcome:
        (folder / "out.txt").write_text(text)
        (folder / "log").mkdir()
        (folder / "log" / "time.txt").write_text(str(time.time_ns()))
        return Outcome(metrics={"loss": Metric(value=1.5, direction="min")}, **outcome)

    return build


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "runs")


def test_equal_recipe_reuses_what_is_published_without_building(store: ArtifactStore) -> None:
    first, reused_first = produce(store, writer("hello"))
    built = []
    second, reused_second = produce(store, lambda folder: built.append(folder) or Outcome())
    assert (reused_first, reused_second) == (False, True)
    assert built == []
    assert second.digest == first.digest
    assert len(store.publications("toy", "sft_checkpoint")) == 1


def test_digest_covers_outputs_only_and_not_logs_or_inputs(store: ArtifactStore) -> None:
    first, _ = produce(store, writer("same"))
    other = replace(RECIPE, inputs={"sft_examples": "c"})
    second, reused = produce(store, writer("same"), other)
    assert not reused
    assert second.digest == first.digest
    publications = store.publications("toy", "sft_checkpoint")
    assert [p.inputs["sft_examples"] for p in publications] == ["b", "c"]


def test_a_repetition_is_made_once_and_then_what_the_recipe_gives(store: ArtifactStore) -> None:
    first, _ = produce(store, writer("one"))
    again = replace(RECIPE, again="second week")
    assert again.digest == RECIPE.digest and again.work_key != RECIPE.work_key
    second, reused = produce(store, writer("two", notes={"kept": False}), again)
    assert (second.digest == first.digest, reused) == (False, False)
    assert second.manifest.reproduce.argv[-2:] == ["--again", "second week"]
    for recipe in (again, RECIPE):
        found, reused = produce(store, writer("three"), recipe)
        assert reused and found.digest == second.digest
        assert found.publication.again == "second week"
        assert found.publication.notes == {"kept": False}
    assert len(store.publications("toy", "sft_checkpoint")) == 2


def test_the_same_content_again_keeps_the_manifest_and_notes_the_new_making(
    store: ArtifactStore,
) -> None:
    first, _ = produce(store, writer("same", notes={"by": 1}))
    again = replace(RECIPE, again="second week")
    second, reused = produce(store, writer("same", notes={"by": 2}), again)
    assert not reused and second.digest == first.digest
    assert (second.manifest.notes, second.publication.notes) == ({"by": 1}, {"by": 2})
    produce(store, writer("other"), replace(RECIPE, code_version="2"))
    back, reused = produce(store, writer("never"))
    assert reused and back.publication.notes == {"by": 2}
    assert store.current("toy", "sft_checkpoint").publication.again == "second week"


def test_going_back_to_an_old_recipe_makes_its_artifact_current_again(store: ArtifactStore) -> None:
    first, _ = produce(store, writer("one"))
    second, _ = produce(store, writer("two"), replace(RECIPE, code_version="2"))
    assert store.current("toy", "sft_checkpoint").digest == second.digest
    again, reused = produce(store, writer("never built"))
    assert reused and again.digest == first.digest
    assert store.current("toy", "sft_checkpoint").digest == first.digest


def test_one_changed_byte_is_an_error_that_names_the_file(store: ArtifactStore) -> None:
    artifact, _ = produce(store, writer("hello"))
    assert artifact.file("out.txt").read_text() == "hello"
    (artifact.path / "out.txt").write_text("hellp")
    with pytest.raises(ArtifactError, match=r"out\.txt: file does not match its digest"):
        artifact.file("out.txt")
    with pytest.raises(ArtifactError, match=r"out\.txt"):
        produce(store, writer("hello"))


def test_a_changed_manifest_is_noticed(store: ArtifactStore) -> None:
    artifact, _ = produce(store, writer("hello"))
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    next(o for o in content["outputs"] if o["path"] == "out.txt")["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="manifest does not match"):
        store.current("toy", "sft_checkpoint")


def test_failing_build_publishes_nothing_and_leaves_nothing(store: ArtifactStore) -> None:
    def build(folder: Path) -> Outcome:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        produce(store, build)
    assert store.current("toy", "sft_checkpoint") is None
    folder = store.stage_folder("toy", "sft_checkpoint")
    assert [p.name for p in folder.iterdir() if p.is_dir()] == []


def test_rejected_gate_is_published_and_refused_by_consumers(store: ArtifactStore) -> None:
    gate = Gate(passed=False, value=0.4, threshold=0.5, detail="agreement")
    artifact, _ = produce(store, writer("x", gates={"agreement": gate}))
    with pytest.raises(
        GateRejected, match=r"gate 'agreement' failed; got 0\.4; expected threshold 0\.5"
    ):
        artifact.manifest.require_gates()
    assert json.loads(artifact.file("gates.json").read_text())["agreement"]["passed"] is False


def test_torn_last_publication_line_does_not_hide_the_others(store: ArtifactStore) -> None:
    artifact, _ = produce(store, writer("hello"))
    log = store.stage_folder("toy", "sft_checkpoint") / "publications.jsonl"
    with log.open("a") as stream:
        stream.write('{"digest": "abc')
    assert store.current("toy", "sft_checkpoint").digest == artifact.digest
    second, _ = produce(store, writer("two"), replace(RECIPE, code_version="2"))
    assert store.current("toy", "sft_checkpoint").digest == second.digest


CHILD = """
import sys, time
from pathlib import Path
from reward_harness.environment import environment_of
from reward_harness.manifest import Code, Outcome
from reward_harness.store import ArtifactStore, Recipe
store = ArtifactStore(Path(sys.argv[1]))
recipe = Recipe("toy", "sft_checkpoint", "1", {"policy": "a"}, {"sft_examples": "b"})
def build(folder):
    print("building", flush=True)
    (folder / "out.txt").write_text("hello")
    time.sleep(float(sys.argv[2]))
    return Outcome()
artifact, reused = store.produce(recipe, build, snapshot={}, environment=environment_of, code=Code(version="1"), run_id="c")
print("reused" if reused else "made", artifact.digest, flush=True)
"""


def child(store: ArtifactStore, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store.root), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_builder_leaves_no_artifact_and_the_next_one_finishes(store: ArtifactStore) -> None:
    with child(store, 60) as process:
        assert process.stdout.readline() == "building\n"
        os.kill(process.pid, signal.SIGKILL)
    assert store.current("toy", "sft_checkpoint") is None
    artifact, reused = produce(store, writer("hello"))
    assert not reused
    artifact.verify()
    assert not list(store.stage_folder("toy", "sft_checkpoint").glob(".building-*"))


def test_two_runs_at_once_build_once_and_agree(store: ArtifactStore) -> None:
    children = [child(store, 1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0].split() for process in children]
    assert sorted(output[-2] for output in outputs) == ["made", "reused"]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum(output[0] == "building" for output in outputs) == 1
