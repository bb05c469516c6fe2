"""The ``python -m reward_harness.rm.…`` commands on a search's output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_harness.data.files import write_records
from reward_harness.rewards.base import Item, conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import gates_of, read_artifact
from reward_harness.sections import SearchConfig

REPOSITORY = Path(__file__).resolve().parents[2]


def command(name: str, root: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"reward_harness.rm.{name}", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "HARNESS_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def search_output(tmp_path: Path, named_city):
    """A search output in which every prompt has the shared rubric."""

    def write(scope: str = "shared") -> Path:
        config = SearchConfig(backend="heuristic", scope=scope).model_dump(mode="json")
        body = {
            "best_rubrics": [
                {"prompt_id": f"p{n}", "rubric": named_city.model_dump(mode="json"), "score": 0.5}
                for n in range(2)
            ],
            "run_manifest": {
                "run_id": "run-1",
                "dataset": {"path": "x", "dataset_sha256": "d" * 64},
                "backend": {"requested": "auto", "resolved": "heuristic"},
                "seed": 7,
                "config_snapshot": config,
                "config_sha256": "c" * 64,
            },
        }
        (tmp_path / "out.json").write_text(json.dumps(body))
        return tmp_path / "out.json"

    return write


def test_export_then_deploy(workspace, search_output, tmp_path: Path):
    made = command(
        "export",
        workspace.root,
        "--search-output",
        search_output(),
        "--out-artifact",
        tmp_path / "rm.json",
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["gates"] == "not_run"
    artifact = read_artifact(tmp_path / "rm.json")
    assert (artifact.source_session_id, artifact.dataset_hash) == ("run-1", "d" * 64)
    assert load_rm(tmp_path / "rm.json").score(conversation_of("?", "Paris")) == 1.0

    deployed = command(
        "deploy", workspace.root, "--artifact", tmp_path / "rm.json", "--deployment-target", "dev"
    )
    assert json.loads(deployed.stdout)["artifact_id"] == artifact.artifact_id
    barred = command(
        "deploy", workspace.root, "--artifact", tmp_path / "rm.json", "--deployment-target", "prod"
    )
    assert barred.returncode == 1
    assert "gates were not run" in barred.stderr and "Traceback" not in barred.stderr


def test_export_with_gates_into_a_folder(workspace, search_output, heldout, tmp_path: Path):
    write_records(tmp_path / "heldout.jsonl", heldout)
    target = tmp_path / "rm"
    made = command(
        "export", workspace.root, "--search-output", search_output(), "--out-artifact", target,
        "--dataset", tmp_path / "heldout.jsonl", "--gates",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    gates = gates_of(target, read_artifact(target))
    assert gates and all(gate.passed for gate in gates.values())
    deployed = command(
        "deploy", workspace.root, "--artifact", target, "--deployment-target", "prod"
    )
    assert deployed.returncode == 0, deployed.stderr


def test_own_rubrics_stay_with_their_prompts(workspace, search_output, heldout, tmp_path: Path):
    write_records(tmp_path / "heldout.jsonl", heldout)
    command(
        "export", workspace.root, "--search-output", search_output("prompt_local"),
        "--out-artifact", tmp_path / "rm.json", "--dataset", tmp_path / "heldout.jsonl",
    )  # fmt: skip
    rm = load_rm(tmp_path / "rm.json")
    known = conversation_of(heldout[1].prompt[0].content, "Rome")
    by_text, by_id, unknown = rm.score_items(
        [Item(known), Item(conversation_of("x", "Rome"), "p0"), Item(conversation_of("x", "Rome"))]
    )
    assert (by_text.value, by_id.value, unknown.code) == (1.0, 1.0, "prompt_not_found")


def test_bad_input_is_one_line(workspace, tmp_path: Path):
    (tmp_path / "out.json").write_text('{"best_rubrics": []}')
    for path, reason in [
        (tmp_path / "out.json", "not a search output"),
        (tmp_path / "no.json", "cannot be read"),
    ]:
        done = command(
            "export",
            workspace.root,
            "--search-output",
            path,
            "--out-artifact",
            tmp_path / "rm.json",
        )
        assert done.returncode == 2
        assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1
