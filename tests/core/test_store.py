"""The store publishes atomically, reuses by recipe, verifies on read and survives kills and races."""

from __future__ import annotations

import errno
import json
import os
import shutil
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
    store: ArtifactStore,
    build,
    recipe: Recipe = RECIPE,
    run_id: str = "r",
    *,
    shared: bool = False,
) -> tuple[Artifact, bool]:
    return store.produce(
        recipe,
        build,
        snapshot={"key": "toy"},
        environment=environment_of,
        code=Code(version="1"),
        run_id=run_id,
        shared=shared,
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


OTHER = replace(RECIPE, experiment="other")


def test_a_shared_stage_takes_what_another_experiment_made_and_says_so(
    store: ArtifactStore,
) -> None:
    gate = Gate(passed=True, value=0.6, threshold=0.5)
    made, _ = produce(store, writer("hello", gates={"g": gate}, notes={"by": 1}), shared=True)
    taken, reused = produce(store, writer("never"), OTHER, run_id="second", shared=True)
    assert reused and taken.digest == made.digest and taken.path != made.path
    taken.verify()
    assert taken.file("out.txt").samefile(made.file("out.txt"))
    old, new = made.manifest, taken.manifest
    assert new.notes == {"by": 1, "taken_from": old.artifact_id}
    assert (new.experiment, new.reproduce.argv[2]) == ("other", "other")
    assert (new.metrics, new.gates, new.cost) == (old.metrics, old.gates, old.cost)
    assert new.created_at == old.created_at and taken.publication.run_id == "second"
    assert store.spec_snapshot("other", new.spec_digest) == {"key": "toy"}
    third, _ = produce(store, writer("never"), replace(RECIPE, experiment="third"), shared=True)
    assert third.manifest.notes["taken_from"] == old.artifact_id
    again, reused = produce(store, writer("never"), OTHER, shared=True)
    assert reused and again.publication == taken.publication


def test_what_was_taken_names_the_recipe_it_was_taken_by(store: ArtifactStore) -> None:
    produce(store, writer("same"), shared=True)
    later = replace(RECIPE, code_version="2", sections={"policy": "b"})
    produce(store, writer("same"), later, shared=True)  # its manifest keeps the first recipe
    taken, reused = produce(store, writer("x"), replace(later, experiment="other"), shared=True)
    assert reused and taken.manifest.spec_digest == later.spec_digest
    assert taken.manifest.code.version == "2"


def test_what_was_taken_stays_when_its_first_maker_is_deleted(store: ArtifactStore) -> None:
    made, _ = produce(store, writer("hello"), shared=True)
    produce(store, writer("never"), OTHER, shared=True)
    shutil.rmtree(made.path)
    kept = store.current("other", "sft_checkpoint")
    kept.verify()
    assert kept.file("out.txt").read_text() == "hello"


def test_a_stage_that_is_not_shared_is_made_for_each_experiment(store: ArtifactStore) -> None:
    produce(store, writer("one"))
    second, reused = produce(store, writer("two"), OTHER)
    assert not reused and "taken_from" not in second.manifest.notes


@pytest.mark.parametrize("file", ["out.txt", "manifest.json"])
def test_changed_files_of_another_experiment_are_not_taken(store: ArtifactStore, file: str) -> None:
    made, _ = produce(store, writer("hello"), shared=True)
    (made.path / file).write_text("changed")
    second, reused = produce(store, writer("hello"), OTHER, shared=True)
    assert not reused
    second.verify()


def test_repetitions_stay_in_their_experiment(store: ArtifactStore) -> None:
    first, _ = produce(store, writer("one"), shared=True)
    produce(store, writer("two"), replace(RECIPE, again="second week"), shared=True)
    taken, reused = produce(store, writer("never"), OTHER, shared=True)
    assert reused and taken.digest == first.digest
    again, reused = produce(store, writer("own"), replace(OTHER, again="first week"), shared=True)
    assert not reused and again.digest != first.digest


def test_where_files_cannot_be_linked_they_are_copied(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = produce(store, writer("hello"), shared=True)

    def refused(*names) -> None:
        raise OSError(errno.EXDEV, "no links across file systems")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    taken, reused = produce(store, writer("never"), OTHER, shared=True)
    assert reused and not taken.file("out.txt").samefile(made.path / "out.txt")


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
recipe = Recipe(sys.argv[3], "sft_checkpoint", "1", {"policy": "a"}, {"sft_examples": "b"})
def build(folder):
    print("building", flush=True)
    (folder / "out.txt").write_text("hello")
    time.sleep(float(sys.argv[2]))
    return Outcome()
artifact, reused = store.produce(recipe, build, snapshot={}, environment=environment_of, code=Code(version="1"), run_id="c", shared=True)
print("reused" if reused else "made", artifact.digest, flush=True)
"""


def child(store: ArtifactStore, seconds: float, experiment: str = "toy") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store.root), str(seconds), experiment],
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


@pytest.mark.parametrize("second", ["toy", "other"])
def test_two_runs_at_once_build_once_and_agree(store: ArtifactStore, second: str) -> None:
    children = [child(store, 1.0, experiment) for experiment in ("toy", second)]
    outputs = [process.communicate(timeout=30)[0].split() for process in children]
    assert sorted(output[-2] for output in outputs) == ["made", "reused"]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum(output[0] == "building" for output in outputs) == 1
