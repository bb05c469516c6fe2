"""Mixed precision holds what it does not train in bf16, as the memory estimate counts it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from reward_harness.progress import quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training.context import StopRequest, TrainContext
from reward_harness.training.policy_model import frozen_copy, load_for_training, lora_adapted
from reward_harness.training.ppo_policy import ActorCritic
from reward_harness.training.worker import run_job
from reward_harness.training.workload import workload_of
from tests.training.conftest import Jobs

LORA = LoraSpec(r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("bf16"))


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


def with_bf16(job):
    return job.model_copy(update={"train_dtype": "bfloat16", "resume_root": None})


def held(model) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def loaded(job, root: Path):
    context = TrainContext(root, "cpu", None, quiet, StopRequest())
    return load_for_training(job, context)[0]


def test_adapters_learn_in_float32_over_a_bf16_base(jobs: Jobs, tmp_path: Path) -> None:
    job = with_bf16(jobs.sft(lora=LORA))
    load, base = workload_of(job), loaded(job, tmp_path)
    assert held(base) == 2 * load.parameters
    model = lora_adapted(base, LORA)
    learning = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learning} == {torch.float32}
    assert sum(p.numel() for p in learning) == load.trained
    assert loaded(with_bf16(jobs.sft()), tmp_path).dtype == torch.float32
    assert loaded(jobs.sft(lora=LORA), tmp_path).dtype == torch.float32


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "ppo"])
def test_a_step_leaves_what_has_no_adapter_to_the_last_bit(
    jobs: Jobs, tmp_path: Path, method: str
) -> None:
    job = with_bf16(getattr(jobs, method)(lora=LORA, max_steps=2, warmup_fraction=0.0))
    run_job(job, tmp_path, quiet, reward=Length())
    start = load_file(Path(job.model.path) / "model.safetensors")
    end = load_file(tmp_path / "model/model.safetensors")
    moved = {name for name in start if not torch.equal(start[name].float(), end[name])}
    assert moved and all(".self_attn." in name for name in moved)
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert a.dtype == torch.float32
    expected = start[f"{name}.weight"].float() + 2.0 * b @ a  # alpha / r
    torch.testing.assert_close(end[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)


def test_a_reference_costs_what_is_counted(jobs: Jobs, tmp_path: Path) -> None:
    job = with_bf16(jobs.dpo())
    model = loaded(job, tmp_path)
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    reference = frozen_copy(model, mixed=True)
    assert held(reference) == workload_of(job).reference + 2 * norms
    assert not any(p.requires_grad for p in reference.parameters())
    assert held(frozen_copy(model, mixed=False)) == workload_of(jobs.dpo()).reference
    critic = ActorCritic(model, pad=0, temperature=1.0, autocast=torch.bfloat16)
    assert held(critic.frozen) == held(reference)


@pytest.mark.parametrize("family", ["tied", "untied", "gpt2"])
def test_a_rounded_reference_says_the_policys_numbers(family: str) -> None:
    torch.manual_seed(0)
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50))
    else:
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=family == "tied",
        )
        model = LlamaForCausalLM(config)
    reference = frozen_copy(model.eval(), mixed=True)
    assert held(reference) < held(model)
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reference(input_ids=ids).logits, model(input_ids=ids).logits)
