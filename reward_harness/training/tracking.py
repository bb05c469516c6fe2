"""A job's metrics rows on their way to an experiment tracker, while it runs.

Every method tells its rows to one ``RowTracker``, in its first process: a tracker shows what
``metrics.jsonl`` will hold. A resumed job tells its former rows first, so that curves are whole.
Trackers keep to their own settings (``WANDB_*``, ``MLFLOW_TRACKING_URI``, ``TRACKIO_*``).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reward_harness.errors import SpecError

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob

MetricRow = Mapping[str, float | int | str | None]
Row = TypeVar("Row", bound=Mapping[str, Any])


class Tracker(Protocol):
    """Where numbers go: one call a step, and one at the end."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the artifact's ``log/tensorboard``."""

    def __init__(self, job: AnyJob, output: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer: Any = SummaryWriter(str(output / "log" / "tensorboard"))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Run:
    """A run of wandb, or of trackio, which has its interface."""

    def __init__(self, module: str, job: AnyJob, **options: Any) -> None:
        library: Any = importlib.import_module(module)
        self.run: Any = library.init(
            project=job.experiment, name=run_name(job), config=job.portable(), **options
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of the experiment's name."""

    def __init__(self, job: AnyJob, output: Path) -> None:
        self.mlflow: Any = importlib.import_module("mlflow")
        self.mlflow.set_experiment(job.experiment)
        self.mlflow.start_run(run_name=run_name(job))
        self.mlflow.log_dict(job.portable(), "job.json")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


TRACKERS: Mapping[str, Callable[[AnyJob, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda job, output: Run("trackio", job),
    "wandb": lambda job, output: Run("wandb", job, dir=str(output / "log")),
    "mlflow": MLflow,
}


class RowTracker:
    """Tells a tracker each row once; without one, nothing happens."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self.tracker, self.told = tracker, 0

    def tell(
        self,
        rows: Sequence[Row],
        shown: Callable[[Sequence[Row]], Sequence[MetricRow]] = lambda rows: rows,
    ) -> None:
        """Tell what was added to ``rows`` since the last call, as ``shown`` makes it."""
        if self.tracker is None:
            return
        for row in shown(rows[self.told :]):
            numbers = {
                name: float(value)
                for name, value in row.items()
                if isinstance(value, int | float) and name != "step"
            }
            self.tracker.log(int(row["step"] or 0), numbers)
        self.told = len(rows)

    def close(self) -> None:
        """Let the tracker write what it still holds."""
        if self.tracker is not None:
            self.tracker.close()


def open_tracker(job: AnyJob, output: Path) -> RowTracker:
    """The tracker that the job names; ``SpecError`` if its package is not installed."""
    if job.report_to is None:
        return RowTracker()
    if importlib.util.find_spec(job.report_to) is None:
        raise SpecError(
            f"the tracker {job.report_to!r} is not installed",
            where=f"{job.experiment}: compute.report_to",
            fix=f"Run `pip install {job.report_to}`, or leave the field out: metrics.jsonl and "
            "plot.png are written in any case.",
        )
    return RowTracker(TRACKERS[job.report_to](job, output))


def run_name(job: AnyJob) -> str:
    """What the run is called beside the experiment's others."""
    return f"{job.method}-{job.digest[:8]}"
