"""A trainer's run on a real reward server: handshake, exit code, and only what was seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError, DataError, LLMError
from reward_harness.runs.registry import Registry
from reward_harness.runs.schemas import Dataset, Trainer
from reward_harness.runs.verl import Plan, finalize, prepare, run
from reward_harness.workspace import Workspace
from tests.serving.conftest import server_process, write_word_artifact

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = """
import json, os, pathlib, urllib.request
folder = pathlib.Path(os.environ["TRAINING_RUN_DIR"])
body = {"prompt": "Capital of France?", "candidate": {"text": "It is Paris."}}
request = urllib.request.Request(
    os.environ["RM_ENDPOINT"] + "/score",
    json.dumps(body).encode(),
    {"content-type": "application/json"},
)
score = json.load(urllib.request.urlopen(request))["score"]
print("trained on", os.environ["RM_ARTIFACT_ID"], "score", score)
(folder / "checkpoints" / "step_1.txt").write_text("weights")
(folder / "training_summary.json").write_text(json.dumps({"steps": 1}))
(folder / "reward_summary.json").write_text(json.dumps({"mean": score}))
report = {
    "eval_run_id": "eval-of-" + os.environ["TRAINING_RUN_ID"],
    "training_run_id": os.environ["TRAINING_RUN_ID"],
    "evaluated_at_utc": "2026-03-01T00:00:00Z",
    "benchmark": {"name": "toy", "version": "1"},
    "metrics": {"accuracy": 0.5},
}
(folder / "eval" / "toy.json").write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL and artifact id of a real server."""
    root = tmp_path_factory.mktemp("server")
    artifact = write_word_artifact(root / "rm", shared="Paris")
    with server_process(root, "--artifact", str(root / "rm")) as (record, _):
        yield record.url, artifact.artifact_id


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Workspace(tmp_path))


def plan(url: str, **more) -> Plan:
    return Plan(
        rm_endpoint=url,
        dataset=Dataset(dataset_id="gsm8k", dataset_version="1", split="train"),
        trainer=Trainer(project="verl", code_version="abc", entrypoint="main_ppo"),
        **more,
    )


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_run_is_declared_run_and_recorded_as_it_was(served, registry, tmp_path, capfd):
    url, artifact_id = served
    manifest = prepare(registry, plan(url), tmp_path / "out")
    assert (manifest.rm_artifact_id, manifest.search_session_id) == (artifact_id, "session-1")
    name = manifest.training_run_id
    ended = run(registry, name, python(TRAINER), tmp_path / "out")
    result = finalize(registry, name, tmp_path / "out")
    assert (ended.exit_code, result.status) == (0, "succeeded")
    assert result.training_summary == {"exit_code": 0, "steps": 1}
    assert result.reward_summary == {"mean": 1.0}
    folder = tmp_path / "out" / name
    assert result.output.checkpoint_path == str(folder / "checkpoints")
    assert f"trained on {artifact_id} score 1.0" in (folder / "logs/trainer.log").read_text()
    assert f"trained on {artifact_id}" in capfd.readouterr().out
    assert [report.eval_run_id for report in registry.run(name).evals] == [f"eval-of-{name}"]
    assert finalize(registry, name, tmp_path / "out") == result, "finalizing again is harmless"
    with pytest.raises(ArtifactError, match="ended already"):
        run(registry, name, python("pass"), tmp_path / "out")


def test_success_without_a_word_from_the_trainer_invents_nothing(served, registry, tmp_path):
    name = prepare(registry, plan(served[0]), tmp_path).training_run_id
    run(registry, name, python("pass"), tmp_path)
    result = finalize(registry, name, tmp_path)
    assert result.status == "succeeded"
    assert result.training_summary == {"exit_code": 0}
    assert result.reward_summary == {}
    assert result.output.checkpoint_path is None and result.output.model_artifact_path is None
    assert registry.run(name).evals == ()


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (python("import sys; sys.exit(7)"), 7, "exit code 7"),
        (python("import os; os.kill(os.getpid(), 9)"), 137, "SIGKILL"),
        (["/no/such/trainer"], 127, "No such file"),
    ],
)
def test_a_trainer_that_fails_is_recorded_with_its_own_exit_code(
    served, registry, tmp_path, command, code, told
):
    name = prepare(registry, plan(served[0]), tmp_path).training_run_id
    assert run(registry, name, command, tmp_path).exit_code == code
    result = finalize(registry, name, tmp_path)
    assert result.status == "failed" and result.failure is not None
    assert told in result.failure.message and result.failure.stage == "training"


def test_another_reward_than_declared_fails_in_preflight_and_is_recorded(
    served, registry, tmp_path
):
    asked = plan(served[0], rm_artifact_id="rm-other", training_run_id="wrong")
    with pytest.raises(ArtifactError, match=r"another artifact_id.*expected rm-other"):
        prepare(registry, asked, tmp_path)
    recorded = registry.run("wrong")
    assert recorded.status == "failed" and recorded.result.failure.stage == "preflight"
    with pytest.raises(ArtifactError, match="another source_session_id"):
        prepare(registry, plan(served[0], search_session_id="session-2"), tmp_path)
    assert len(registry.runs()) == 1, "nothing is recorded of a reward that nobody named"


def test_no_server_is_told(registry, tmp_path):
    with pytest.raises(LLMError, match="does not answer"):
        prepare(registry, plan("http://127.0.0.1:9"), tmp_path)


def test_nothing_is_recorded_of_a_run_that_has_not_ended(served, registry, tmp_path):
    name = prepare(registry, plan(served[0]), tmp_path).training_run_id
    with pytest.raises(ArtifactError, match="has not ended"):
        finalize(registry, name, tmp_path)
    assert registry.run(name).status == "planned"


def test_a_broken_report_does_not_undo_the_result(served, registry, tmp_path):
    name = prepare(registry, plan(served[0]), tmp_path).training_run_id
    run(registry, name, python("pass"), tmp_path)
    (tmp_path / name / "eval" / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        finalize(registry, name, tmp_path)
    assert registry.run(name).status == "succeeded"


def test_the_command_passes_signals_on_and_keeps_the_exit_code(served, registry, tmp_path):
    name = prepare(registry, plan(served[0]), tmp_path / "out").training_run_id
    code = (
        "import signal, sys, time, pathlib, os\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "pathlib.Path(os.environ['TRAINING_RUN_DIR'], 'up').touch()\n"
        "time.sleep(60)"
    )
    harness = [sys.executable, "-m", "reward_harness.cli", "verl", "run"]
    arguments = ["--training-run-id", name, "--output-dir", str(tmp_path / "out"), "--"]
    with subprocess.Popen(
        [*harness, *arguments, *python(code)],
        cwd=REPOSITORY,
        env=os.environ | {"HARNESS_ROOT": str(tmp_path)},
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out" / name / "up").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 42
    result = registry.run(name).result
    assert result is not None and result.status == "canceled"
    assert result.cancellation.by == "SIGTERM"
    recorded = json.loads((registry.root / "results" / f"{name}.json").read_text())
    assert recorded["training_summary"] == {"exit_code": 42}
