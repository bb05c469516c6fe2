from pathlib import Path

import pytest
from safetensors.torch import load_file

from reward_harness.errors import TrainingError
from reward_harness.progress import Progress, quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training.context import StopRequest
from reward_harness.training.resume import MARKER, ResumeFolder
from reward_harness.training.worker import run_job

LORA = LoraSpec(r=4, alpha=8)


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


class Killed(BaseException):
    """Stands for kill -9: nothing handles it."""


def kill_at(step: int):
    def sink(event: Progress) -> None:
        if event.step == step and event.numbers:
            raise Killed

    return sink


def fill(text: str):
    return lambda folder: (folder / "state").write_text(text)


def test_only_a_complete_and_unchanged_checkpoint_is_found(tmp_path: Path):
    resume = ResumeFolder(tmp_path)
    for step in (2, 4):
        resume.save(step, fill(str(step)))
    assert resume.newest() == (4, tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "state").write_text("torn")
    assert resume.newest() == (2, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-6").mkdir()
    (tmp_path / "checkpoint-2" / MARKER).unlink()
    assert resume.newest() is None


def test_old_checkpoints_are_deleted_newest_last(tmp_path: Path):
    resume = ResumeFolder(tmp_path)
    for step in (5, 10, 15, 20):
        resume.save(step, fill(str(step)))
    assert resume.steps() == [15, 20]
    resume.clear()
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft", {"lora": LORA}),
        ("sft", {}),
        ("dpo", {"lora": LORA}),
        ("grpo", {"lora": LORA}),
        ("ppo", {"lora": LORA}),
        ("bt", {}),
    ],
)
def test_a_killed_job_continues_and_ends_with_the_same_weights(
    jobs, tmp_path, monkeypatch, method, settings
):
    monkeypatch.setattr("reward_harness.training.reward_loop.SAVE_EVERY", 2)
    job = getattr(jobs, method)(**settings)
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})
    whole = job.model_copy(update={"resume_root": None})
    run_job(whole, tmp_path / "whole", quiet, reward=Length())
    last = job.settings.max_steps
    with pytest.raises(Killed):
        run_job(job, tmp_path / "killed", kill_at(last), reward=Length())
    result = run_job(job, tmp_path / "resumed", quiet, reward=Length())
    assert result.resumed_from is not None and 0 < result.resumed_from < last
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    names = ("metrics.jsonl", "model/README.md")
    for name in names:
        assert (tmp_path / "resumed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "ppo", "bt"])
def test_a_job_that_ended_and_was_not_published_ends_the_same_again(jobs, tmp_path, method):
    job = getattr(jobs, method)(save_every=2) if method != "bt" else jobs.bt()
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})
    first = run_job(job, tmp_path / "first", quiet, reward=Length())
    again = run_job(job, tmp_path / "again", quiet, reward=Length())
    assert (again.steps, again.metrics) == (first.steps, first.metrics)
    assert weights(tmp_path / "again") == weights(tmp_path / "first")
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("first", "again")]
    assert rows[0] == rows[1]


def weights(output: Path) -> dict[str, list[float]]:
    found = load_file(output / "model" / "model.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in found.items()}


@pytest.mark.parametrize("method", ["sft", "bt"])
def test_a_stop_request_saves_the_running_step(jobs, tmp_path, method):
    job = getattr(jobs, method)()
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})
    stop = StopRequest()

    def sink(event: Progress) -> None:
        stop.requested = event.step >= 2

    with pytest.raises(TrainingError, match="stopped by a signal"):
        run_job(job, tmp_path / "out", sink, stop=stop)
    found = ResumeFolder(tmp_path / "resume" / job.digest).newest()
    assert found is not None and found[0] in (2, 3)
