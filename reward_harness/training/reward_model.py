"""Bradley-Terry reward model: a head solved on frozen features, then the whole model fine-tuned.

The head starts at the optimum for the untouched backbone, so that the first gradients of the
backbone point somewhere. Batches hold pairs of like length and run in micro-batches of a token
budget, whose gradients add up to the batch's own. Randomness is derived from (seed, step), so a
checkpoint between steps needs no generator state and a resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair
from reward_harness.errors import TrainingError
from reward_harness.hashing import canonical_json, derive_seed
from reward_harness.manifest import Metric
from reward_harness.models.batches import length_batches
from reward_harness.models.reward_head import EncodedConversation, RewardModel
from reward_harness.progress import Progress
from reward_harness.training.bradley_terry import bradley_terry_loss, warm_head
from reward_harness.training.context import (
    MethodResult,
    MetricRow,
    TrainContext,
    check_finite,
    start_and_end,
)
from reward_harness.training.heldout import as_json, heldout_measures
from reward_harness.training.job import BTJob
from reward_harness.training.policy_model import model_card

SAVE_EVERY = 25
"""Steps between resumable checkpoints."""

MICRO_BATCH_TOKENS = 2048
"""Padded tokens of one pass: throughput on a CPU is flat beyond, memory is not."""

SORTED_BATCHES = 16
"""Batches whose pairs are sorted together by length: little padding, and still a random order."""

WARM_PAIRS_MIN, WARM_PAIRS_MAX = 256, 2048
"""Bounds of the pairs that the head is solved on: as many as training will see, whose features cost
a third of training on them."""

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Both sides of a pair as the reward model reads them."""

    chosen: EncodedConversation
    rejected: EncodedConversation

    @property
    def length(self) -> int:
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


def train(job: BTJob, context: TrainContext) -> MethodResult:
    """Train, measure on validation and test pairs, publish ``model/`` and ``heldout.json``."""
    settings = job.settings
    model = RewardModel.from_backbone(
        Path(job.model.path), max_length=settings.max_length, device=context.device
    )
    pairs = read_records(Path(job.train.path), PreferencePair)
    encoded = [encode_pair(model, pair) for pair in pairs]
    if not encoded:
        raise TrainingError("no pairs to train on", where=job.train.path)
    total = settings.max_steps or math.ceil(len(pairs) / settings.batch_size * settings.epochs)
    run = BradleyTerryRun(job, model, encoded, total)
    resumed = _restore(run, context)
    clock = context.clock(total)
    for step in range(len(run.rows) + 1, total + 1):
        row = run.step(step)
        speed = clock.step(step, run.last_tokens)
        context.tell("bt", step, total, {n: float(row[n]) for n in ("loss", "accuracy")} | speed)
        _checkpoint(run, context, step, total)
    context.progress(Progress("bt", total, total, "measuring held-out pairs"))
    splits = _measure(job, model)
    (context.output / "heldout.json").write_bytes(canonical_json(as_json(splits)))
    metrics = _metrics(run.rows, splits, settings.batch_size)
    card = {name: metric.value for name, metric in metrics.items()} | _cuts(encoded)
    model.save(context.model_folder)
    (context.model_folder / "README.md").write_text(model_card(job, card), encoding="utf-8")
    return MethodResult(run.rows, metrics, card, clock.tokens_per_second, resumed)


class BradleyTerryRun:
    """The model, its optimiser and the order of pairs; ``step`` does one update."""

    def __init__(
        self, job: BTJob, model: RewardModel, pairs: Sequence[EncodedPair], total: int
    ) -> None:
        self.settings, self.seed, self.model, self.pairs = job.settings, job.seed, model, pairs
        self.total = total
        self.mixed = job.train_dtype == "bfloat16"
        self.order = list(batches(pairs, job.settings.batch_size, total, job.seed))
        self.rows: list[MetricRow] = []
        self.last_tokens = 0
        self.optimizer = torch.optim.AdamW(_groups(model, job), weight_decay=0.0)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def warm_start(self) -> None:
        """Solve the head on the frozen backbone's features."""
        seen = self.total * self.settings.batch_size
        pairs = self.pairs[: min(max(seen, WARM_PAIRS_MIN), WARM_PAIRS_MAX)]
        chosen = self.model.pooled_features([pair.chosen for pair in pairs])
        rejected = self.model.pooled_features([pair.rejected for pair in pairs])
        self.model.head.weight.data.copy_(warm_head(chosen, rejected)[None])

    def step(self, step: int) -> dict[str, float]:
        """One update; ``step`` counts from 1. Returns its metrics row."""
        torch.manual_seed(derive_seed(self.seed, "bt", "step", step))
        factor = learning_rate_factor(step - 1, self.total, self.settings.warmup_fraction)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        batch = [self.pairs[index] for index in self.order[step - 1]]
        self.last_tokens = sum(pair.tokens for pair in batch)
        self.model.train()
        chosen, rejected, loss = self._gradients(batch)
        self.model.eval()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        row = {
            "step": step,
            "loss": loss,
            "accuracy": float((chosen > rejected).float().mean()),
            "margin": float((chosen - rejected).mean()),
            "reward_mean": float(torch.cat([chosen, rejected]).mean()),
            "grad_norm": float(norm),
            "learning_rate": self.settings.learning_rate * factor,
        }
        check_finite(row, ("loss", "grad_norm"), f"bt step {step}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.rows.append(row)
        return row

    def _gradients(self, batch: Sequence[EncodedPair]) -> tuple[Tensor, Tensor, float]:
        """Add up the gradients of micro-batches; chosen and rejected rewards (B,) and the loss."""
        found: list[tuple[Tensor, Tensor]] = []
        loss_sum = 0.0
        for indices in length_batches([2 * pair.length for pair in batch], MICRO_BATCH_TOKENS):
            part = [batch[index] for index in indices]
            rows = [pair.chosen for pair in part] + [pair.rejected for pair in part]
            device = self.model.device
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.mixed):
                rewards = self.model(self.model.batch(rows).to(device)).float()
            chosen, rejected = rewards[: len(part)], rewards[len(part) :]
            loss = bradley_terry_loss(chosen, rejected, self.settings.center_rewards)
            share = len(part) / len(batch)
            (loss * share).backward()
            loss_sum += float(loss.detach()) * share
            found.append((chosen.detach().cpu(), rejected.detach().cpu()))
        return torch.cat([c for c, _ in found]), torch.cat([r for _, r in found]), loss_sum

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, for ``torch.save``."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": list(self.rows),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()`` of a run of the same job."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])


