"""The loop that all trained rewards share: a head solved on frozen features, then fine-tuning.

A method brings samples and an ``Objective``; this module owns order, schedule, gradients and resume
states. The head starts at its optimum for the untouched backbone, so that the first gradients of
the backbone point somewhere. Batches hold samples of like length and run in micro-batches of a
token budget, whose gradients add up to the batch's own. Randomness is derived from (seed, step), so
a checkpoint between steps needs no generator state and a resumed run repeats the uninterrupted one.
Several members (an ensemble, a process model and its twin) train one after another in one job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from reward_harness.errors import TrainingError
from reward_harness.hashing import derive_seed
from reward_harness.models.batches import length_batches, padding_on
from reward_harness.models.reward_head import Reads, RewardModel
from reward_harness.progress import Progress
from reward_harness.sections import RewardOptim
from reward_harness.training.context import (
    MethodResult,
    MetricRow,
    StepClock,
    TrainContext,
    check_finite,
    start_and_end,
)
from reward_harness.training.order import Sample, batches, drawn, learning_rate_factor
from reward_harness.training.policy_model import lora_adapted

if TYPE_CHECKING:
    from reward_harness.manifest import Metric
    from reward_harness.training.job import JobBase

SAVE_EVERY = 25
"""Steps between resumable checkpoints."""

MICRO_BATCH_TOKENS = 2048
"""Padded tokens of one pass: throughput on a CPU is flat beyond, memory is not."""

WARM_MIN, WARM_MAX = 256, 2048
"""Bounds of the samples that the head is solved on: as many as training will see, whose features
cost a third of training on them."""

LOOK_BATCHES = 4
"""Batches on which a head that is only solved is looked at."""

MAX_GRAD_NORM = 1.0


S = TypeVar("S", bound=Sample)
Learned = TypeVar("Learned", bound=Sample, contravariant=True)


class Objective(Protocol[Learned]):
    """What a method learns. ``loss`` gives the mean over the part, and values (N, V) for a row."""

    name: str

    def solve_head(self, model: RewardModel, samples: Sequence[Learned]) -> Tensor:
        """Head weights (H,) that are best for the frozen backbone."""
        ...

    def loss(self, model: RewardModel, part: Sequence[Learned]) -> tuple[Tensor, Tensor]:
        """Mean loss of the samples with gradient, and numbers for ``describe``."""
        ...

    def describe(self, values: Tensor) -> dict[str, float]:
        """Columns of the metrics row from the values of a whole batch."""
        ...


class RewardRun(Generic[S]):
    """One model, its optimiser and the order of its samples; ``step`` does one update."""

    def __init__(
        self,
        model: RewardModel,
        samples: Sequence[S],
        objective: Objective[S],
        settings: RewardOptim,
        *,
        seed: int,
        mixed: bool = False,
    ) -> None:
        self.model, self.samples, self.objective = model, samples, objective
        self.settings, self.seed, self.mixed = settings, seed, mixed
        self.total = steps_of(settings, len(samples))
        lengths = [sample.length for sample in samples]
        self.order = list(batches(lengths, settings.batch_size, self.total, seed))
        self.rows: list[dict[str, float]] = []
        self.last_tokens = 0
        self.optimizer = torch.optim.AdamW(_groups(model, settings), weight_decay=0.0, fused=True)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def warm_start(self) -> None:
        """Solve the head on the frozen backbone's features; on all it may where nothing follows."""
        seen = self.total * self.settings.batch_size
        most = min(max(seen, WARM_MIN), WARM_MAX) if self.total else WARM_MAX
        samples = [self.samples[index] for index in drawn(len(self.samples), most, self.seed)]
        weights = self.objective.solve_head(self.model, samples)
        self.model.head.weight.data.copy_(weights[None])

    def look(self) -> dict[str, float]:
        """The row of a head that is not trained further: step 0, on the first samples."""
        with torch.no_grad():
            batch = self.samples[: LOOK_BATCHES * self.settings.batch_size]
            loss, values = self.objective.loss(self.model, batch)
        self.rows.append({"step": 0, "loss": float(loss), **self.objective.describe(values.cpu())})
        return self.rows[-1]

    def step(self, step: int) -> dict[str, float]:
        """One update; ``step`` counts from 1. Returns its metrics row."""
        torch.manual_seed(derive_seed(self.seed, "bt", "step", step))
        factor = learning_rate_factor(step - 1, self.total, self.settings.warmup_fraction)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        batch = [self.samples[index] for index in self.order[step - 1]]
        self.last_tokens = sum(sample.tokens for sample in batch)
        self.model.train()
        values, loss = self._gradients(batch)
        self.model.eval()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        row = {
            "step": step,
            "loss": loss,
            **self.objective.describe(values),
            "grad_norm": float(norm),
            "learning_rate": self.settings.learning_rate * factor,
        }
        check_finite(row, ("loss", "grad_norm"), f"{self.objective.name} step {step}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.rows.append(row)
        return row

    def _gradients(self, batch: Sequence[S]) -> tuple[Tensor, float]:
        """Add up the gradients of micro-batches; the batch's values (N, V) and its loss."""
        found: list[Tensor] = []
        loss_sum = 0.0
        device = self.model.device
        widths = [sample.width for sample in batch]
        for indices in length_batches(widths, MICRO_BATCH_TOKENS, padding_on(device)):
            part = [batch[index] for index in indices]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.mixed):
                loss, values = self.objective.loss(self.model, part)
            share = len(part) / len(batch)
            (loss * share).backward()
            loss_sum += float(loss.detach()) * share
            found.append(values.detach().cpu())
        return torch.cat(found), loss_sum

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


