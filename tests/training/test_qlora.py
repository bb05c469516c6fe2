"""QLoRA: frozen weights in four bits while training, whole weights in what is published."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reward_harness.errors import SpecError
from reward_harness.progress import quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.scaling.memory import estimate
from reward_harness.sections import BTSection, LoraSpec
from reward_harness.training.policy_model import load_quantized
from reward_harness.training.worker import run_job
from reward_harness.training.workload import workload_of
from tests.training.conftest import ENCODER

QLORA = LoraSpec(r=4, alpha=8, dropout=0.0, quantize="nf4")


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


def run(job, output: Path):
    return run_job(job.model_copy(update={"resume_root": None}), output, quiet, reward=Length())


def test_matrices_are_in_four_bits_and_near_the_whole_ones(jobs) -> None:
    job = jobs.sft(lora=QLORA)
    model, _ = load_quantized(Path(job.model.path), job, "cpu")
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, Linear4bit) and layer.weight.dtype == torch.uint8
    whole = AutoModelForCausalLM.from_pretrained(job.model.path, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        off = (model(input_ids=ids).logits - whole(input_ids=ids).logits).abs().mean()
        size = whole(input_ids=ids).logits.abs().mean()
    assert 0 < off < 0.3 * size


def test_training_lowers_the_loss_and_publishes_whole_weights(jobs, tmp_path: Path) -> None:
    job = jobs.sft(lora=QLORA, max_steps=40, batch_size=8, learning_rate=2e-2)
    result = run(job, tmp_path)
    assert result.metrics["loss_end"].value < 0.9 * result.metrics["loss_start"].value
    start = load_file(Path(job.model.path) / "model.safetensors")
    end = load_file(tmp_path / "model/model.safetensors")
    assert end.keys() == start.keys() and end["model.norm.weight"].dtype == torch.float32
    moved = {name for name in start if not torch.equal(start[name].float(), end[name])}
    # what was quantised but has no adapter is the start model's to the last bit
    assert moved and all(".self_attn." in name for name in moved)
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = start[f"{name}.weight"].float() + 2.0 * b @ a  # alpha / r
    torch.testing.assert_close(end[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo"])
def test_every_policy_method_takes_it(jobs, tmp_path: Path, method: str) -> None:
    run(getattr(jobs, method)(lora=QLORA, max_steps=1), tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.float32


def test_the_estimate_counts_four_bits(jobs) -> None:
    whole, small = (workload_of(jobs.sft(lora=lora)) for lora in (LoraSpec(r=4), QLORA))
    assert 0 < small.quantized < small.parameters == whole.parameters
    saved = estimate(whole).weights - estimate(small).weights
    assert saved == pytest.approx((4 - 0.516) * small.quantized, abs=1)


def test_what_cannot_be_is_said(jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="for policies"):
        BTSection(backbone=ENCODER, lora=QLORA)
    job = jobs.sft(lora=QLORA)
    spread = job.model_copy(update={"processes": 2, "sharding": "full_shard"})
    with pytest.raises(SpecError, match="cannot be sharded"):
        load_quantized(Path(job.model.path), spread, "cpu")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SpecError, match="pip install bitsandbytes"):
        load_quantized(Path(job.model.path), job, "cpu")
