"""A PPO job: records and adapters in, ``PPOTrainer``'s steps with checkpoints, a policy out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reward_harness.data.files import read_records
from reward_harness.data.records import RLPrompt
from reward_harness.models.generation import Sampler
from reward_harness.training.context import (
    MethodResult,
    TrainContext,
    check_finite,
    start_and_end,
)
from reward_harness.training.job import PPOJob
from reward_harness.training.policy_model import load_for_training, lora_config, publish
from reward_harness.training.ppo import PPOTrainer
from reward_harness.training.trl_run import require_records
from reward_harness.training.vllm_rollouts import vllm_rollouts

SHOWN = ("reward_mean", "kl_k1", "entropy")


def train(job: PPOJob, context: TrainContext) -> MethodResult:
    """Optimise against the reward and publish ``model/``."""
    policy, tokenizer = load_for_training(job, context)
    with vllm_rollouts(job, tokenizer, context) as sample:
        return _train(job, context, _trainer(job, context, policy, tokenizer, sample))


def _train(job: PPOJob, context: TrainContext, trainer: PPOTrainer) -> MethodResult:
    total = job.settings.max_steps
    clock = context.clock(total)
    resumed = _restore(trainer, context)
    while len(trainer.rows) < total and not trainer.watch.stops:
        row = trainer.step()
        step = len(trainer.rows)
        check_finite(row, ("policy_loss", "value_loss", "reward_mean"), f"ppo step {step}")
        tokens = float(row["response_tokens"] or 0.0) * job.settings.batch_size
        speed = clock.step(step, int(tokens), trainer.seconds)
        context.tell("ppo", step, total, {n: float(row[n] or 0.0) for n in SHOWN} | speed)
        if (alert := trainer.watch.alert) is not None:
            context.alert("ppo", step, total, alert)
        context.tracker.tell(trainer.rows)
        _checkpoint(trainer, context, job, step)
    size = job.settings.batch_size
    metrics = {
        **start_and_end(trainer.rows, "reward_mean", "reward", "max", size),
        **start_and_end(trainer.rows, "kl_k1", "kl", "none", size),
    }
    card = {name: metric.value for name, metric in metrics.items()} | {
        "prompts": len(trainer.prompts),
        "prompts_cut": trainer.prompts_cut,
        "reward": job.reward.digest[:16],
    }
    publish(trainer.models.policy, trainer.tokenizer, job, context, card)
    return MethodResult(
        trainer.rows,
        metrics,
        card,
        clock.tokens_per_second,
        resumed,
        trainer.watch.outcome(),
    )


def _trainer(
    job: PPOJob, context: TrainContext, policy: Any, tokenizer: Any, sample: Sampler | None
) -> PPOTrainer:
    assert context.reward is not None
    records = read_records(Path(job.train.path), RLPrompt)
    require_records(len(records), job.train.path, "ppo")
    torch.manual_seed(job.seed)
    adapters = lora_config(job.lora)
    if adapters is not None:
        from peft import get_peft_model

        policy = get_peft_model(policy, adapters)
    return PPOTrainer(
        policy,
        tokenizer,
        context.reward,
        [[m.model_dump() for m in record.prompt] for record in records],
        job.settings,
        seed=job.seed,
        autocast=torch.bfloat16 if job.train_dtype == "bfloat16" else None,
        sample=sample,
    )


def _restore(trainer: PPOTrainer, context: TrainContext) -> int | None:
    found = context.resume.newest() if context.resume else None
    if found is None:
        return None
    step, folder = found
    device = context.device
    trainer.load_state(torch.load(folder / "state.pt", map_location=device, weights_only=True))
    return step


def _checkpoint(trainer: PPOTrainer, context: TrainContext, job: PPOJob, step: int) -> None:
    """Save where it is due; ``TrainingError`` if the job was told to stop."""
    total = job.settings.max_steps
    due = (step % job.settings.save_every == 0 and step < total) or trainer.watch.stops
    if context.resume and (due or context.stop.requested):
        context.resume.save(step, lambda folder: torch.save(trainer.state(), folder / "state.pt"))
    if context.stop.requested and step < total and not trainer.watch.stops:
        raise context.stopped(step)
