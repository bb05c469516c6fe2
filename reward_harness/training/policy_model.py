"""The policy that a job trains and publishes: adapters on, adapters saved, adapters merged."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D

from reward_harness.errors import SpecError
from reward_harness.models.chat import end_id, pad_id
from reward_harness.models.embedded import load_policy_folder, load_tokenizer, torch_dtype
from reward_harness.models.folders import existing_folder
from reward_harness.models.silence import quiet_libraries
from reward_harness.sections import LoraSpec
from reward_harness.training.card import CARD_NAME, model_card
from reward_harness.training.context import TrainContext
from reward_harness.training.distributed import sharded_tensors, whole_model
from reward_harness.training.job import AnyJob
from reward_harness.training.workload import frozen_dtype, lora_of

ADAPTER_FOLDER = "adapter"

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_for_training(
    job: AnyJob, context: TrainContext
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The job's start model and its tokenizer: what learns in float32 (mixed precision is
    autocast's affair), what adapters freeze in the job's dtype, with QLoRA its matrices in four
    bits.
    """
    folder, lora = Path(job.model.path), lora_of(job)
    if lora is not None and lora.quantize is not None:
        return load_quantized(folder, job, context.device)
    dtype = "float32" if lora is None else frozen_dtype(job)
    return load_policy_folder(folder, dtype=dtype, device=context.device)


def frozen_copy(model: PreTrainedModel, *, mixed: bool) -> PreTrainedModel:
    """A copy that does not learn, to refer to.

    In mixed precision its matrices are in bfloat16, to which autocast would round them at each use:
    half the memory, the same numbers. Embeddings and norms stay as they are: autocast computes them
    in float32, and a difference there would look like a divergence from the policy.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)
    embedded = [m.weight for m in frozen.modules() if isinstance(m, nn.Embedding)]
    for module in frozen.modules() if mixed else ():
        matrix = isinstance(module, nn.Linear | Conv1D)
        if matrix and not any(module.weight is weight for weight in embedded):
            module.to(torch.bfloat16)
    return frozen


def load_quantized(
    folder: Path, job: AnyJob, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy with its matrices in NF4, quantised twice (QLoRA, arXiv 2305.14314)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpecError(
            "four-bit weights need bitsandbytes",
            where=f"{job.experiment}: lora.quantize",
            fix="Run `pip install bitsandbytes`, or leave the field out.",
        )
    if job.sharding == "full_shard" and job.processes > 1:
        raise SpecError(
            "four-bit weights cannot be sharded",
            where=f"{job.experiment}: lora.quantize",
            fix="Use sharding: replicated, or one process.",
        )
    quiet_libraries()
    dtype = torch_dtype(frozen_dtype(job))
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        existing_folder(folder),
        quantization_config=settings,
        dtype=dtype,
        device_map={"": device},
    )
    return model.eval(), load_tokenizer(folder)


def lora_config(lora: LoraSpec | None) -> LoraConfig | None:
    """PEFT's configuration of the spec's adapters; None trains all weights."""
    return None if lora is None else _peft_config(lora, "CAUSAL_LM")


def lora_adapted(model: PreTrainedModel, lora: LoraSpec, task: str = "CAUSAL_LM") -> Any:
    """The model with fresh adapters, all else frozen; ``SpecError`` where no module is targeted.

    ``task`` is PEFT's: ``FEATURE_EXTRACTION`` for a backbone without a language-model head.
    """
    from peft import get_peft_model

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if not names & set(lora.targets):
        raise SpecError(
            "the adapters' targets are not in the model",
            where=type(model).__name__,
            got=", ".join(lora.targets),
            expected="names of linear modules, for BERT query, key, value",
            fix="Correct `targets` in the experiment's lora section.",
        )
    return get_peft_model(model, _peft_config(lora, task))


def _peft_config(lora: LoraSpec, task: str) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type=task,
    )


def merged(model: Any, job: AnyJob) -> PreTrainedModel:
    """The plain model on the CPU in float32, adapters merged into its weights: of a quantised or
    rounded one into the weights that it was made from.
    """
    rounded = getattr(model, "is_loaded_in_4bit", False) or frozen_dtype(job) == "bfloat16"
    if hasattr(model, "peft_config") and rounded:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        whole, _ = load_policy_folder(Path(job.model.path), dtype="float32")
        trained, model = model, lora_adapted(whole, lora_of(job) or LoraSpec())
        set_peft_model_state_dict(model, get_peft_model_state_dict(trained))
    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return plain.to(device=torch.device("cpu"), dtype=torch.float32)


def publish(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    job: AnyJob,
    context: TrainContext,
    numbers: Mapping[str, Any],
) -> None:
    """Write ``model/``: merged weights, tokenizer, generation configuration and model card; beside
    it ``adapter/`` where adapters were trained.
    """
    folder, card = context.model_folder, model_card(job, numbers)
    if hasattr(model, "peft_config"):
        save_adapter(model, job.model.name, context.output / ADAPTER_FOLDER, card)
    plain = merged(model, job)
    plain.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_id(tokenizer),
        pad_token_id=pad_id(tokenizer),
    )
    plain.config.use_cache = True
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def save_adapter(model: Any, base: str, folder: Path, card: str) -> None:
    """The adapter as PEFT writes it, on the model named ``base``; the same bytes every time."""
    model.save_pretrained(folder, save_embedding_layers=False)
    name_base(folder, base)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def name_base(adapter: Path, base: str) -> None:
    """Have an adapter's configuration name the model, or folder, that it belongs on."""
    path = adapter / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_bytes())
    config |= {"base_model_name_or_path": base}
    ordered = {k: sorted(v) if k == "target_modules" else v for k, v in sorted(config.items())}
    path.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def publish_trained(
    trainer: Any,
    job: AnyJob,
    context: TrainContext,
    tokenizer: PreTrainedTokenizerBase,
    card: dict[str, Any],
) -> None:
    """Publish the model of a trainer, from the first of its processes; notes in ``card`` how many
    tensors were sharded.
    """
    if shards := sharded_tensors(trainer.model):
        card["sharded_tensors"] = shards

    def fresh() -> Any:
        model, _ = load_for_training(job, context)
        lora = lora_of(job)
        return model if lora is None else lora_adapted(model, lora)

    model = whole_model(trainer, fresh)
    if model is not None:
        publish(model, tokenizer, job, context, card)
