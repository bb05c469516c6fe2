"""Tiny random-weight models in the shapes of published reward models, written to folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from reward_harness.models.published import NATIVE
from reward_harness.models.tiny import causal_tokenizer, encoder_tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
DECODER = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 512}

INTERNLM_CODE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel


class InternLM2Config(LlamaConfig):
    model_type = "tiny_internlm2"


class InternLM2ForRewardModel(LlamaPreTrainedModel):
    config_class = InternLM2Config
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.v_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()
"""


def save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seeded(model_class, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = model_class(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokenizer_with(*tokens: str):
    tokenizer = causal_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def llama_classifier(folder: Path, labels: int = 1) -> Path:
    """FsfairX-LLaMA3-RM, Skywork-Reward: a decoder with ``score``."""
    tokenizer = causal_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=labels, **DECODER)
    return save(seeded(LlamaForSequenceClassification, config), tokenizer, folder)


def bert_classifier(folder: Path) -> Path:
    """An encoder that reads prompt and response as a pair."""
    tokenizer = encoder_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=64, **SIZES
    )
    save(seeded(BertForSequenceClassification, config), tokenizer, folder)
    settings = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_input_names": names}))
    return folder


def qwen_reward(folder: Path, kind: str) -> Path:
    """Qwen2.5-Math-RM or -PRM: two linear layers on the states."""
    tokenizer = tokenizer_with("<extra_0>")
    config = Qwen2Config(vocab_size=len(tokenizer), **DECODER)
    config.architectures = [kind]
    return save(seeded(NATIVE[kind], config), tokenizer, folder)


def qwen_tokens(folder: Path) -> Path:
    """What TRL's PRMTrainer saves."""
    tokenizer = causal_tokenizer()
    config = Qwen2Config(vocab_size=len(tokenizer), num_labels=2, **DECODER)
    return save(seeded(Qwen2ForTokenClassification, config), tokenizer, folder)


def llama_causal(folder: Path) -> Path:
    """RLHFlow's process models are plain language models."""
    tokenizer = causal_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **DECODER)
    return save(seeded(LlamaForCausalLM, config), tokenizer, folder)


def internlm_reward(folder: Path) -> Path:
    """internlm2-reward: remote code, ``v_head`` and a reward token at the end."""
    import json

    tokenizer = tokenizer_with("[UNUSED_TOKEN_130]")
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **DECODER)
    model = seeded(LlamaForSequenceClassification, config)
    save(model, tokenizer, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "architectures": ["InternLM2ForRewardModel"],
        "model_type": "tiny_internlm2",
        "reward_token_id": len(tokenizer) - 1,
        "auto_map": {
            "AutoConfig": "modeling_internlm2.InternLM2Config",
            "AutoModel": "modeling_internlm2.InternLM2ForRewardModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "modeling_internlm2.py").write_text(INTERNLM_CODE)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["v_head.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
