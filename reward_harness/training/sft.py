"""Supervised fine-tuning with TRL: loss on the response and its end token only.

Records are tokenised here (``models.chat``), so that the prompt's labels are -100, the end token is
a target, and nothing is dropped: what does not fit loses the left of its prompt, and is counted.
Batches hold examples of like length (``training.order``), and logits are made for response tokens
only: TRL's own loss makes them for every position where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from reward_harness.data.files import read_records
from reward_harness.data.records import SFTExample
from reward_harness.models.chat import Encoded, encode_example
from reward_harness.training.context import MethodResult, TrainContext, start_and_end
from reward_harness.training.distributed import shard_here
from reward_harness.training.job import SFTJob
from reward_harness.training.order import batches
from reward_harness.training.policy_model import load_for_training, lora_config, publish_trained
from reward_harness.training.ppo_losses import token_entropy, token_logprobs
from reward_harness.training.trl_run import (
    JobCallback,
    common_arguments,
    metric_rows,
    require_records,
    run_trainer,
)

IGNORED = -100


class LengthOrder(Sampler[int]):
    """Examples in the order of ``training.order.batches``; only whole batches, ``total`` of them.

    An epoch's incomplete batch is left out, unless there are too few examples for a whole one.
    """

    def __init__(self, lengths: Sequence[int], size: int, total: int, seed: int) -> None:
        self.lengths, self.size, self.total, self.seed = lengths, size, total, seed

    def __len__(self) -> int:
        return self.size * self.total

    def __iter__(self) -> Iterator[int]:
        whole = min(self.size, len(self.lengths))
        left = len(self)
        for batch in batches(self.lengths, self.size, None, self.seed):
            if len(batch) < whole:
                continue
            yield from batch[:left]
            left -= len(batch)
            if left <= 0:
                return


class ResponseSFTTrainer(SFTTrainer):
    """TRL's trainer with this module's order and loss."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:
        rows: Any = self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        size = self.args.train_batch_size * self.args.world_size
        return LengthOrder(lengths, size, self.args.max_steps, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.accelerator.device.type != "cpu" or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        keep = targets != IGNORED
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=keep,
            use_cache=False,
        )
        logits = output.logits.float()
        logprobs = token_logprobs(logits, targets[keep])
        self._count(logits.detach(), targets[keep], int(inputs["attention_mask"].sum()))
        count = len(logprobs) if num_items_in_batch is None else num_items_in_batch
        loss = -logprobs.sum() / count
        several = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * (self.accelerator.num_processes if several else 1)

    def _count(self, logits_NV: Tensor, targets_N: Tensor, tokens: int) -> None:
        """TRL's own measures: mean entropy and accuracy a response token, tokens seen."""
        right = (logits_NV.argmax(-1) == targets_N).sum()
        own = torch.tensor([token_entropy(logits_NV).sum(), right, len(targets_N), tokens])
        total: Any = self.accelerator.reduce(own.double())
        entropy, found, count, seen = total.tolist()
        metrics: Any = self._metrics["train"]
        metrics["entropy"].append(entropy / count)
        metrics["mean_token_accuracy"].append(found / count)
        self._total_train_tokens += int(seen)
        metrics["num_tokens"] = [self._total_train_tokens]


def train(job: SFTJob, context: TrainContext) -> MethodResult:
    """Fine-tune and publish ``model/``."""
    model, tokenizer = load_for_training(job, context)
    records = read_records(Path(job.train.path), SFTExample)
    require_records(len(records), job.train.path, "sft")
    limit = job.settings.max_length
    encoded = [
        encode_example(tokenizer, [m.model_dump() for m in r.prompt], r.response, limit)
        for r in records
    ]
    arguments = SFTConfig(
        **common_arguments(job, job.settings, context), max_length=None, packing=False
    )
    shard_here(job, arguments)
    callback = JobCallback("sft", job.settings.max_steps, context)
    trainer = ResponseSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([labelled(row) for row in encoded]),
        processing_class=tokenizer,
        peft_config=lora_config(job.lora),
    )
    resumed = run_trainer(trainer, callback, context)
    rows = metric_rows(trainer)
    metrics = start_and_end(rows, "loss", "loss", "min", job.settings.batch_size)
    card = {name: metric.value for name, metric in metrics.items()} | {
        "records": len(records),
        "prompts_cut": sum(row.cut_prompt > 0 for row in encoded),
        "responses_cut": sum(row.cut_response > 0 for row in encoded),
    }
    publish_trained(trainer, job, context, tokenizer, card)
    return MethodResult(rows, metrics, card, callback.clock.tokens_per_second, resumed)


def labelled(row: Encoded) -> dict[str, list[int]]:
    """TRL's processed form: labels are -100 on the prompt."""
    return {"input_ids": row.ids, "labels": [IGNORED] * len(row.prompt) + list(row.response)}
