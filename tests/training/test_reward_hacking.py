"""Real PPO and GRPO runs on a reward that pays for length: warned of, stopped, saved, gated out."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reward_harness.models.folders import model_digest
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.training.job import ModelRef
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
