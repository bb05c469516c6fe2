"""What a tracker is told: the rows of metrics.jsonl, each once, from every kind of method."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reward_harness.errors import SpecError
from reward_harness.progress import Progress, quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.spec import read_experiment
from reward_harness.training.worker import run_job

EXPERIMENTS = Path(__file__).resolve().parents[2] / "data" / "experiments"


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


def tracked(job):
    return job.model_copy(update={"report_to": "tensorboard"})


def told(output: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(output / "log" / "tensorboard"))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def written(output: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (output / "metrics.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                found.setdefault(name, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return found


@pytest.mark.parametrize("method", ["sft", "grpo", "bt", "ppo", "iterative_dpo"])
def test_a_tracker_holds_the_rows_of_every_method(jobs, tmp_path: Path, method: str) -> None:
    job = getattr(jobs, method)(max_steps=2)
    job = tracked(job).model_copy(update={"resume_root": None})
    run_job(job, tmp_path, quiet, reward=Length())
    assert told(tmp_path) == written(tmp_path) != {}


def test_a_resumed_job_tells_its_former_rows_first(jobs, tmp_path: Path) -> None:
    job = tracked(jobs.sft(max_steps=6, save_every=2))
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})

    def stop(event: Progress) -> None:
        if event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, tmp_path / "stopped", stop)
    result = run_job(job, tmp_path / "again", quiet)
    assert result.resumed_from == 4
    assert told(tmp_path / "again") == written(tmp_path / "again")
    assert [step for step, _ in told(tmp_path / "again")["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_is_not_installed_is_said_before_training(
    jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    job = jobs.sft().model_copy(update={"report_to": "mlflow"})
    with pytest.raises(SpecError, match=r"toy: compute.report_to.*Run `pip install mlflow`"):
        run_job(job, tmp_path, quiet)
    assert not (tmp_path / "log" / "timing.jsonl").exists()


def test_where_one_watches_changes_no_digest(jobs) -> None:
    job = jobs.sft()
    experiment = read_experiment(EXPERIMENTS, "tour")
    assert tracked(job).digest == job.digest
    watched = experiment.model_copy(
        update={"compute": experiment.compute.model_copy(update={"report_to": "wandb"})}
    )
    assert watched.section_digests() == experiment.section_digests()
