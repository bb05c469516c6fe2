import json

import pytest
from pydantic import ValidationError

from reward_harness.errors import TrainingError
from reward_harness.training.job import read_job, write_job


def test_a_job_file_is_read_back_as_it_was_written(jobs, tmp_path):
    for job in (jobs.sft(), jobs.dpo(), jobs.bt(), jobs.grpo(), jobs.ppo()):
        assert read_job(write_job(job, tmp_path / job.method)) == job


def test_the_published_job_names_no_place_on_this_machine(jobs, tmp_path):
    job = jobs.grpo()
    write_job(job, tmp_path)
    text = (tmp_path / "job.json").read_text()
    assert str(jobs.root) not in text and "127.0.0.1" not in text
    assert json.loads(text)["model"]["digest"] == job.model.digest


def test_the_digest_ignores_places_and_sees_everything_else(jobs):
    job = jobs.grpo()
    moved = job.model_copy(
        update={
            "resume_root": "/elsewhere",
            "model": job.model.model_copy(update={"path": "/elsewhere"}),
            "reward": job.reward.model_copy(update={"url": "http://127.0.0.1:10"}),
        }
    )
    assert moved.digest == job.digest
    assert job.model_copy(update={"seed": 4}).digest != job.digest
    other = job.reward.model_copy(update={"digest": "1" * 64})
    assert job.model_copy(update={"reward": other}).digest != job.digest
    assert jobs.grpo(beta=0.2).digest != job.digest


def test_a_job_with_an_unknown_field_or_a_broken_group_is_refused(jobs, tmp_path):
    path = write_job(jobs.sft(), tmp_path)
    content = json.loads(path.read_text()) | {"colour": "red"}
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="colour"):
        read_job(path)
    with pytest.raises(ValidationError, match="multiple of group_size"):
        jobs.grpo(batch_size=3, group_size=2)
