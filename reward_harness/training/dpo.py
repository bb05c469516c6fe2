"""Direct preference optimisation with TRL (Rafailov et al., arXiv 2305.18290, equation 7).

With LoRA the reference is the same model with the adapter switched off: one copy of the weights.
Without, a frozen copy. Pairs are tokenised here, so that both sides keep the same cut of the prompt
and nothing is dropped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair
from reward_harness.models.chat import encode_prompt, encode_response
from reward_harness.training.context import MethodResult, TrainContext, start_and_end
from reward_harness.training.distributed import first_decides, rank, shard_here, wait_for_all
from reward_harness.training.job import DPOJob
from reward_harness.training.policy_model import (
    frozen_copy,
    load_for_training,
    lora_config,
    publish_trained,
)
from reward_harness.training.trl_run import (
    JobCallback,
    common_arguments,
    metric_rows,
    require_records,
    run_trainer,
)


class TokenisedDPOTrainer(DPOTrainer):
    """Takes ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def train(job: DPOJob, context: TrainContext) -> MethodResult:
    """Optimise on the pairs and publish ``model/``."""
    model, tokenizer = load_for_training(job, context)
    pairs = read_records(Path(job.train.path), PreferencePair)
    require_records(len(pairs), job.train.path, "dpo")
    rows_in, cut = encode_pairs(tokenizer, pairs, job.settings.max_length)
    precomputed = job.settings.reference == "precomputed"
    arguments = DPOConfig(
        **common_arguments(job, job.settings, context),
        beta=job.settings.beta,
        max_length=None,
        precompute_ref_log_probs=precomputed,
    )
    shard_here(job, arguments)
    dataset, pairs_folder = Dataset.from_list(rows_in), context.log / "pairs"
    if precomputed:
        dataset = on_disk(dataset, pairs_folder)
    mixed = job.train_dtype == "bfloat16"
    callback = JobCallback("dpo", job.settings.max_steps, context)
    trainer = TokenisedDPOTrainer(
        model=model,
        ref_model=None if job.lora or precomputed else frozen_copy(model, mixed=mixed),
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_config(job.lora),
    )
    resumed = run_trainer(trainer, callback, context)
    shutil.rmtree(pairs_folder, ignore_errors=True)
    rows = metric_rows(trainer)
    size = job.settings.batch_size
    metrics = {
        **start_and_end(rows, "loss", "loss", "min", size),
        **start_and_end(rows, "rewards/margins", "margin", "max", size),
        **start_and_end(rows, "rewards/accuracies", "accuracy", "max", size),
    }
    card = {name: metric.value for name, metric in metrics.items()} | {
        "pairs": len(pairs),
        "pairs_cut": cut,
    }
    publish_trained(trainer, job, context, tokenizer, card)
    return MethodResult(rows, metrics, card, callback.clock.tokens_per_second, resumed)


def on_disk(dataset: Dataset, folder: Path) -> Dataset:
    """The rows in a folder that all processes share: TRL's first process leaves what it computed of
    them there for the others.
    """
    shared = first_decides(lambda: str(folder))
    if rank() == 0:
        dataset.save_to_disk(shared)
    wait_for_all()
    return Dataset.load_from_disk(shared)


def encode_pairs(
    tokenizer: Any, pairs: list[PreferencePair], max_length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Token ids of each pair in at most ``max_length`` a side, and how many pairs were cut.

    The prompt is cut by the same amount for both sides; a response longer than the limit loses its
    end, because at least one prompt token must stay.
    """
    rows: list[dict[str, list[int]]] = []
    cut = 0
    for pair in pairs:
        prompt = encode_prompt(tokenizer, [m.model_dump() for m in pair.prompt])
        sides = [encode_response(tokenizer, text) for text in (pair.chosen, pair.rejected)]
        chosen, rejected = (side[: max_length - 1] for side in sides)
        kept = prompt[-(max_length - max(len(chosen), len(rejected))) :]
        cut += len(kept) < len(prompt) or [chosen, rejected] != sides
        rows.append({"prompt_ids": kept, "chosen_ids": chosen, "rejected_ids": rejected})
    return rows, cut