def encode_pair(model: RewardModel, pair: PreferencePair) -> EncodedPair:
    """Both sides with their shared prompt."""
    prompt = [m.model_dump() for m in pair.prompt]
    chosen, rejected = (
        model.encode([*prompt, {"role": "assistant", "content": text}])
        for text in (pair.chosen, pair.rejected)
    )
    return EncodedPair(chosen, rejected)


def batches(pairs: Sequence[EncodedPair], size: int, total: int, seed: int) -> Iterator[list[int]]:
    """``total`` batches of ``size`` pairs in seeded, length-grouped order.

    Each epoch is a permutation, cut into runs of ``SORTED_BATCHES`` batches that are sorted by
    length inside; the batches of an epoch then come in random order.
    """
    made, epoch = 0, 0
    while True:
        generator = torch.Generator().manual_seed(derive_seed(seed, "bt", "epoch", epoch))
        order = torch.randperm(len(pairs), generator=generator).tolist()
        run = size * SORTED_BATCHES
        grouped = [
            index
            for start in range(0, len(order), run)
            for index in sorted(order[start : start + run], key=lambda i: pairs[i].length)
        ]
        cut = [grouped[start : start + size] for start in range(0, len(grouped), size)]
        for index in torch.randperm(len(cut), generator=generator).tolist():
            if made == total:
                return
            made += 1
            yield cut[index]
        epoch += 1


def learning_rate_factor(step: int, total: int, warmup_fraction: float) -> float:
    """Linear warm-up to 1, then a cosine that would reach 0 at ``total``; steps count from 0."""
    warmup = math.ceil(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def _groups(model: RewardModel, job: BTJob) -> list[dict[str, Any]]:
    """Backbone matrices with weight decay, its vectors (norms, biases) without, and the head."""
    settings = job.settings
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in backbone if p.ndim > 1],
            "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in backbone if p.ndim <= 1], "lr": settings.learning_rate},
        {"params": [model.head.weight], "lr": settings.head_learning_rate},
    ]


def _restore(run: BradleyTerryRun, context: TrainContext) -> int | None:
    found = context.resume.newest() if context.resume else None
    if found is None:
        context.progress(Progress("bt", 0, run.total, "solving the head on the frozen backbone"))
        run.warm_start()
        return None
    step, folder = found
    run.load_state(torch.load(folder / "state.pt", map_location=context.device, weights_only=True))
    return step


def _checkpoint(run: BradleyTerryRun, context: TrainContext, step: int, total: int) -> None:
    """Save where it is due; ``TrainingError`` if the job was told to stop."""
    due = step % SAVE_EVERY == 0 and step < total
    if context.resume and (due or context.stop.requested):
        context.resume.save(step, lambda folder: torch.save(run.state(), folder / "state.pt"))
    if context.stop.requested and step < total:
        raise context.stopped(step)


def _measure(job: BTJob, model: RewardModel) -> dict[str, dict[str, Metric]]:
    splits: dict[str, dict[str, Metric]] = {}
    for name, file in (("validation", job.validation), ("test", job.test)):
        pairs = read_records(Path(file.path), PreferencePair)
        if not pairs:
            continue
        sides = [
            model.score_conversations(
                [
                    [*(m.model_dump() for m in p.prompt), {"role": "assistant", "content": text}]
                    for p, text in zip(pairs, texts, strict=True)
                ]
            )
            for texts in ([p.chosen for p in pairs], [p.rejected for p in pairs])
        ]
        splits[name] = heldout_measures(pairs, sides[0], sides[1], job.seed)
    return splits


def _metrics(
    rows: Sequence[MetricRow], splits: dict[str, dict[str, Metric]], size: int
) -> dict[str, Metric]:
    found = start_and_end(rows, "loss", "loss", "min", size)
    for split, measures in splits.items():
        prefix = "heldout" if split == "test" else split
        found |= {f"{prefix}_{name}": metric for name, metric in measures.items()}
    return found


def _cuts(encoded: Sequence[EncodedPair]) -> dict[str, int]:
    sides = [side for pair in encoded for side in (pair.chosen, pair.rejected)]
    return {
        "pairs": len(encoded),
        "contexts_cut": sum(side.cut_context > 0 for side in sides),
        "responses_cut": sum(side.cut_response > 0 for side in sides),
    }
