"""External runs: what is accepted, what is refused, what is compared with what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError, DataError
from reward_harness.runs.comparison import check_run, compare_runs
from reward_harness.runs.registry import Registry, read_record
from reward_harness.runs.schemas import EvalReport, TrainingManifest, TrainingResult
from reward_harness.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Workspace(tmp_path))


def manifest_of(run: str = "run-1", version: str = "v1", **more) -> dict:
    return {
        "schema_version": "1.0",
        "training_run_id": run,
        "created_at_utc": "2026-03-01T10:00:00Z",
        "rm_artifact_id": "rm-abc",
        "rm_deploy_id": "deploy-1",
        "search_session_id": "session-1",
        "rm_endpoint": "http://127.0.0.1:8100",
        "dataset": {"id": "gsm8k", "version": version, "split": "train"},
        "trainer": {"project": "verl_grpo", "code_version": "abc123", "entrypoint": "main_ppo"},
        "execution": {"launcher": "slurm", "num_workers": 8},
        **more,
    }


def result_of(run: str = "run-1", status: str = "succeeded", **more) -> dict:
    ends = {
        "succeeded": {
            "training_summary": {"final_reward": 0.4},
            "output": {"checkpoint_path": "/out/ckpt"},
        },
        "failed": {"failure": {"type": "OOM", "message": "out of memory", "stage": "training"}},
        "canceled": {"cancellation": {"reason": "out of budget"}},
    }
    return {
        "training_run_id": run,
        "status": status,
        "started_at_utc": "2026-03-01T10:00:00Z",
        "finished_at_utc": "2026-03-01T11:00:00+00:00",
        "duration_seconds": 3600,
        "trainer_code_version": "abc123",
        **ends[status],
        **more,
    }


def eval_of(name: str, run: str, at: str, **more) -> dict:
    metric = {"value": 0.5, "ci_low": 0.49, "ci_high": 0.51, "n": 900, "direction": "max"}
    return {
        "eval_run_id": name,
        "training_run_id": run,
        "evaluated_at_utc": at,
        "benchmark": {"name": "gsm8k", "version": "1", "split": "test"},
        "metrics": {"accuracy": metric, "length": 120.0},
        **more,
    }


def accuracy(value: float, half: float = 0.01, direction: str = "max") -> dict:
    metric = {"value": value, "ci_low": value - half, "ci_high": value + half}
    return {"accuracy": metric | {"direction": direction}}


def record(registry: Registry, kind, content: dict) -> bool:
    return registry.record(kind.model_validate(content))


def declared(registry: Registry, *runs: str, status: str = "succeeded") -> None:
    for run in runs:
        record(registry, TrainingManifest, manifest_of(run))
        record(registry, TrainingResult, result_of(run, status))


def test_the_same_record_again_is_the_same_and_another_is_refused(registry):
    assert record(registry, TrainingManifest, manifest_of()) is True
    assert record(registry, TrainingManifest, manifest_of()) is False
    with pytest.raises(DataError, match=r"recorded with other content.*rm_endpoint"):
        record(registry, TrainingManifest, manifest_of(rm_endpoint="http://elsewhere"))
    assert registry.manifest("run-1").rm_endpoint == "http://127.0.0.1:8100"


def test_dataset_is_read_under_both_names(registry):
    record(registry, TrainingManifest, manifest_of())
    long = manifest_of("run-2", dataset={"dataset_id": "d", "dataset_version": "2", "split": "s"})
    record(registry, TrainingManifest, long)
    assert [run.manifest.dataset.dataset_id for run in registry.runs()] == ["gsm8k", "d"]


def test_nothing_is_recorded_of_a_run_that_was_not_declared(registry):
    with pytest.raises(ArtifactError, match="no such training run"):
        record(registry, TrainingResult, result_of())
    with pytest.raises(ArtifactError, match="no such training run"):
        record(registry, EvalReport, eval_of("e", "run-1", "2026-03-02T00:00:00Z"))
    assert not (registry.root / "results").exists()


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_each_status_is_recorded_with_its_fields(status, registry):
    declared(registry, "run-1", status=status)
    assert registry.run("run-1").status == status


@pytest.mark.parametrize(
    ("status", "change", "told"),
    [
        ("succeeded", {"training_summary": {}}, "succeeded needs training_summary"),
        ("succeeded", {"output": {}}, "succeeded needs training_summary and an output"),
        ("failed", {"failure": None}, "failed needs failure"),
        ("failed", {"failure": {"type": "x", "message": "y"}}, "failure.stage"),
        ("canceled", {"cancellation": None}, "canceled needs cancellation"),
        ("canceled", {"cancellation": {}}, "reason or by"),
        ("succeeded", {"finished_at_utc": "2026-03-01T09:00:00Z"}, "before started_at_utc"),
        ("succeeded", {"duration_seconds": -1}, "duration_seconds"),
        ("succeeded", {"finished_at_utc": "noon"}, "finished_at_utc"),
        ("succeeded", {"reward": 1}, "reward"),
    ],
)
def test_a_result_without_what_its_status_needs_is_refused(tmp_path, status, change, told):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result_of(status=status) | change))
    with pytest.raises(DataError, match=told) as error:
        read_record(path, TrainingResult)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"training_run_id": "../../etc/passwd"},
        {"training_run_id": ""},
        {"rm_endpoint": "localhost"},
        {"schema_version": "2.0"},
        {"trainer": {"project": "p", "code_version": ""}},
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, change):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest_of() | change))
    with pytest.raises(DataError, match=next(iter(change))):
        read_record(path, TrainingManifest)


def test_other_code_than_declared_needs_a_reason(registry):
    record(registry, TrainingManifest, manifest_of())
    with pytest.raises(DataError, match="not the one that was declared"):
        record(registry, TrainingResult, result_of(trainer_code_version="def"))
    reason = {"code_version_override_reason": "fixed a crash"}
    assert record(registry, TrainingResult, result_of(trainer_code_version="def", **reason))


def test_a_run_has_many_reports_and_a_baseline_must_be_known(registry):
    declared(registry, "run-1")
    record(registry, EvalReport, eval_of("late", "run-1", "2026-03-03T00:00:00Z"))
    record(registry, EvalReport, eval_of("early", "run-1", "2026-03-02T23:00:00-05:00"))
    found = registry.run("run-1").evals
    assert [report.eval_run_id for report in found] == ["late", "early"]
    with pytest.raises(DataError, match="comparison_baseline is not recorded"):
        unknown = eval_of("x", "run-1", "2026-03-04T00:00:00Z", comparison_baseline="nobody")
        record(registry, EvalReport, unknown)


def test_the_newest_report_of_a_succeeded_comparable_run_is_the_baseline(registry):
    declared(registry, "old", "newer", "judged")
    declared(registry, "broken", status="failed")
    record(registry, TrainingManifest, manifest_of("elsewhere", version="v2"))
    record(registry, TrainingResult, result_of("elsewhere"))
    days = {"old": 1, "newer": 2, "broken": 3, "elsewhere": 4, "judged": 5}
    values = {"old": 0.9, "newer": 0.8, "broken": 0.99, "elsewhere": 0.99, "judged": 0.6}
    for run, day in days.items():
        at = f"2026-03-0{day}T00:00:00Z"
        record(registry, EvalReport, eval_of(f"e-{run}", run, at, metrics=accuracy(values[run])))
    (found,), alone = check_run(registry, "judged", threshold_pct=5.0)
    assert found.baseline.eval_run_id == "e-newer"
    assert found.changes["accuracy"].verdict == "critical" and found.regressed
    assert alone == []
    (named,), _ = check_run(registry, "judged", threshold_pct=5.0, baseline="old")
    assert named.baseline.eval_run_id == "e-old"
    with pytest.raises(ArtifactError, match="no succeeded report"):
        check_run(registry, "judged", threshold_pct=5.0, baseline="broken")
    assert check_run(registry, "old", threshold_pct=5.0)[0] == []


def test_a_plain_number_has_no_direction_and_is_never_a_regression(registry):
    declared(registry, "a", "b")
    for run, day, value in (("a", 1, 0.9), ("b", 2, 0.1)):
        at = f"2026-03-0{day}T00:00:00Z"
        record(registry, EvalReport, eval_of(run, run, at, metrics={"accuracy": value}))
    (found,), _ = check_run(registry, "b", threshold_pct=5.0)
    assert found.changes["accuracy"].verdict == "undirected" and not found.regressed


def test_two_runs_are_compared_on_common_benchmarks_by_their_newest_reports(registry):
    declared(registry, "a", "b")
    for name, run, day, value in (("a1", "a", 1, 0.3), ("a2", "a", 2, 0.5), ("b1", "b", 3, 0.8)):
        at = f"2026-03-0{day}T00:00:00Z"
        record(registry, EvalReport, eval_of(name, run, at, metrics=accuracy(value)))
    other = {"name": "math", "version": "1"}
    record(registry, EvalReport, eval_of("b2", "b", "2026-03-04T00:00:00Z", benchmark=other))
    (found,) = compare_runs(registry.run("b"), registry.run("a"), 5.0)
    assert (found.report.eval_run_id, found.baseline.eval_run_id) == ("b1", "a2")
    assert found.changes["accuracy"].verdict == "better"


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={"HARNESS_ROOT": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_commands_record_show_and_check(tmp_path):
    for run, day, value in (("a", 1, 0.9), ("b", 2, 0.6)):
        at = f"2026-03-0{day}T00:00:00Z"
        files = {
            "manifest": manifest_of(run),
            "result": result_of(run),
            "report": eval_of(run, run, at, metrics=accuracy(value)),
        }
        for name, content in files.items():
            (tmp_path / f"{run}-{name}.json").write_text(json.dumps(content))
    done = command(
        tmp_path,
        "reward_harness.rl.record_manifest",
        "--manifest",
        str(tmp_path / "a-manifest.json"),
    )
    assert (done.returncode, done.stdout) == (0, "a: recorded\n"), done.stderr
    registry = Registry(Workspace(tmp_path))
    for run in ("a", "b"):
        for name, kind in (
            ("manifest", TrainingManifest),
            ("result", TrainingResult),
            ("report", EvalReport),
        ):
            registry.record(read_record(tmp_path / f"{run}-{name}.json", kind))
    shown = command(tmp_path, "reward_harness.rl.show_lineage", "--training-run-id", "a")
    assert json.loads(shown.stdout)["manifest"]["rm_artifact_id"] == "rm-abc"
    checked = command(tmp_path, "reward_harness.cli", "runs", "check-regression", "b", "--json")
    assert checked.returncode == 1
    (compared,) = json.loads(checked.stdout)["compared"]
    assert compared["metrics"]["accuracy"]["verdict"] == "critical"
    refused = command(
        tmp_path, "reward_harness.cli", "runs", "record-manifest", str(tmp_path / "none.json")
    )
    assert refused.returncode == 2 and "no such file" in refused.stderr
