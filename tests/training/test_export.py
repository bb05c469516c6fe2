"""Every kind of checkpoint loads where others would load it, and its card says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from reward_harness.errors import ArtifactError
from reward_harness.progress import quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training.card import card_licence
from reward_harness.training.export import export_checkpoint
from reward_harness.training.worker import run_job
from tests.training.conftest import CAUSAL

LORA = LoraSpec(r=4, alpha=8)
CHAT = [{"role": "user", "content": "please explain water"}]
ANSWERS = ["water is very long", "people use it and then some more"]


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


def trained(job, output: Path) -> Path:
    run_job(job.model_copy(update={"resume_root": None}), output, quiet, reward=Length())
    return output


@pytest.fixture(scope="module")
def dpo(jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = jobs.dpo(lora=LORA, max_steps=3, learning_rate=1e-2)
    return trained(job, tmp_path_factory.mktemp("dpo"))


def logits(model, folder: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder)("water is very long", return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=ids["input_ids"]).logits


def test_a_policy_has_all_that_a_server_reads(dpo: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "to") in export_checkpoint(dpo, tmp_path / "to")
    config = json.loads((tmp_path / "to/config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "to")
    generation = GenerationConfig.from_pretrained(tmp_path / "to")
    assert generation.eos_token_id == tokenizer.eos_token_id != generation.pad_token_id
    assert "assistant" in tokenizer.apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=True
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "to")
    found = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert found.shape[1] > 3


def test_an_adapter_loads_in_peft_and_gives_the_merged_models_logits(
    dpo: Path, tmp_path: Path
) -> None:
    config = json.loads((dpo / "adapter/adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == CAUSAL.name  # no path of this machine is published
    export_checkpoint(dpo, tmp_path / "to", adapter=True)
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "to", dtype=torch.float32)
    assert adapted.peft_config["default"].r == 4
    merged = AutoModelForCausalLM.from_pretrained(dpo / "model")
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((tmp_path / "to/adapter_config.json").read_bytes())["base_model_name_or_path"],
        dtype=torch.float32,
    )
    found, expected, start = (logits(m, dpo / "model") for m in (adapted, merged, base))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - start).abs().max() > 1e-2


def test_a_decoder_reward_model_becomes_a_classifier_with_the_same_scores(
    jobs, tmp_path: Path
) -> None:
    from reward_harness.models.reward_head import RewardModel

    job = jobs.bt(max_steps=2)
    start = jobs.sft().model
    job = job.model_copy(update={"model": start})
    trained(job, tmp_path / "out")
    export_checkpoint(tmp_path / "out", tmp_path / "to")
    config = json.loads((tmp_path / "to/config.json").read_bytes())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "to").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "to")
    own = RewardModel.load(tmp_path / "out/model")
    chats = [[*CHAT, {"role": "assistant", "content": text}] for text in ANSWERS]
    rows = [own.encode(chat) for chat in chats]
    batch = tokenizer.pad({"input_ids": [list(row.ids) for row in rows]}, return_tensors="pt")
    with torch.no_grad():
        found = classifier(**batch).logits.squeeze(-1)
    expected = torch.tensor(own.score_conversations(chats))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert expected[0] != expected[1]


def test_what_has_no_such_layout_says_so(jobs, dpo: Path, tmp_path: Path) -> None:
    trained(jobs.bt(max_steps=1), tmp_path / "encoder")
    with pytest.raises(ArtifactError, match=r"no plain layout.*response_mean.*harness serve"):
        export_checkpoint(tmp_path / "encoder", tmp_path / "a")
    with pytest.raises(ArtifactError, match="no adapter was trained here"):
        export_checkpoint(tmp_path / "encoder", tmp_path / "b", adapter=True)
    with pytest.raises(ArtifactError, match="not empty"):
        export_checkpoint(dpo, dpo)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "ppo", "iterative_dpo", "bt"])
def test_a_card_names_base_data_measures_and_licence(jobs, tmp_path: Path, method: str) -> None:
    job = getattr(jobs, method)(max_steps=1)
    licensed = {
        "model": job.model.model_copy(update={"licence": "apache-2.0"}),
        "train": job.train.model_copy(update={"licence": "CC-BY-4.0"}),
    }
    job = job.model_copy(update=licensed)
    trained(job, tmp_path)
    text = (tmp_path / "model/README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "apache-2.0" == card_licence(tmp_path / "model")
    assert head["base_model"] == job.model.name and method in head["tags"]
    for digest in (job.digest, job.model.digest, job.train.sha256):
        assert f"`{digest}`" in text
    assert "| CC-BY-4.0 |" in text
    if (reward := getattr(job, "reward", None)) is not None:
        assert f"`{reward.digest}`" in text
    result = json.loads((tmp_path / "log/result.json").read_bytes())
    for name, metric in result["metrics"].items():
        assert f"| {name} | {metric['value']:.4g} |" in text
