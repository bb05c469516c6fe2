"""Running a TRL trainer under this project's rules: same arguments, checkpoints, stops and metrics.

Checkpoints are transformers' own folders, sealed with the project's marker after they are written.
Every step is logged; a loss or gradient norm that is not finite stops the job before the step's
checkpoint, so that the last good one stays. SIGTERM saves at the end of the running step. Metrics
rows come from the trainer's state, which a resumed run carries on, so that they are complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from reward_harness.errors import TrainingError
from reward_harness.models.silence import quiet_training_libraries
from reward_harness.sections import OptimSpec
from reward_harness.training.context import (
    MetricRow,
    StepClock,
    TrainContext,
    check_finite,
)
from reward_harness.training.distributed import (
    anyone,
    batch_arguments,
    first_decides,
    rank,
    wait_for_all,
)
from reward_harness.training.job import AnyJob

NOISE = ("runtime", "per_second", "flos", "step_time", "epoch", "memory", "num_tokens")
"""Parts of names of logged numbers that depend on the machine, repeat the step, or (TRL's count of
tokens) start again at a resume."""

SHOWN = ("loss", "reward", "rewards/margins", "rewards/accuracies", "kl")


def common_arguments(job: AnyJob, settings: OptimSpec, context: TrainContext) -> dict[str, Any]:
    """Arguments of every TRL configuration; precision is said outright, TRL would choose bf16."""
    quiet_training_libraries()
    mixed = job.train_dtype == "bfloat16"
    return {
        "output_dir": str(context.resume.path if context.resume else context.output / "log/trl"),
        "max_steps": settings.max_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        # rounded down: the first warm-up step has a rate of 0, which a short run cannot spare
        "warmup_steps": math.floor(settings.max_steps * settings.warmup_fraction),
        "max_grad_norm": settings.max_grad_norm,
        "seed": job.seed,
        "data_seed": job.seed,
        "bf16": mixed,
        "fp16": False,
        "use_cpu": context.device == "cpu",
        "activation_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if context.resume else "no",
        "save_steps": settings.save_every,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        **batch_arguments(job, settings),
    }


class JobCallback(TrainerCallback):
    """Progress, timing, seals, stops and the finite check, at the trainer's own events."""

    def __init__(self, method: str, total: int, context: TrainContext) -> None:
        self.method, self.total, self.context = method, total, context
        self.clock: StepClock = context.clock(total)
        self.tokens: float | None = None
        self.ended_early = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock = self.context.clock(self.total)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if anyone(self.context.stop.requested):
            self.context.stop.requested = True
            control.should_save = self.context.resume is not None
            control.should_training_stop = True
        if state.global_step >= self.total:  # resumed from its end, a trainer takes one step more
            control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: Mapping[str, Any] = kwargs["logs"]
        if "loss" not in logs:
            return
        step = int(state.global_step)
        check_finite(logs, ("loss", "grad_norm"), f"{self.method} step {step}")
        seen = float(logs.get("num_tokens", 0.0))
        before = self.tokens if self.tokens is not None else 0.0 if step == 1 else seen
        speed = self.clock.step(step, int(seen - before))
        self.tokens = seen
        shown = {name: float(logs[name]) for name in SHOWN if name in logs}
        self.context.tell(self.method, step, self.total, shown | speed)
        state.log_history[-1].update(self.also(step, logs))
        self.context.tracker.tell(state.log_history, history_rows)

    def also(self, step: int, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a method adds to the step's row."""
        return {}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.context.resume is not None:
            wait_for_all()  # each process has written its part
            if rank() == 0:
                self.context.resume.seal(int(state.global_step))


def run_trainer(trainer: Any, callback: JobCallback, context: TrainContext) -> int | None:
    """Train to the last step, from the newest valid checkpoint if there is one; returns its step.

    ``TrainingError`` if the job was told to stop.
    """
    resume = context.resume
    found = first_decides(resume.newest) if resume else None
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # TRL rounds QLoRA's adapters to bf16, where small updates vanish
            weight.data = weight.data.float()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    step = int(trainer.state.global_step)
    if step < callback.total and not callback.ended_early:
        raise context.stopped(step)
    return found[0] if found else None


def metric_rows(trainer: Any) -> list[MetricRow]:
    """One row a step from the trainer's history, without times."""
    return history_rows(trainer.state.log_history)


def history_rows(history: Sequence[Mapping[str, Any]]) -> list[MetricRow]:
    """The rows of transformers' ``log_history``."""
    rows: list[MetricRow] = []
    for logged in history:
        if "loss" not in logged:
            continue
        kept = {k: _plain(v) for k, v in logged.items() if not any(n in k for n in NOISE)}
        rows.append({"step": int(logged["step"]), **{k: kept[k] for k in sorted(kept)}})
    return rows


def _plain(value: Any) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number


def require_records(count: int, path: str, method: str) -> None:
    """``TrainingError`` where there is nothing to train on."""
    if count == 0:
        raise TrainingError(f"no records to train {method} on", where=str(Path(path)))
