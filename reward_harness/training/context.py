"""What a training method is handed, and what every method writes the same way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from reward_harness.environment import peak_memory_bytes
from reward_harness.errors import TrainingError
from reward_harness.hashing import canonical_json
from reward_harness.manifest import Metric
from reward_harness.progress import Progress, ProgressSink
from reward_harness.rewards.base import BaseRM
from reward_harness.training.disk import room_for
from reward_harness.training.job import HackingOutcome
from reward_harness.training.resume import ResumeFolder
from reward_harness.training.tracking import MetricRow, RowTracker


@dataclass(slots=True)
class StopRequest:
    """Set by SIGTERM; methods look at it between steps, save and stop."""

    requested: bool = False


@dataclass(slots=True)
class StepClock:
    """Times steps into ``log/timing.jsonl`` and tells how fast training is and what is left."""

    path: Path
    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    tokens: int = 0
    elapsed: float = 0.0

    def step(
        self, step: int, tokens: int, phases: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Record that ``step`` is done and ``tokens`` more were seen; numbers to show.

        ``phases`` are seconds of the step's parts.
        """
        self.done += 1
        self.tokens += tokens
        self.elapsed = time.monotonic() - self.started
        row = {
            "step": step,
            "elapsed_s": round(self.elapsed, 3),
            "tokens_per_s": round(self.tokens / self.elapsed, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            **{f"{name}_s": round(seconds, 3) for name, seconds in (phases or {}).items()},
        }
        with self.path.open("ab") as stream:
            stream.write(orjson.dumps(row) + b"\n")
        left = (self.total - step) * self.elapsed / self.done
        return {"tokens_per_s": row["tokens_per_s"], "seconds_left": round(left, 1)}

    @property
    def tokens_per_second(self) -> float | None:
        """Up to the last step; what comes after it is no training."""
        return self.tokens / self.elapsed if self.tokens and self.elapsed else None


@dataclass(frozen=True, slots=True)
class TrainContext:
    """Everything outside the job that a method may use."""

    output: Path
    device: str
    resume: ResumeFolder | None
    progress: ProgressSink
    stop: StopRequest
    reward: BaseRM | None = None
    tracker: RowTracker = field(default_factory=RowTracker)

    @property
    def log(self) -> Path:
        return self.output / "log"

    @property
    def model_folder(self) -> Path:
        return self.output / "model"

    def clock(self, total: int) -> StepClock:
        """A clock for ``total`` steps."""
        return StepClock(self.log / "timing.jsonl", total)

    def tell(self, method: str, step: int, total: int, numbers: Mapping[str, float]) -> None:
        """Send one progress event."""
        self.progress(Progress(method, step, total, numbers=dict(numbers)))

    def alert(self, method: str, step: int, total: int, message: str) -> None:
        """Send one event that nobody may miss."""
        self.progress(Progress(method, step, total, message, alert=True))

    def stopped(self, step: int) -> TrainingError:
        """The error of a job that was told to stop after it saved its checkpoint."""
        return TrainingError(
            "stopped by a signal",
            where=str(self.output),
            got=f"step {step}",
            fix="Start it again: it continues from its checkpoint.",
        )


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What a method reports: metrics rows (without times), summary numbers, the speed."""

    rows: Sequence[MetricRow]
    metrics: Mapping[str, Metric]
    card: Mapping[str, Any]
    tokens_per_second: float | None = None
    resumed_from: int | None = None
    hacking: HackingOutcome | None = None


def check_finite(row: MetricRow, names: Sequence[str], where: str) -> None:
    """``TrainingError`` if one of the named numbers is NaN or infinite."""
    for name in names:
        value = row.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise TrainingError(
                f"{name} is not finite",
                where=where,
                got=value,
                fix="The last good checkpoint is kept. Lower the learning rate, look at the data.",
            )


def write_rows(path: Path, rows: Sequence[MetricRow], resume: ResumeFolder | None = None) -> None:
    """Metrics as canonical JSON lines; ``StorageError`` where the disk has no room for them."""
    lines = b"".join(canonical_json(dict(row)) + b"\n" for row in rows)
    with room_for(path, len(lines), resume):
        path.write_bytes(lines)


def window(rows: Sequence[MetricRow], name: str, last: bool) -> tuple[float, int]:
    """Mean of ``name`` over the first or last third of the rows that have it, and their count."""
    values = [float(v) for row in rows if isinstance(v := row.get(name), int | float)]
    if not values:
        raise TrainingError("no step reported this number", got=name)
    size = max(1, len(values) // 3)
    chosen = values[-size:] if last else values[:size]
    return sum(chosen) / size, size


def start_and_end(
    rows: Sequence[MetricRow], name: str, shown: str, direction: Any, per_step: int
) -> dict[str, Metric]:
    """``<shown>_start`` and ``<shown>_end``: means over the first and last third of the steps.

    Every batch is new to the model where a job takes less than one epoch, so the end is not a
    training-set number. ``n`` counts samples.
    """
    found: dict[str, Metric] = {}
    for label, last in (("start", False), ("end", True)):
        value, steps = window(rows, name, last)
        found[f"{shown}_{label}"] = Metric(value=value, n=steps * per_step, direction=direction)
    return found
