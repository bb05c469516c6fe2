"""Cycles of filter and training, a head without training, and the options that studies vary."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from reward_harness.data.confidence import keep_confident
from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair
from reward_harness.errors import TrainingError
from reward_harness.hashing import digest_file
from reward_harness.models.reward_head import RewardModel
from reward_harness.progress import quiet
from reward_harness.sections import EnsembleSection
from reward_harness.training import reward_model
from reward_harness.training.heldout import heldout_measures
from reward_harness.training.worker import run_job
from tests.training.conftest import ENCODER, pairs, stop_at

WEIGHTS = "model/model.safetensors"


def plain(job):
    return job.model_copy(update={"resume_root": None})


def with_train(job, kept, path):
    """The job on other training pairs."""
    path.write_text("".join(p.model_dump_json() + "\n" for p in kept))
    train = job.train.model_copy(update={"path": str(path), "sha256": digest_file(path)})
    return job.model_copy(update={"train": train})


def test_a_cycle_trains_anew_on_the_pairs_that_the_last_model_is_surest_of(jobs, tmp_path):
    job = plain(jobs.bt(max_steps=3, flywheel={"cycles": 1, "keep": 0.5}))
    found = run_job(job, tmp_path / "turned", quiet)
    run_job(plain(jobs.bt(max_steps=3)), tmp_path / "first", quiet)
    first = RewardModel.load(tmp_path / "first" / "model")
    everything = read_records(tmp_path.joinpath(job.train.path), PreferencePair)
    chosen, rejected = reward_model.pair_scores(first, everything)
    sure = [abs(c - r) for c, r in zip(chosen, rejected, strict=True)]
    kept = keep_confident(everything, sure, fraction=0.5)
    by_hand = with_train(plain(jobs.bt(max_steps=3)), kept, tmp_path / "kept.jsonl")
    run_job(by_hand, tmp_path / "hand", quiet)
    assert digest_file(tmp_path / "turned" / WEIGHTS) == digest_file(tmp_path / "hand" / WEIGHTS)
    assert digest_file(tmp_path / "turned" / WEIGHTS) != digest_file(tmp_path / "first" / WEIGHTS)
    assert found.steps == 6 and "cycle_0_heldout_accuracy" in found.metrics


def test_a_flywheel_that_was_stopped_ends_with_the_same_weights(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("reward_harness.training.reward_loop.SAVE_EVERY", 1)
    job = jobs.bt(max_steps=2, flywheel={"cycles": 2, "keep": 0.5})
    run_job(plain(job), tmp_path / "whole", quiet)
    press, stop = stop_at(5)
    with pytest.raises(TrainingError, match="stopped by a signal"):
        run_job(job, tmp_path / "torn", press, stop=stop)
    assert run_job(job, tmp_path / "again", quiet).resumed_from == 5
    assert digest_file(tmp_path / "whole" / WEIGHTS) == digest_file(tmp_path / "again" / WEIGHTS)


def test_an_ensemble_has_no_flywheel():
    with pytest.raises(ValidationError, match="for one model"):
        EnsembleSection.model_validate({"backbone": ENCODER, "flywheel": {"cycles": 1}})


def test_without_steps_the_head_is_solved_and_the_backbone_untouched(jobs, tmp_path):
    found = run_job(plain(jobs.bt(max_steps=0)), tmp_path, quiet)
    backbone = RewardModel.load(tmp_path / "model")
    start = RewardModel.from_backbone(tmp_path.joinpath(jobs.bt().model.path), max_length=64)
    for left, right in zip(
        backbone.backbone.parameters(), start.backbone.parameters(), strict=True
    ):
        assert torch.equal(left, right)
    assert torch.any(backbone.head.weight != 0)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] == pytest.approx(found.metrics["loss_end"].value) and row["loss"] < 0.693


def test_the_body_is_counted_without_its_embeddings(jobs, tmp_path):
    found = run_job(plain(jobs.bt(max_steps=0)), tmp_path, quiet)
    model = RewardModel.load(tmp_path / "model").backbone
    body = sum(p.numel() for name, p in model.named_parameters() if "_embeddings." not in name)
    assert found.metrics["body_parameters"].value == body


def test_each_source_of_a_mixture_has_its_accuracy():
    mixed = [
        p.model_copy(update={"source": "hh-rlhf" if i % 2 else "tour", "pair_id": str(i)})
        for i, p in enumerate(pairs())
    ]
    chosen = [float(i % 2) for i in range(len(mixed))]
    found = heldout_measures(mixed, chosen, [0.5] * len(mixed), 0)
    assert found["accuracy_hh_rlhf"].value == 1.0 and found["accuracy_tour"].value == 0.0
    assert found["accuracy"].value == 0.5
    one = heldout_measures(pairs(), chosen, [0.5] * len(mixed), 0)
    assert not [name for name in one if name.startswith("accuracy_")]
