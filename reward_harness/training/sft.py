"""Supervised fine-tuning with TRL: loss on the response and its end token only.

Records are tokenised here (``models.chat``), so that the prompt's labels are -100, the end token is
a target, and nothing is dropped: what does not fit loses the left of its prompt, and is counted.
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from reward_harness.data.files import read_records
from reward_harness.data.records import SFTExample
from reward_harness.models.chat import Encoded, encode_example
from reward_harness.training.context import MethodResult, TrainContext, start_and_end
from reward_harness.training.distributed import shard_here
from reward_harness.training.job import SFTJob
from reward_harness.training.policy_model import load_for_training, lora_config, publish_trained
from reward_harness.training.trl_run import (
    JobCallback,
    common_arguments,
    metric_rows,
    require_records,
    run_trainer,
)


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
    trainer = SFTTrainer(
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
    return {"input_ids": row.ids, "labels": [-100] * len(row.prompt) + list(row.response)}
