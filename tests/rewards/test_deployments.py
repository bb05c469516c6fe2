import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError, GateRejected
from reward_harness.locking import file_lock
from reward_harness.manifest import Gate
from reward_harness.rm.artifact import RubricRuntime, write_artifact
from reward_harness.rm.deployments import DeploymentConflict, Deployments
from reward_harness.rm.package import rubric_artifact
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.workspace import Workspace


def export(folder: Path, words: int, **changes) -> Path:
    """An exported artifact file that asks for so many words."""
    check = WordCount(min_words=words)
    criterion = Criterion(criterion_id="w", text="w", kind="programmatic", check=check)
    rubric = Rubric(rubric_id="r", criteria=(criterion,))
    runtime = RubricRuntime(backend="heuristic", locale="en", endpoint=None, votes=1, seed=7)
    artifact = rubric_artifact({"__shared__": rubric}, runtime, {}).model_copy(update=changes)
    return write_artifact(artifact, folder / f"rm-{words}.json")


@pytest.fixture
def dev(tmp_path: Path) -> Deployments:
    return Deployments(Workspace(tmp_path), "dev")


def test_deploy_switches_and_names_what_came_before(dev: Deployments, tmp_path: Path):
    assert dev.current() is None
    first = dev.deploy(export(tmp_path, 1), "ann")
    second = dev.deploy(export(tmp_path, 2), "bob")
    assert (first.previous_artifact_id, first.deployed_by) == (None, "ann")
    assert second.previous_artifact_id == first.artifact_id
    assert dev.current() == second
    assert second.artifact_path == "rm-2.json"  # relative to the project: it can be moved
    assert dev.artifact_path(second) == tmp_path / "rm-2.json"


def test_what_is_in_force_is_not_deployed_again(dev: Deployments, tmp_path: Path):
    first = dev.deploy(export(tmp_path, 1))
    assert dev.deploy(export(tmp_path, 1)) == first
    assert len((dev.folder / "history.jsonl").read_text().splitlines()) == 1


def test_rollback_goes_back_and_no_further_than_the_first(dev: Deployments, tmp_path: Path):
    first, second = dev.deploy(export(tmp_path, 1)), dev.deploy(export(tmp_path, 2))
    assert second != first
    assert dev.rollback() == first == dev.current()
    with pytest.raises(ArtifactError, match="only one deployment"):
        dev.rollback()
    actions = [
        json.loads(x)["action"] for x in (dev.folder / "history.jsonl").read_text().splitlines()
    ]
    assert actions == ["deploy", "deploy", "rollback"]


def test_rollback_refuses_an_artifact_that_changed_meanwhile(dev: Deployments, tmp_path: Path):
    path = export(tmp_path, 1)
    dev.deploy(path)
    second = dev.deploy(export(tmp_path, 2))
    path.write_text(path.read_text().replace('"min_words": 1', '"min_words": 7'))
    with pytest.raises(ArtifactError, match="does not match"):
        dev.rollback()
    assert dev.current() == second


def test_nothing_to_roll_back_to(dev: Deployments):
    with pytest.raises(ArtifactError, match="no deployment"):
        dev.rollback()


def test_targets_are_apart(tmp_path: Path):
    dev, staging = (Deployments(Workspace(tmp_path), t) for t in ("dev", "staging"))
    dev.deploy(export(tmp_path, 1))
    assert staging.current() is None


def test_a_failed_gate_bars_every_target_and_an_unenforced_one_only_prod(tmp_path: Path):
    bad = {"length_padding": Gate(passed=False, value=2.0, threshold=0.1)}
    weak = {"length_padding": Gate(passed=False, value=2.0, threshold=0.1, enforced=False)}
    good = {"length_padding": Gate(passed=True, value=0.0, threshold=0.1)}
    dev, prod = (Deployments(Workspace(tmp_path), t) for t in ("dev", "prod"))
    with pytest.raises(GateRejected, match="length_padding"):
        dev.deploy(export(tmp_path, 1, gates=bad))
    dev.deploy(export(tmp_path, 2, gates=weak))
    with pytest.raises(GateRejected, match="length_padding"):
        prod.deploy(export(tmp_path, 2, gates=weak))
    with pytest.raises(ArtifactError, match="gates were not run"):
        prod.deploy(export(tmp_path, 3))
    prod.deploy(export(tmp_path, 4, gates=good))
    assert prod.current() is not None


