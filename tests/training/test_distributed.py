"""Two processes train what one does: replicated and fully sharded, for SFT and DPO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reward_harness.errors import SpecError, TrainingError
from reward_harness.progress import quiet
from reward_harness.sections import ComputeSection, LoraSpec
from reward_harness.training.distributed import batch_arguments
from reward_harness.training.job import TrainResult
from reward_harness.training.launcher import LocalLauncher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def run(job, output: Path, **fields) -> tuple[TrainResult, list[dict], dict]:
    """The result, the metrics rows and the published weights of the job with these fields."""
    launcher = LocalLauncher(ComputeSection(), environment=ENVIRONMENT)
    result = launcher.run(job.model_copy(update={"resume_root": None, **fields}), output, quiet)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_bytes().splitlines()]
    return result, rows, load_file(output / "model" / "model.safetensors")


def same_training(one, several) -> None:
    """The same loss at every step to 1e-4, and the same weights to 1e-4."""
    assert [row["loss"] for row in several[1]] == pytest.approx(
        [row["loss"] for row in one[1]], abs=1e-4
    )
    assert several[2].keys() == one[2].keys()
    assert all((several[2][name] - one[2][name]).abs().max() < 1e-4 for name in one[2])


@pytest.mark.parametrize("sharding", ["replicated", "full_shard"])
def test_sft_on_two_processes_is_sft_on_one(jobs, tmp_path: Path, sharding: str) -> None:
    job = jobs.sft(max_steps=3)
    one = run(job, tmp_path / "one")
    two = run(job, tmp_path / "two", processes=2, sharding=sharding)
    same_training(one, two)
    assert ("sharded_tensors" in two[0].counts) == (sharding == "full_shard")


@pytest.mark.parametrize(
    ("lora", "reference"),
    [(None, "model"), (None, "precomputed"), (LoraSpec(r=2, alpha=4, dropout=0.0), "model")],
    ids=["sharded-reference", "precomputed-reference", "adapter-off"],
)
def test_sharded_dpo_is_dpo_on_one_process(
    jobs, tmp_path: Path, lora: LoraSpec | None, reference: str
) -> None:
    job = jobs.dpo(lora=lora, max_steps=2, reference=reference)
    one = run(job, tmp_path / "one")
    two = run(job, tmp_path / "two", processes=2, sharding="full_shard")
    same_training(one, two)
    assert two[0].counts["sharded_tensors"] > 0


def test_a_sharded_job_that_was_stopped_goes_on_to_the_same_end(jobs, tmp_path: Path) -> None:
    job = jobs.sft(max_steps=4, save_every=2)
    spread = {"processes": 2, "sharding": "full_shard", "resume_root": str(tmp_path / "resume")}
    whole = run(job, tmp_path / "whole", **spread)
    checkpoints = sorted((tmp_path / "resume").glob("*/checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-2"]
    again = run(job, tmp_path / "again", **spread)
    assert again[0].resumed_from == 2
    same_training(whole, again)


def test_an_error_of_one_process_is_the_jobs_error(jobs, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch_size cannot be divided among the processes"):
        run(jobs.sft(batch_size=3), tmp_path / "out", processes=2)


def test_a_job_for_two_processes_is_not_run_on_one(jobs) -> None:
    job = jobs.sft().model_copy(update={"processes": 2})
    with pytest.raises(SpecError, match=r"got 1; expected 2"):
        batch_arguments(job, job.settings)