@dataclass(frozen=True, slots=True)
class Trained:
    """The finished members' models and what the job reports of their training."""

    models: list[RewardModel]
    rows: list[MetricRow]
    clock: StepClock
    resumed_from: int | None

    def loss_metrics(self, batch_size: int) -> dict[str, Metric]:
        """``loss_start`` and ``loss_end``: of the mean over members at each step."""
        count = len(self.models)
        total = len(self.rows) // count
        mean = [
            {
                "loss": sum(float(self.rows[m * total + i]["loss"] or 0) for m in range(count))
                / count
            }
            for i in range(total)
        ]
        return start_and_end(mean, "loss", "loss", "min", batch_size)

    def result(self, metrics: dict[str, Metric], card: dict[str, Any]) -> MethodResult:
        """What a method reports."""
        speed = self.clock.tokens_per_second
        return MethodResult(self.rows, metrics, card, speed, self.resumed_from)


def train_members(
    method: str,
    members: Sequence[Callable[[], RewardRun[Any]]],
    context: TrainContext,
    models: list[RewardModel] | None = None,
) -> Trained:
    """Train each member to its end, resuming where a former run stopped.

    Rows count steps over all members and name the member where there are several. Every member
    takes as many steps, which alone are timed. Finished ones are put into ``models``, where a later
    one can read them.
    """
    found = context.resume.newest() if context.resume else None
    saved: dict[str, Any] = {"finished": [], "rows": [], "current": None}
    if found is not None:
        saved = torch.load(found[1] / "state.pt", map_location=context.device, weights_only=True)
    models = [] if models is None else models
    rows: list[MetricRow] = list(saved["rows"])
    clock: StepClock | None = None
    for number, build in enumerate(members):
        begun = time.monotonic()
        run = build()
        total = run.total * len(members)
        if number < len(saved["finished"]):
            run.model.load_state_dict(saved["finished"][number])
            models.append(finished(run.model))
            continue
        note = Progress(method, len(rows), total, "solving the head on the frozen backbone")
        _readied(run, saved["current"], note, context)
        saved["current"] = None
        clock = clock or replace(context.clock(total), started=begun)
        clock.started += time.monotonic() - begun
        if run.total == 0:
            rows.append({**run.look(), "step": len(rows) + 1, "member": number})
        for step in range(len(run.rows) + 1, run.total + 1):
            _advance(run, step, (method, number, total), rows, clock, context)
            last = step == run.total
            if last:
                saved["finished"].append(_on_cpu(run.model.state_dict()))
            state = {**saved, "rows": rows, "current": None if last else run.state()}
            _checkpoint(state, len(rows), total, last, context)
        models.append(finished(run.model))
    if clock is None:
        raise TrainingError("no member to train", where=str(context.output))
    return Trained(models, _numbered(rows, len(members)), clock, found[0] if found else None)


def _readied(
    run: RewardRun[Any], state: dict[str, Any] | None, note: Progress, context: TrainContext
) -> None:
    """Put the run where a former one stopped, or solve its head."""
    if state is not None:
        run.load_state(state)
    else:
        context.progress(note)
        run.warm_start()


def _advance(
    run: RewardRun[Any],
    step: int,
    place: tuple[str, int, int],
    rows: list[MetricRow],
    clock: StepClock,
    context: TrainContext,
) -> None:
    method, number, total = place
    row = run.step(step)
    rows.append({**row, "step": len(rows) + 1, "member": number})
    speed = clock.step(len(rows), run.last_tokens)
    context.tracker.tell(rows, partial(_numbered, members=total // run.total))
    shown = {n: float(row[n]) for n in ("loss", "accuracy") if n in row}
    context.tell(method, len(rows), total, shown | speed)


def _checkpoint(
    state: dict[str, Any], step: int, total: int, last: bool, context: TrainContext
) -> None:
    """Save where it is due; ``TrainingError`` if the job was told to stop."""
    due = (step % SAVE_EVERY == 0 or last) and step < total
    if context.resume and (due or context.stop.requested):
        context.resume.save(step, lambda folder: torch.save(state, folder / "state.pt"))
    if context.stop.requested and step < total:
        raise context.stopped(step)


def _numbered(rows: Sequence[MetricRow], members: int) -> list[MetricRow]:
    """Rows without their ``member`` where there is but one."""
    if members > 1:
        return [*rows]
    return [{name: value for name, value in row.items() if name != "member"} for row in rows]


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def start_model(
    job: JobBase,
    settings: RewardOptim,
    context: TrainContext,
    reads: Reads = "conversation",
    seed: int | None = None,
) -> RewardModel:
    """The job's backbone with a zero head and its adapters, by ``seed`` (default: the job's)."""
    model = RewardModel.from_backbone(
        Path(job.model.path), max_length=settings.max_length, device=context.device, reads=reads
    )
    if settings.lora is not None:
        torch.manual_seed(derive_seed(job.seed if seed is None else seed, "adapters"))
        model.backbone = lora_adapted(model.backbone, settings.lora, "FEATURE_EXTRACTION")
    return model


def finished(model: RewardModel) -> RewardModel:
    """The model with its adapters merged, ready to score and to be saved."""
    merge: Any = getattr(model.backbone, "merge_and_unload", None)
    if merge is not None:
        model.backbone = merge()
    return model.eval()


def steps_of(settings: RewardOptim, samples: int) -> int:
    """Optimiser steps of one member; ``TrainingError`` where there is nothing to train on."""
    if samples == 0:
        raise TrainingError("no samples to train a reward model on")
    if settings.max_steps is not None:
        return settings.max_steps
    return math.ceil(samples / settings.batch_size * settings.epochs)


def _groups(model: RewardModel, settings: RewardOptim) -> list[dict[str, Any]]:
    """Backbone matrices with weight decay, its vectors (norms, biases) without, and the head."""
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
