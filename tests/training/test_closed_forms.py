"""Numbers that are known in advance: DPO's loss, and how many parameters adapters train."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from reward_harness.progress import quiet
from reward_harness.sections import LoraSpec
from reward_harness.training.dpo import TokenisedDPOTrainer
from reward_harness.training.policy_model import lora_adapted
from reward_harness.training.worker import run_job
from reward_harness.training.workload import lora_parameters

GPT2_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
LLAMA_7B = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)


@pytest.mark.parametrize(
    ("config", "lora", "expected"),
    [
        (GPT2_MEDIUM, LoraSpec(r=16, targets=["c_attn"]), 1_572_864),
        (GPT2_MEDIUM, LoraSpec(r=8, targets=["c_attn"]), 786_432),
        (LLAMA_7B, LoraSpec(r=16), 16_777_216),
    ],
)
def test_adapters_train_exactly_the_published_number_of_parameters(config, lora, expected):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        shapes = {name: list(value.shape) for name, value in model.named_parameters()}
        adapted = lora_adapted(model, lora)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == expected == lora_parameters(shapes, lora)


def test_dpo_loss_of_known_log_probabilities(jobs, tmp_path, monkeypatch):
    """Policy -10 and -12, reference -11 and -11, beta .1: -log sigmoid(.1 * 2)."""
    losses: list[float] = []
    original = TokenisedDPOTrainer._compute_loss

    def known(self, model, inputs, return_outputs):
        def answering(**arguments):
            outputs = model(**arguments)
            fixed = torch.zeros_like(outputs.log_probs)
            half = len(fixed) // 2
            fixed[:half, -1], fixed[half:, -1] = -10.0, -12.0
            outputs.log_probs = fixed + 0.0 * outputs.log_probs
            return outputs

        reference = torch.full((len(inputs["input_ids"]) // 2,), -11.0)
        given = {**inputs, "ref_chosen_logps": reference, "ref_rejected_logps": reference}
        self.precompute_ref_logps = True
        loss = original(self, answering, given, return_outputs)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(TokenisedDPOTrainer, "_compute_loss", known)
    job = jobs.dpo(max_steps=1, beta=0.1).model_copy(update={"resume_root": None})
    run_job(job, tmp_path, quiet)
    assert losses == [pytest.approx(0.598139, abs=1e-6)]
