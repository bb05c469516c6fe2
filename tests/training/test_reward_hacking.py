"""Real PPO and GRPO runs on a reward that pays for length: warned of, stopped, saved, gated out."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reward_harness.environment import environment_of
from reward_harness.errors import GateRejected, TrainingError
from reward_harness.evaluation.hacking_page import HackingResults
from reward_harness.manifest import Code, Outcome
from reward_harness.models.folders import model_digest
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.spec import read_experiment
from reward_harness.stages import training
from reward_harness.stages.make import Services, make
from reward_harness.stages.training import hacking_gate, require_unhacked
from reward_harness.store import ArtifactStore, Recipe
from reward_harness.training.hacking_watch import HackingWatch
from reward_harness.training.job import ModelRef, RewardRef
from reward_harness.training.worker import run_job

WORDS = ["<pad>", "<end>", "please", "explain", "a", "b", "c", "d"]


class LengthRM(BaseRM):
    """Pays for length and for nothing else."""

    digest = "1" * 64

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(c[-1]["content"].split()) / 16) for c in batch]


def write_toy(folder) -> ModelRef:
    """A policy of 8 words that ends after about 6 of them."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", chat_template=template
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelRef(name="toy", path=str(folder), digest=model_digest(folder))


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ModelRef:
    torch.set_num_threads(1)
    return write_toy(tmp_path_factory.mktemp("toy"))


SETTINGS = {
    "max_steps": 24,
    "batch_size": 32,
    "max_new_tokens": 16,
    "temperature": 1.0,
    "warmup_fraction": 0.2,
}


def hackable(jobs, toy, method: str, **more):
    own = {
        "ppo": {"minibatch_size": 32, "ppo_epochs": 1, "kl_init": 0.0, "learning_rate": 3e-3},
        "grpo": {"group_size": 8, "learning_rate": 5e-3},
    }
    job = getattr(jobs, method)(**SETTINGS, **own[method], **more)
    return job.model_copy(update={"model": toy})


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_run_that_only_learns_length_is_warned_of_and_stopped(jobs, toy, tmp_path, method):
    events = []
    result = run_job(hackable(jobs, toy, method), tmp_path, events.append, reward=LengthRM())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = result.hacking
    assert found.stopped and found.hard_stop_step == len(rows) < 24
    assert found.warnings[found.hard_stop_step] == found.message
    assert "tokens" in found.message
    assert rows[-1]["hacking_verdict"] == "hard stop"
    assert rows[0]["hacking_verdict"] == "warming up" and rows[0]["hacking_length_z"] is None
    assert rows[-1]["hacking_reward_mean"] > rows[0]["hacking_reward_mean"]
    assert rows[-1]["hacking_divergence"] > rows[-1]["hacking_divergence_threshold"]
    assert (tmp_path / "model" / "model.safetensors").is_file()
    alerts = [event for event in events if event.alert]
    assert [event.step for event in alerts] == list(found.warnings)
    assert alerts[-1].message.startswith("reward hacking, hard stop: ")


class HackableLauncher:
    """Runs the stage's job on the toy policy against ``LengthRM``."""

    def __init__(self, jobs, toy) -> None:
        self.jobs, self.toy = jobs, toy

    def run(self, job, output, progress):
        played = hackable(self.jobs, self.toy, job.method)
        return run_job(played, output, progress, reward=LengthRM())


def publish(workspace, stage: str, build) -> None:
    def built(folder) -> Outcome:
        build(folder)
        return Outcome()

    ArtifactStore(workspace.runs).produce(
        Recipe("smoke", stage, "1", {"by": "test"}, {}),
        built,
        snapshot={},
        environment=environment_of,
        code=Code(version="1"),
        run_id="test",
    )


@contextmanager
def no_server(run, how):
    yield RewardRef(kind="artifact", digest=LengthRM.digest, path="unused")


@pytest.fixture
def hacked(workspace, jobs, toy, monkeypatch):
    """An experiment whose PPO checkpoint hacks its reward; grpo is switched off."""
    spec = read_experiment(workspace.experiments, "smoke")
    spec = spec.model_copy(update={"policy": spec.policy.model_copy(update={"grpo": None})})
    publish(workspace, "sft_checkpoint", lambda to: shutil.copytree(toy.path, to / "model"))
    publish(workspace, "rm_deployment", lambda to: (to / "deployment.json").write_text("{}"))
    make(workspace, spec, "rl_prompts")
    monkeypatch.setattr(training, "deployed_reward", no_server)
    services = Services(launcher=HackableLauncher(jobs, toy))
    artifact, _ = make(workspace, spec, "ppo_checkpoint", services)
    return workspace, spec, artifact


def test_the_checkpoint_is_published_gated_out_and_refused_with_the_reason(hacked):
    workspace, spec, artifact = hacked
    gate = artifact.manifest.gates["reward_hacking"]
    assert not gate.passed and gate.enforced and "tokens" in gate.detail
    assert artifact.file("model/model.safetensors").is_file()
    metrics = artifact.manifest.metrics
    assert metrics["hacking_warnings"].value >= 1
    taken = artifact.manifest.notes["steps"]
    assert (
        metrics["steps_before_warning"].value <= metrics["steps_before_verdict"].value == taken - 1
    )
    assert artifact.manifest.notes["hacking"]["stopped"] is True
    with pytest.raises(GateRejected, match="reward_hacking"):
        artifact.manifest.require_gates()
    with pytest.raises(TrainingError, match="stopped for reward hacking at step"):
        require_unhacked(artifact)
    reused, was = make(workspace, spec, "ppo_checkpoint")
    assert was and reused.digest == artifact.digest

    report, _ = make(workspace, spec, "hacking_report")
    results = HackingResults.model_validate_json(report.file("report.json").read_bytes())
    (run,) = results.runs
    assert run.gated_out and run.verdict == "hard stop"
    assert run.hard_stop_step == run.steps[-1].step == len(run.steps)
    last = run.steps[-1]
    assert not last.length_low <= last.length_window <= last.length_high
    assert report.manifest.metrics["ppo_hard_stop"].value == 1.0
    page = report.file("report.html").read_text()
    assert "Do not use PPO: it was stopped" in page and artifact.digest in page
    assert page.count("<svg") >= 1 and "http-equiv" not in page and "<script" not in page


def test_recording_only_trains_on_and_leaves_the_gate_unenforced(jobs, toy, tmp_path):
    job = hackable(jobs, toy, "ppo", hacking={"on_hack": "record"})
    result = run_job(job, tmp_path, lambda event: None, reward=LengthRM())
    assert result.steps == 24 and result.hacking.hard_stop_step is not None
    assert not result.hacking.stopped
    gate = hacking_gate(job, result)["reward_hacking"]
    assert not gate.passed and not gate.enforced


def test_a_watch_that_is_resumed_says_what_it_would_have_said(jobs, toy, tmp_path):
    job = hackable(jobs, toy, "ppo")
    run_job(job, tmp_path, lambda event: None, reward=LengthRM())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    watch = HackingWatch(job.settings.hacking)
    watch.resume(rows)
    assert watch.stops and watch.judged[-1].verdict == "hard stop"
    assert watch.judged[-1].length_z == rows[-1]["hacking_length_z"]
