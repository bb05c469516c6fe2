"""A process reward model: is this step right? And its twin, which sees the whole solution only.

Binary cross-entropy at the end of every step (Lightman et al. 2023, arXiv 2305.20050); a neutral
step counts as right. Steps are matched by position and, for the twin, solutions by length
(``data.steps``), in training and in measurement. A solution is flagged where its weakest step (the
twin: its score) is below a threshold set so that both models flag the same share of right
solutions; the share of wrong solutions flagged is then what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reward_harness.data.files import read_records
from reward_harness.data.records import StepwiseExample, prompt_key
from reward_harness.data.steps import WRONG, is_right, matched_solutions, matched_steps
from reward_harness.errors import TrainingError
from reward_harness.evaluation.statistics import cluster_bootstrap_mean
from reward_harness.evaluation.step_flags import first_wrong_step, flagged_by_position
from reward_harness.hashing import canonical_json, derive_seed
from reward_harness.manifest import Metric
from reward_harness.models.reward_head import RewardModel
from reward_harness.models.step_head import (
    EncodedSteps,
    all_step_features,
    encode_steps,
    step_logits,
    step_probabilities,
)
from reward_harness.progress import Progress
from reward_harness.training.bradley_terry import warm_head
from reward_harness.training.card import model_card
from reward_harness.training.context import MethodResult, TrainContext
from reward_harness.training.heldout import as_json
from reward_harness.training.job import ProcessJob
from reward_harness.training.reward_loop import RewardRun, start_model, train_members
from reward_harness.training.reward_model import flattened

TWIN_FOLDER = "outcome_model"
RESAMPLES = 2000
FLAGGED = ("flagged", "outcome_flagged")
"""Metrics of the process model and of its twin; ``_at_<position>`` of the first wrong step."""
Scores = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """A solution's inputs, and for each step 1 right, 0 wrong, or None where it is not used."""

    rows: tuple[EncodedSteps, ...]
    labels: tuple[float | None, ...]

    @property
    def length(self) -> int:
        return max(len(row.ids) for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def width(self) -> int:
        return self.length * len(self.rows)


class StepObjective:
    """Mean over solutions of the mean loss of their steps; values are (right, loss) shares."""

    name = "process"

    def solve_head(self, model: RewardModel, samples: Sequence[LabelledSteps]) -> Tensor:
        features = all_step_features(model, [row for s in samples for row in s.rows])
        labels = [label for s in samples for label in s.labels]
        used = torch.tensor([label is not None for label in labels])
        signs = torch.tensor([1.0 if label else -1.0 for label in labels])
        signed = (features * signs[:, None])[used]
        return warm_head(signed, torch.zeros_like(signed))

    def loss(self, model: RewardModel, part: Sequence[LabelledSteps]) -> tuple[Tensor, Tensor]:
        logits = step_logits(model, [row for s in part for row in s.rows])
        losses: list[Tensor] = []
        values: list[Tensor] = []
        for own, sample in zip(logits.split([len(s.labels) for s in part]), part, strict=True):
            used = [i for i, label in enumerate(sample.labels) if label is not None]
            targets = torch.tensor([sample.labels[i] for i in used], device=own.device)
            chosen = own[used]
            losses.append(binary_cross_entropy_with_logits(chosen, targets))
            values.append(((chosen > 0) == (targets > 0.5)).float().mean())
        return torch.stack(losses).mean(), torch.stack(values)[:, None]

    def describe(self, values: Tensor) -> dict[str, float]:
        return {"accuracy": float(values.mean())}


def train(job: ProcessJob, context: TrainContext) -> MethodResult:
    """Train both models, measure them on the test solutions, publish ``model/``."""
    settings = job.settings
    examples = read_records(Path(job.train.path), StepwiseExample)
    kinds: list[Callable[[RewardModel, Sequence[StepwiseExample], ProcessJob], list[LabelledSteps]]]
    kinds = [step_samples, outcome_samples][: 1 + settings.outcome_twin]
    runs = [partial(_run, job, context, examples, kind) for kind in kinds]
    trained = train_members(job.method, runs, context)
    context.progress(Progress(job.method, 1, 1, "measuring held-out solutions"))
    held = read_records(Path(job.test.path), StepwiseExample)
    splits = {"test": _measures(job, trained.models, held)} if held else {}
    (context.output / "heldout.json").write_bytes(canonical_json(as_json(splits)))
    metrics = trained.loss_metrics(settings.batch_size) | flattened(splits)
    card: dict[str, Any] = {name: metric.value for name, metric in metrics.items()}
    card |= {"solutions": len(examples), "solutions_wrong": sum(not is_right(e) for e in examples)}
    for folder, model in zip((context.model_folder, _twin(context)), trained.models, strict=False):
        model.save(folder)
        (folder / "README.md").write_text(model_card(job, card), encoding="utf-8")
    return trained.result(metrics, card)


def _twin(context: TrainContext) -> Path:
    return context.output / TWIN_FOLDER


def _run(
    job: ProcessJob,
    context: TrainContext,
    examples: Sequence[StepwiseExample],
    make: Callable[[RewardModel, Sequence[StepwiseExample], ProcessJob], list[LabelledSteps]],
) -> RewardRun[LabelledSteps]:
    model = start_model(job, job.settings, context)
    samples = make(model, examples, job)
    if not samples:
        raise TrainingError(
            "no position has both a right and a wrong step",
            where=job.train.path,
            fix="Use solutions with mistakes, or set reward_model.process.match_positions: false.",
        )
    mixed = job.train_dtype == "bfloat16"
    return RewardRun(model, samples, StepObjective(), job.settings, seed=job.seed, mixed=mixed)


def step_samples(
    model: RewardModel, examples: Sequence[StepwiseExample], job: ProcessJob
) -> list[LabelledSteps]:
    """Solutions with at least one step that is used, labelled step by step.

    Steps after the last one in use are left out: no input sees them.
    """
    kept = matched_steps(examples, job.seed) if job.settings.match_positions else {}
    samples: list[LabelledSteps] = []
    for example in examples:
        used = kept.get(example.example_id, (True,) * len(example.steps))
        if not any(used):
            continue
        end = max(place for place, use in enumerate(used) if use) + 1
        rows = encode_steps(model, _prompt(example), example.steps[:end])
        labels = [
            float(label != WRONG) if use else None
            for label, use in zip(example.labels, used, strict=True)
        ]
        samples.append(LabelledSteps(tuple(rows), tuple(labels[:end])))
    return samples


def outcome_samples(
    model: RewardModel, examples: Sequence[StepwiseExample], job: ProcessJob
) -> list[LabelledSteps]:
    """Whole solutions as one step each, right where no step is wrong."""
    used = matched_solutions(examples, job.seed) if job.settings.match_positions else examples
    return [LabelledSteps(_whole(model, example), (float(is_right(example)),)) for example in used]


def _whole(model: RewardModel, example: StepwiseExample) -> tuple[EncodedSteps, ...]:
    return tuple(encode_steps(model, _prompt(example), ["\n".join(example.steps)]))


def _prompt(example: StepwiseExample) -> list[dict[str, str]]:
    return [m.model_dump() for m in example.prompt]


def _measures(
    job: ProcessJob, models: Sequence[RewardModel], held: Sequence[StepwiseExample]
) -> dict[str, Metric]:
    """Step accuracy on matched steps; then, of wrong solutions, the share that each model flags."""
    rows = [encode_steps(models[0], _prompt(e), e.steps) for e in held]
    flat = step_probabilities(models[0], [row for found in rows for row in found])
    steps = _split(flat, [len(e.steps) for e in held])
    found = _step_accuracy(job, held, steps)
    right = np.array([is_right(e) for e in held])
    if right.all() or not right.any():
        return found
    weakest = np.array([min(values) for values in steps])
    scores = [weakest]
    if len(models) > 1:
        whole = [row for e in held for row in _whole(models[1], e)]
        scores.append(np.array(step_probabilities(models[1], whole)))
    rng = np.random.default_rng(derive_seed(job.seed, "flagged"))
    rate = job.settings.false_flag_rate
    found |= flagged_shares(scores, right, [prompt_key(e.prompt) for e in held], rate, rng)
    first_wrong = [first_wrong_step(e.labels) for e in held]
    for name, values in zip(FLAGGED, scores, strict=False):
        for position, share in flagged_by_position(values, first_wrong, rate).items():
            found[f"{name}_at_{position}"] = share.metric("max")
    return found


def _split(values: Sequence[float], sizes: Sequence[int]) -> list[Sequence[float]]:
    starts = np.cumsum([0, *sizes])
    return [values[a : a + n] for a, n in zip(starts, sizes, strict=False)]


def _step_accuracy(
    job: ProcessJob, held: Sequence[StepwiseExample], steps: Sequence[Sequence[float]]
) -> dict[str, Metric]:
    kept = matched_steps(held, job.seed)
    hits: list[float] = []
    prompts: list[str] = []
    for example, values in zip(held, steps, strict=True):
        for label, value, use in zip(example.labels, values, kept[example.example_id], strict=True):
            if use:
                hits.append(float((value > 0.5) == (label != WRONG)))
                prompts.append(prompt_key(example.prompt))
    if not hits:
        return {}
    rng = np.random.default_rng(derive_seed(job.seed, "step accuracy"))
    return {"step_accuracy": cluster_bootstrap_mean(hits, prompts, rng).metric("max")}


def flagged_shares(
    scores: Sequence[Scores],
    right: npt.NDArray[np.bool_],
    prompts: Sequence[str],
    rate: float,
    rng: np.random.Generator,
) -> dict[str, Metric]:
    """Share of wrong solutions below each model's threshold, and the first model's lead.

    A model's threshold is the ``rate`` quantile of its scores of right solutions. Intervals are
    percentiles over resampled prompts, each with all its solutions (``prompts`` names the one of
    each solution), thresholds set anew in each; resamples need right and wrong solutions.
    """
    names = FLAGGED[: len(scores)]
    wrong, good = np.flatnonzero(~right), np.flatnonzero(right)
    point = [flagged_share(values, good, wrong, rate) for values in scores]
    table = np.array(
        [
            [flagged_share(values, some, others, rate) for values in scores]
            for some, others in resampled_solutions(good, wrong, prompts, rng)
        ]
    )
    found = {name: _percentiles(point[i], table[:, i], len(wrong)) for i, name in enumerate(names)}
    if len(scores) > 1:
        lead = table[:, 0] - table[:, 1]
        found["flagged_lead"] = _percentiles(point[0] - point[1], lead, len(wrong))
    return found


def resampled_solutions(
    good: Places, wrong: Places, prompts: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[Places, Places]]:
    """``RESAMPLES`` draws of prompts: the right and the wrong solutions of each, none empty."""
    unique, prompt_of = np.unique(np.array(prompts), return_inverse=True)
    left = RESAMPLES
    while left:
        times = np.bincount(rng.integers(len(unique), size=len(unique)), minlength=len(unique))
        some, others = (np.repeat(kind, times[prompt_of[kind]]) for kind in (good, wrong))
        if some.size and others.size:
            left -= 1
            yield some, others


def flagged_share(values: Scores, good: Places, wrong: Places, rate: float) -> float:
    """Share of the solutions ``wrong`` below the ``rate`` quantile of those that are ``good``."""
    return float((values[wrong] < np.quantile(values[good], rate)).mean())


def _percentiles(value: float, draws: Scores, n: int) -> Metric:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Metric(value=value, ci_low=float(low), ci_high=float(high), n=n, direction="max")
