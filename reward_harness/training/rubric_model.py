"""A reward model that learns a rubric's scores: mean squared error on scores in [0, 1].

Where a rubric grades with a model, its scores are dear; this one costs a forward pass. The head
starts at the ridge solution for the frozen features. It is measured on the same held-out pairs as
the Bradley-Terry model (``job.rival``), with the paired difference of their accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair, prompt_key
from reward_harness.data.scored import ScoredResponse, read_scored
from reward_harness.evaluation.statistics import cluster_bootstrap_mean
from reward_harness.hashing import canonical_json, derive_seed
from reward_harness.manifest import Metric
from reward_harness.models.reward_head import EncodedConversation, RewardModel
from reward_harness.progress import Progress
from reward_harness.rewards.base import conversation_of
from reward_harness.training.card import model_card
from reward_harness.training.context import MethodResult, TrainContext
from reward_harness.training.heldout import as_json, heldout_measures
from reward_harness.training.job import RubricModelJob
from reward_harness.training.reward_loop import RewardRun, start_model, train_members
from reward_harness.training.reward_model import Scores, flattened, pair_scores

RIDGE = 0.1
"""Of the mean squared feature, beside the mean squared error."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """An encoded conversation and the score to reproduce."""

    row: EncodedConversation
    target: float

    @property
    def length(self) -> int:
        return len(self.row.ids)

    @property
    def tokens(self) -> int:
        return len(self.row.ids)

    @property
    def width(self) -> int:
        return len(self.row.ids)


def regression_loss(scores_B: Tensor, targets_B: Tensor) -> Tensor:
    """Mean squared error of scores (B,) against targets (B,) in [0, 1]."""
    return (scores_B - targets_B).square().mean()


def ridge_head(features_NH: Tensor, targets_N: Tensor, ridge: float = RIDGE) -> Tensor:
    """Weights (H,) that minimise the mean squared error of frozen features, with a ridge."""
    features, targets = features_NH.double(), targets_N.double()
    count = max(len(targets), 1)
    gram = features.T @ features / count
    ridge_H = ridge * gram.diagonal().mean().clamp(min=1e-12) * torch.ones(gram.shape[0])
    return torch.linalg.solve(gram + ridge_H.double().diag(), features.T @ targets / count).float()


class Regression:
    """Values are (score, target) (N, 2)."""

    name = "rubric"

    def solve_head(self, model: RewardModel, samples: Sequence[ScoredSample]) -> Tensor:
        features = model.pooled_features([sample.row for sample in samples])
        return ridge_head(features, torch.tensor([sample.target for sample in samples]))

    def loss(self, model: RewardModel, part: Sequence[ScoredSample]) -> tuple[Tensor, Tensor]:
        scores = model(model.batch([s.row for s in part]).to(model.device)).float()
        targets = torch.tensor([s.target for s in part], device=scores.device)
        return regression_loss(scores, targets), torch.stack([scores, targets], dim=1)

    def describe(self, values: Tensor) -> dict[str, float]:
        return {
            "error": float((values[:, 0] - values[:, 1]).abs().mean()),
            "reward_mean": float(values[:, 0].mean()),
        }


def train(job: RubricModelJob, context: TrainContext) -> MethodResult:
    """Train on scored responses, measure on pairs, publish ``model/`` and ``heldout.json``."""
    rows = read_scored(Path(job.train.path))
    trained = train_members(job.method, [partial(_run, job, rows, context)], context)
    (model,) = trained.models
    context.progress(Progress(job.method, 1, 1, "measuring held-out pairs"))
    splits: dict[str, dict[str, Metric]] = {}
    if held := read_scored(Path(job.validation.path)):
        splits["validation"] = _fit(model, held)
    pairs = read_records(Path(job.test.path), PreferencePair)
    if pairs:
        scores = pair_scores(model, pairs)
        splits["test"] = heldout_measures(pairs, *scores, job.seed) | _against(job, pairs, scores)
    (context.output / "heldout.json").write_bytes(canonical_json(as_json(splits)))
    metrics = trained.loss_metrics(job.settings.batch_size) | flattened(splits)
    card = {name: metric.value for name, metric in metrics.items()} | {"responses": len(rows)}
    model.save(context.model_folder)
    (context.model_folder / "README.md").write_text(model_card(job, card), encoding="utf-8")
    return trained.result(metrics, card)


def _run(
    job: RubricModelJob, rows: Sequence[ScoredResponse], context: TrainContext
) -> RewardRun[ScoredSample]:
    model = start_model(job, job.settings, context)
    samples = [ScoredSample(model.encode(_conversation(row)), row.score) for row in rows]
    mixed = job.train_dtype == "bfloat16"
    return RewardRun(model, samples, Regression(), job.settings, seed=job.seed, mixed=mixed)


def _conversation(row: ScoredResponse) -> list[dict[str, str]]:
    return conversation_of([m.model_dump() for m in row.prompt], row.response)


def _fit(model: RewardModel, rows: Sequence[ScoredResponse]) -> dict[str, Metric]:
    """Error on held-out responses, beside that of always saying their mean."""
    targets = np.array([row.score for row in rows])
    found = np.array(model.score_conversations([_conversation(row) for row in rows]))
    error = float(np.square(found - targets).mean())
    return {
        "mse": Metric(value=error, n=len(rows), direction="min"),
        "mse_of_mean": Metric(value=float(targets.var()), n=len(rows)),
    }


def _against(
    job: RubricModelJob, pairs: Sequence[PreferencePair], own: Scores
) -> dict[str, Metric]:
    """The rival's accuracy on the same pairs and this model's lead, paired and by prompt."""
    if job.rival is None:
        return {}
    rival = pair_scores(RewardModel.load(Path(job.rival.path)), pairs)
    right, other = ([float(c > r) for c, r in zip(*side, strict=True)] for side in (own, rival))
    generator = np.random.default_rng(derive_seed(job.seed, "rival"))
    lead = [a - b for a, b in zip(right, other, strict=True)]
    prompts = [prompt_key(pair.prompt) for pair in pairs]
    return {
        "bt_accuracy": cluster_bootstrap_mean(other, prompts, generator).metric("max"),
        "lead_over_bt": cluster_bootstrap_mean(lead, prompts, generator).metric("max"),
    }
