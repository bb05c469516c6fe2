"""Group-relative policy optimisation with TRL and any ``BaseRM`` (DeepSeekMath, arXiv 2402.03300).

Advantages are rewards centred and scaled within a group of responses to one prompt (unbiased
standard deviation). A response without a score is ``None`` to TRL: it is left out of its group's
baseline and moves nothing. TRL would train on nothing in silence where all scores are missing, so
the unscored share of each rollout is bounded here, and NaN is refused. A rollout is one step, so
every checkpoint lies on a rollout boundary, where resuming is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from reward_harness.data.files import read_records
from reward_harness.data.records import RLPrompt
from reward_harness.errors import TrainingError
from reward_harness.hashing import derive_seed
from reward_harness.models.chat import encode_prompt
from reward_harness.models.generation import Sampler
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import HackingSpec
from reward_harness.training.context import MethodResult, TrainContext, start_and_end
from reward_harness.training.hacking_watch import HackingWatch
from reward_harness.training.job import GRPOJob
from reward_harness.training.policy_model import load_for_training, lora_config, publish
from reward_harness.training.trl_run import (
    JobCallback,
    common_arguments,
    metric_rows,
    require_records,
    run_trainer,
)
from reward_harness.training.vllm_rollouts import vllm_rollouts


class TokenisedGRPOTrainer(GRPOTrainer):
    """Rolls out on prompts that are token ids already: as text they would be tokenised anew, with a
    second token of beginning where the tokenizer adds one and other tokens where a cut split one.
    ``sample``, if it is set, draws the responses in TRL's place.
    """

    sample: Sampler | None = None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(ids) for ids in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *others: Any, **named: Any) -> Any:
        if self.sample is None:
            return super()._generate_single_turn(prompt_ids, *others, **named)
        seed = derive_seed(self.args.seed, "grpo", self.state.global_step)
        drawn = self.sample(self.accelerator.unwrap_model(self.model), prompt_ids, seed)
        return [list(one.token_ids) for one in drawn], None


class GroupReward:
    """A ``BaseRM`` as a TRL reward function, with the unscored share bounded.

    ``lengths`` (tokens) and ``scores`` are those of the newest rollout's scored responses.
    """

    __name__ = "reward"

    def __init__(self, reward: BaseRM, max_unscored_share: float) -> None:
        self.reward, self.max_unscored_share = reward, max_unscored_share
        self.lengths: list[int] = []
        self.scores: list[float] = []

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Scores in order, None where there is none; ``TrainingError`` if too many are missing."""
        chats = [
            [*chat, {"role": "assistant", "content": completion}]
            for chat, completion in zip(columns["chat"], completions, strict=True)
        ]
        results = self.reward.score_batch_results(chats)
        scores = [r.value if isinstance(r, Scored) else None for r in results]
        for score in scores:
            if score is not None and not math.isfinite(score):
                raise TrainingError(
                    "the reward gave a number that is not finite",
                    where=f"grpo, reward {self.reward.artifact_id or 'unnamed'}",
                    got=score,
                )
        self._bound([r for r in results if not isinstance(r, Scored)], len(results))
        tokens = [len(ids) for ids in columns["completion_ids"]]
        kept = [(n, s) for n, s in zip(tokens, scores, strict=True) if s is not None]
        self.lengths, self.scores = [n for n, _ in kept], [s for _, s in kept]
        if (log := columns.get("log_metric")) is not None:
            log("unscored_share", scores.count(None) / len(scores))
        return scores

    def _bound(self, missing: Sequence[Any], total: int) -> None:
        if len(missing) / total <= self.max_unscored_share and len(missing) < total:
            return
        raise TrainingError(
            "too many responses got no score",
            where=f"grpo, reward {self.reward.artifact_id or 'unnamed'}",
            got=f"{len(missing)} of {total} unscored, the first: {missing[0]}",
            expected=f"a share of at most {self.max_unscored_share}",
            fix="Look at the reward service, or raise policy.grpo.max_unscored_share.",
        )


class GroupCallback(JobCallback):
    """The callback of every job, and the reward-hacking detector at each rollout's log."""

    def __init__(
        self, total: int, context: TrainContext, reward: GroupReward, spec: HackingSpec
    ) -> None:
        super().__init__("grpo", total, context)
        self.reward, self.watch = reward, HackingWatch(spec)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.watch.resume(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_log(args, state, control, **kwargs)
        if self.watch.stops:
            self.ended_early = True
            control.should_save = False  # resumed from here, it would take one step more
            control.should_training_stop = True

    def also(self, step: int, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        seen = self.watch.look(step, self.reward.lengths, self.reward.scores, logs.get("kl"))
        if (alert := self.watch.alert) is not None:
            self.context.alert("grpo", step, self.total, alert)
        return seen


def train(job: GRPOJob, context: TrainContext) -> MethodResult:
    """Optimise against the reward and publish ``model/``."""
    assert context.reward is not None
    model, tokenizer = load_for_training(job, context)
    records = read_records(Path(job.train.path), RLPrompt)
    require_records(len(records), job.train.path, "grpo")
    prompts, cut = encoded_prompts(tokenizer, records, job.settings.max_prompt_tokens)
    settings = job.settings
    reward = GroupReward(context.reward, settings.max_unscored_share)
    callback = GroupCallback(settings.max_steps, context, reward, settings.hacking)
    trainer = TokenisedGRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=_arguments(job, context),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        peft_config=lora_config(job.lora),
    )
    with vllm_rollouts(job, tokenizer, context) as trainer.sample:
        resumed = run_trainer(trainer, callback, context)
    rows = metric_rows(trainer)
    size = settings.batch_size
    metrics = {
        **start_and_end(rows, "reward", "reward", "max", size),
        **(start_and_end(rows, "kl", "kl", "none", size) if settings.beta else {}),
    }
    card = {name: metric.value for name, metric in metrics.items()} | {
        "prompts": len(records),
        "prompts_cut": cut,
        "reward": job.reward.digest[:16],
    }
    publish(trainer.model, tokenizer, job, context, card)
    return MethodResult(
        rows,
        metrics,
        card,
        callback.clock.tokens_per_second,
        resumed,
        callback.watch.outcome(),
    )


def _arguments(job: GRPOJob, context: TrainContext) -> GRPOConfig:
    settings = job.settings
    return GRPOConfig(
        **common_arguments(job, settings, context),
        num_generations=settings.group_size,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        beta=settings.beta,
        epsilon=settings.epsilon,
        scale_rewards="group",
        loss_type="grpo",
        num_iterations=1,
        steps_per_generation=1,
        disable_dropout=True,
        log_completions=False,
    )


def encoded_prompts(
    tokenizer: Any, records: Sequence[RLPrompt], max_prompt_tokens: int
) -> tuple[list[dict[str, Any]], int]:
    """Token ids of the prompts, cut on the left, each beside its chat; and how many were cut.

    The reward reads the whole chat, the policy what fits.
    """
    rows: list[dict[str, Any]] = []
    cut = 0
    for record in records:
        chat = [m.model_dump() for m in record.prompt]
        ids = encode_prompt(tokenizer, chat)
        cut += len(ids) > max_prompt_tokens
        rows.append({"prompt": ids[-max_prompt_tokens:], "chat": chat})
    return rows, cut
