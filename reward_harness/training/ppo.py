"""PPO for language models in one small trainer (arXiv 1707.06347, 1909.08593, 2203.02155).

``PPOTrainer`` takes a causal model (LoRA or full weights), its tokenizer, any ``BaseRM`` and
prompts. One step = one rollout: sample, score, one pass without gradient (log-probs, reference,
values), then ``ppo_epochs`` of clipped updates. The arithmetic is in ``ppo_losses``, the models and
what was decided about them in ``ppo_policy``. Of the loop itself:

- The value head's bias starts at the mean of the first scores: with values of 0 under scores of .6,
  λ < 1 rewards late tokens and punishes early ones until the head has caught up.
- Advantages are whitened over the whole rollout; a minibatch's loss is the mean over its tokens. It
  is split by length into micro-batches of ``pass_tokens`` whose gradients add up to its own.
- The gradients of policy and value head are clipped by a norm each: the value loss, large while the
  head learns the scale of the scores, does not slow the policy.
- Randomness is derived from (seed, purpose, step) and never carried along: a checkpoint between
  steps needs no generator state, and a resumed run repeats the uninterrupted one bit for bit.

Shapes: ``B`` responses of a rollout, ``T`` tokens of the longest, ``N`` tokens of a micro-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from reward_harness.errors import TrainingError
from reward_harness.hashing import derive_seed
from reward_harness.models.batches import length_batches
from reward_harness.models.chat import Turns, encode_prompt, pad_id
from reward_harness.models.generation import Generated, Sampler, generate_rows
from reward_harness.rewards.base import BaseRM, Scored, ScoreResult
from reward_harness.sections import PPOSection
from reward_harness.training import ppo_losses as losses
from reward_harness.training.hacking_watch import HackingWatch
from reward_harness.training.order import learning_rate_factor
from reward_harness.training.ppo_policy import ActorCritic, Sample
from reward_harness.training.workload import PPO_PASS_TOKENS, ROLLOUT_BATCH

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UPDATE_SUMS = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "kl_update")
UPDATE_NORMS = ("policy_grad_norm", "value_grad_norm")

Row = dict[str, float | int | str | None]
"""One line of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the updates read and never change: (B, T), responses at the left, 0 beyond them."""

    samples: list[Sample]
    mask: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    entropy: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def kl_B(self) -> Tensor:
        """Unbiased KL of each response (B,)."""
        return losses.kl_k1(self.logprobs, self.reference, self.mask)


class PPOTrainer:
    """The loop: ``step()`` makes one rollout and its updates; its metrics are appended to ``rows``.

    Args:
        policy: causal model or ``PeftModel``; its trainable parameters are what changes.
        tokenizer: with a chat template, an end token and a padding token that differ.
        reward: scores ``[…prompt, {assistant: response}]``; what it does not score is dropped.
        prompts: chats to roll out on; those over ``config.max_prompt_tokens`` are cut on the left
            (``prompts_cut`` counts them; the reward still reads the whole chat).
        config: all hyper-parameters.
        seed: decides prompt order, sampling and minibatches.
        autocast, value_into_trunk: see ``ActorCritic``.
        sample: draws the rollouts; ``model.generate`` if None.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward: BaseRM,
        prompts: Sequence[Turns],
        config: PPOSection,
        *,
        seed: int,
        autocast: torch.dtype | None = None,
        value_into_trunk: bool = False,
        sample: Sampler | None = None,
    ) -> None:
        self.tokenizer, self.reward, self.config, self.seed = tokenizer, reward, config, seed
        self.models = ActorCritic(
            policy,
            pad=pad_id(tokenizer),
            temperature=config.temperature,
            autocast=autocast,
            value_into_trunk=value_into_trunk,
        )
        self.sample = sample or self._generate
        self.pass_tokens = PPO_PASS_TOKENS[self.models.device.type]
        encoded = [encode_prompt(tokenizer, chat) for chat in prompts]
        self.prompts_cut = sum(len(ids) > config.max_prompt_tokens for ids in encoded)
        cut = [ids[-config.max_prompt_tokens :] for ids in encoded]
        self.prompts = list(zip(prompts, cut, strict=True))
        groups = (
            (self.models.weights.values(), config.learning_rate),
            (self.models.value_head.parameters(), config.value_learning_rate),
        )
        self.optimizer = torch.optim.AdamW(
            [{"params": list(p), "lr": rate, "peak": rate} for p, rate in groups],
            weight_decay=0.0,
            fused=True,
        )
        self.kl = losses.KLController(config.kl_controller, config.kl_init, config.kl_target)
        self.moments = losses.RunningMoments()
        self.watch = HackingWatch(config.hacking)
        self.rows: list[Row] = []
        self.seconds: dict[str, float] = {}

    def step(self) -> Row:
        """One rollout of ``config.batch_size`` responses and its updates; its metrics row.

        ``seconds`` then tells where the time went. ``TrainingError`` if too few got a score.
        """
        self.seconds = {}
        with self._timed("sample"):
            samples = self._sample()
        with self._timed("score"):
            scored, scores = self._score(samples)
        with self._timed("rollout_pass"):
            rollout = self._rollout(scored, self._shaped(scored, scores))
        with self._timed("update"):
            update = self._update(rollout)
        row: Row = {"step": len(self.rows) + 1, "reward_mean": float(scores.mean())}
        row["reward_std"] = float(scores.std(correction=0))
        row["unscored_share"] = 1 - len(scored) / len(samples)
        row |= {**_rollout_metrics(rollout), **update}
        row |= {"kl_coef": self.kl.coef, "reward_digest": self.reward.digest}
        kl = float(rollout.kl_B.mean())
        lengths = [len(s.drawn.token_ids) for s in scored]
        row |= self.watch.look(len(self.rows) + 1, lengths, scores.tolist(), kl)
        self.kl = self.kl.after(kl)
        self.rows.append(row)
        return row

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, for ``torch.save``; its tensors are the live ones."""
        return {
            "weights": {name: weight.detach() for name, weight in self.models.weights.items()},
            "value_head": self.models.value_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kl_coef": self.kl.coef,
            "moments": [self.moments.count, self.moments.mean, self.moments.squares],
            "rows": self.rows,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()`` of a trainer with the same model, prompts, config and seed."""
        if self.models.weights.keys() != state["weights"].keys():
            raise TrainingError("the checkpoint trains other weights", expected="the same LoRA")
        with torch.no_grad():
            for name, weight in self.models.weights.items():
                weight.copy_(state["weights"][name])
        self.models.value_head.load_state_dict(state["value_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        config = self.config
        self.kl = losses.KLController(config.kl_controller, state["kl_coef"], config.kl_target)
        self.moments = losses.RunningMoments(*state["moments"])
        self.rows = list(state["rows"])
        self.watch.resume(self.rows)

    def _seed(self, *names: str | int) -> int:
        return derive_seed(self.seed, "ppo", *names)

    @contextmanager
    def _timed(self, name: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def _sample(self) -> list[Sample]:
        """The next ``batch_size`` prompts in seeded order, one response each."""
        size, step = self.config.batch_size, len(self.rows)
        order = prompt_order(len(self.prompts), step * size, size, self._seed("prompts"))
        chosen = [self.prompts[index] for index in order]
        rows = [ids for _, ids in chosen]
        drawn = self.sample(self.models.policy, rows, self._seed("sample", step))
        return [Sample(chat, ids, d) for (chat, ids), d in zip(chosen, drawn, strict=True)]

    def _generate(self, policy: Any, rows: Sequence[Sequence[int]], seed: int) -> list[Generated]:
        return generate_rows(
            policy,
            self.tokenizer,
            rows,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=seed,
            batch_size=ROLLOUT_BATCH,
        )

    def _score(self, samples: list[Sample]) -> tuple[list[Sample], Tensor]:
        """The samples that got a finite score, and the scores (B,); the rest is dropped."""
        results = self.reward.score_batch_results(
            [[*s.chat, {"role": "assistant", "content": s.drawn.text}] for s in samples]
        )
        kept = [(s, r.value) for s, r in zip(samples, results, strict=True) if has_score(r)]
        if not kept or 1 - len(kept) / len(samples) > self.config.max_unscored_share:
            raise self._too_few_scores(results)
        scores = torch.tensor([value for _, value in kept], device=self.models.device)
        return [sample for sample, _ in kept], scores

    def _too_few_scores(self, results: Sequence[ScoreResult]) -> TrainingError:
        missing = [result for result in results if not has_score(result)]
        return TrainingError(
            "too many responses got no score",
            where=f"ppo step {len(self.rows) + 1}, reward {self.reward.artifact_id or 'unnamed'}",
            got=f"{len(missing)} of {len(results)} unscored, the first {missing[0]}",
            expected=f"a share of at most {self.config.max_unscored_share}",
            fix="Look at the reward, or raise policy.ppo.max_unscored_share.",
        )

    def _shaped(self, samples: list[Sample], scores_B: Tensor) -> Tensor:
        """What the policy is paid (B,): clipped scores less the penalty for a missing end."""
        if not self.rows:
            nn.init.constant_(self.models.value_head.bias, float(scores_B.mean()))
        self.moments = self.moments.with_scores(scores_B)
        if self.config.reward_clip_std is not None:
            scores_B = self.moments.clip(scores_B, self.config.reward_clip_std)
        unended = torch.tensor([not s.drawn.ended for s in samples], device=scores_B.device)
        return scores_B - self.config.missing_eos_penalty * unended

    def _rollout(self, samples: list[Sample], scores_B: Tensor) -> Rollout:
        """Old log-probs, reference, values and entropy (B, T) in one pass; advantages from them."""
        lengths = torch.tensor([len(s.drawn.token_ids) for s in samples], device=scores_B.device)
        mask = torch.arange(int(lengths.max()), device=scores_B.device) < lengths[:, None]
        measured = torch.zeros(4, *mask.shape, device=scores_B.device)
        for rows in length_batches([len(s.ids) for s in samples], self.pass_tokens):
            row, column = response_places(mask, rows)
            measured[:, row, column] = self.models.measure([samples[index] for index in rows])
        logprobs, reference, values, entropy = measured
        config = self.config
        rewards = losses.token_rewards(scores_B, logprobs, reference, mask, self.kl.coef)
        advantages, returns = losses.gae(rewards, values, mask, config.gamma, config.gae_lambda)
        whitened = losses.whiten(advantages, mask)
        return Rollout(samples, mask, logprobs, reference, values, entropy, whitened, returns)

    def _update(self, rollout: Rollout) -> Row:
        """All epochs over the rollout; means over their tokens and minibatches."""
        config, step = self.config, len(self.rows)
        factor = learning_rate_factor(step, config.max_steps, config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        sums, norms = torch.zeros(len(UPDATE_SUMS)), torch.zeros(len(UPDATE_NORMS))
        tokens = updates = 0
        for epoch in range(config.ppo_epochs):
            order = permutation(len(rollout.samples), self._seed("minibatches", step, epoch))
            for start in range(0, len(order), config.minibatch_size):
                rows = order[start : start + config.minibatch_size]
                sums += self._minibatch(rollout, rows)
                norms += self._optimize()
                tokens += int(rollout.mask[rows].sum())
                updates += 1
        row: Row = dict(zip(UPDATE_SUMS, (sums / tokens).tolist(), strict=True))
        row |= dict(zip(UPDATE_NORMS, (norms / updates).tolist(), strict=True))
        return row | {"learning_rate": config.learning_rate * factor}

    def _minibatch(self, rollout: Rollout, rows: list[int]) -> Tensor:
        """Gradients of a minibatch's mean loss a token; sums over its tokens of ``UPDATE_SUMS``."""
        config, lengths = self.config, [len(rollout.samples[row].ids) for row in rows]
        tokens = rollout.mask[rows].sum()
        sums = torch.zeros(len(UPDATE_SUMS))
        for part in length_batches(lengths, self.pass_tokens):
            chosen = [rows[index] for index in part]
            at = response_places(rollout.mask, chosen)
            logprobs, values = self.models.evaluate([rollout.samples[row] for row in chosen])
            policy, clipped = losses.clipped_policy_loss(
                logprobs, rollout.logprobs[at], rollout.advantages[at], config.clip
            )
            value, value_clipped = losses.clipped_value_loss(
                values, rollout.values[at], rollout.returns[at], config.value_clip
            )
            ((policy.sum() + config.value_coef * value.sum()) / tokens).backward()
            moved = losses.k3(rollout.logprobs[at], logprobs)
            seen = torch.stack([policy, value, clipped, value_clipped, moved])
            sums += seen.detach().sum(-1).cpu()
        return sums

    def _optimize(self) -> Tensor:
        """Clip each group's gradient by its own norm and step; the norms (2,)."""
        groups, limit = self.optimizer.param_groups, self.config.max_grad_norm
        norms = torch.stack([nn.utils.clip_grad_norm_(g["params"], limit) for g in groups]).cpu()
        if not bool(norms.isfinite().all()):
            raise TrainingError(
                "the gradient is not finite",
                where=f"ppo step {len(self.rows) + 1}",
                fix="Lower policy.ppo.learning_rate, or train in float32.",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norms


def has_score(result: ScoreResult) -> TypeGuard[Scored]:
    """Whether there is a number to learn from; NaN and infinities are none."""
    return isinstance(result, Scored) and math.isfinite(result.value)


def response_places(mask_BT: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Row and column indices, both (N,), of the response tokens of ``rows``, row after row."""
    within, columns = mask_BT[rows].nonzero(as_tuple=True)
    return torch.tensor(rows, device=mask_BT.device)[within], columns


def prompt_order(count: int, start: int, size: int, seed: int) -> list[int]:
    """``size`` places from ``start`` on of an endless row of seeded permutations of ``count``."""
    epochs = range(start // count, (start + size - 1) // count + 1)
    order = [index for epoch in epochs for index in permutation(count, derive_seed(seed, epoch))]
    return order[start % count : start % count + size]


def permutation(count: int, seed: int) -> list[int]:
    """A seeded order of ``count`` indices."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _rollout_metrics(rollout: Rollout) -> Row:
    """What the rollout says of policy, reference and value head, before its updates."""
    mask, count = rollout.mask, len(rollout.samples)
    return {
        "kl_k1": float(rollout.kl_B.mean()),
        "kl_k3": float(losses.kl_k3(rollout.logprobs, rollout.reference, mask).mean()),
        "entropy": float(losses.masked_mean(rollout.entropy, mask)),
        "explained_variance": losses.explained_variance(rollout.values, rollout.returns, mask),
        "response_tokens": float(mask.sum()) / count,
        "ended_share": sum(s.drawn.ended for s in rollout.samples) / count,
    }