def chain(dev: Deployments) -> list[str]:
    """Artifact ids from the one in force back to the first."""
    seen, manifest = [], dev.current()
    while manifest is not None:
        seen.append(manifest.artifact_id)
        previous = manifest.previous_deploy_id
        manifest = dev.manifest(previous) if previous else None
    return seen


def test_of_two_deployers_at_once_one_wins_and_the_other_is_told(dev: Deployments, tmp_path: Path):
    first = dev.deploy(export(tmp_path, 1), "ann")
    paths = {"bob": export(tmp_path, 2), "cem": export(tmp_path, 3)}
    told: list[ArtifactError] = []

    def attempt(who: str) -> None:
        try:
            dev.deploy(paths[who], who)
        except ArtifactError as error:
            told.append(error)

    threads = [threading.Thread(target=attempt, args=(who,)) for who in paths]
    with file_lock(dev.folder / ".lock"):  # both have looked at the target before either may switch
        for thread in threads:
            thread.start()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    winner = dev.current()
    assert winner.deployed_by in paths and winner.previous_deploy_id == first.deploy_id
    (refused,) = told
    assert isinstance(refused, DeploymentConflict)
    assert f"by {winner.deployed_by}" in str(refused) and "another deployment came first" in str(
        refused
    )
    assert [e.by for e in dev.history()] == ["ann", winner.deployed_by]
    loser = next(path for who, path in paths.items() if who != winner.deployed_by)
    assert dev.deploy(loser).previous_artifact_id == winner.artifact_id  # decided anew, it may


def test_many_deployers_leave_one_chain_of_those_that_won(dev: Deployments, tmp_path: Path):
    paths = [export(tmp_path, words) for words in range(1, 9)]
    won: list[str] = []

    def attempt(path: Path) -> None:
        with contextlib.suppress(DeploymentConflict):
            won.append(dev.deploy(path).artifact_id)

    threads = [threading.Thread(target=attempt, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won and sorted(chain(dev)) == sorted(won)


def test_a_rollback_is_remembered_until_something_else_is_deployed(
    dev: Deployments, tmp_path: Path
):
    first, second = dev.deploy(export(tmp_path, 1)), dev.deploy(export(tmp_path, 2))
    assert dev.withdrawn(second.artifact_digest) is None
    dev.rollback("ann")
    assert dev.withdrawn(second.artifact_digest).by == "ann"
    assert dev.withdrawn(first.artifact_digest) is None
    dev.deploy(export(tmp_path, 3))
    assert dev.withdrawn(second.artifact_digest) is None


def test_kill_9_while_deploying_leaves_a_valid_pointer(dev: Deployments, tmp_path: Path):
    paths = [str(export(tmp_path, words)) for words in (1, 2)]
    code = (
        "import sys; from pathlib import Path\n"
        "from reward_harness.rm.deployments import Deployments\n"
        "from reward_harness.workspace import Workspace\n"
        "d = Deployments(Workspace(Path(sys.argv[1])), 'dev')\n"
        "while True:\n    [d.deploy(Path(p)) for p in sys.argv[2:]]\n"
    )
    root = Path(__file__).resolve().parents[2]
    for round_ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *paths], cwd=root)
        before = dev.current()
        deadline = time.monotonic() + 20
        while dev.current() == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.03 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        manifest = dev.current()
        assert manifest is not None and manifest != before
    assert dev.deploy(export(tmp_path, 5)) == dev.current()  # and the lock is free
