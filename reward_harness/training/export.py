"""Checkpoints in the layouts that other programs load.

- A policy's ``model/`` is one already: transformers and vLLM load it as it is (safetensors with
  adapters merged, ``architectures`` in its config, tokenizer, generation config).
- ``adapter/`` is PEFT's layout; an export has it name its base's folder on this machine.
- A decoder reward model becomes ``…ForSequenceClassification`` with one label and no activation,
  which transformers and vLLM's pooling runner score at the last token.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from reward_harness.errors import ArtifactError
from reward_harness.models.chat import pad_id
from reward_harness.models.reward_head import SETTINGS_NAME, RewardModel
from reward_harness.training.card import CARD_NAME
from reward_harness.training.job import LOCAL_JOB_FILE, read_job
from reward_harness.training.policy_model import ADAPTER_FOLDER, name_base


def export_checkpoint(artifact: Path, to: Path, *, adapter: bool = False) -> str:
    """Write the checkpoint in ``artifact`` to the new folder ``to``; returns how to load it.

    ``ArtifactError`` if there is no such checkpoint or its kind has no plain layout.
    """
    if to.exists() and any(to.iterdir()):
        raise ArtifactError("the folder is not empty", where=str(to), fix="Name a new one.")
    if adapter:
        return export_adapter(artifact / ADAPTER_FOLDER, base_of(artifact), to)
    model = artifact / "model"
    if (model / SETTINGS_NAME).is_file():
        return export_reward_model(model, to)
    if not (model / "config.json").is_file():
        raise ArtifactError("no model to export", where=str(artifact), expected="model/config.json")
    shutil.copytree(model, to, dirs_exist_ok=True)
    return f"AutoModelForCausalLM.from_pretrained({str(to)!r}), or: vllm serve {to}"


def base_of(artifact: Path) -> str:
    """Where the model that the checkpoint was trained from lies; its name if it is gone."""
    model = read_job(artifact / LOCAL_JOB_FILE).model
    return model.path if Path(model.path).is_dir() else model.name


def export_adapter(adapter: Path, base: str, to: Path) -> str:
    """Copy an adapter and have it name ``base``; ``ArtifactError`` where none was trained."""
    if not adapter.is_dir():
        raise ArtifactError(
            "no adapter was trained here",
            where=str(adapter.parent),
            expected=f"{ADAPTER_FOLDER}/, which policies with `lora` have",
        )
    shutil.copytree(adapter, to, dirs_exist_ok=True)
    name_base(to, base)
    loaded = f"AutoPeftModelForCausalLM.from_pretrained({str(to)!r})"
    return f"{loaded}, or: vllm serve {base} --enable-lora --lora-modules adapter={to}"


def export_reward_model(folder: Path, to: Path) -> str:
    """Write a decoder reward model as a sequence classifier whose logit is the score.

    ``ArtifactError`` for an encoder: it averages the response's tokens only, which no plain layout
    can say.
    """
    model = RewardModel.load(folder)
    if model.settings.pooling != "last":
        raise ArtifactError(
            "this reward model has no plain layout",
            where=str(folder),
            got=f"pooling {model.settings.pooling!r}",
            expected="a decoder, which is read at its last token",
            fix="Serve it: `harness serve` speaks the protocols of vLLM and of TEI.",
        )
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32
    )
    classifier.score.weight.data.copy_(model.head.weight)
    classifier.config.pad_token_id = pad_id(model.tokenizer)
    # transformers' and vLLM's word for a logit that is used as it is
    classifier.config.problem_type = "regression"
    classifier.save_pretrained(to)
    model.tokenizer.save_pretrained(to)
    if (folder / CARD_NAME).is_file():
        shutil.copy2(folder / CARD_NAME, to)
    return (
        f"AutoModelForSequenceClassification.from_pretrained({str(to)!r}), or: "
        f"vllm serve {to} --runner pooling"
    )
