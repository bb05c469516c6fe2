"""The three records of a training run that another project made on a reward of this one.

A *training manifest* is declared before the run, a *result* states its end, an *evaluation report*
measures what it made; the three stay apart, so that plan, fact and comparison are never mixed. The
fields are those of the schema 1.0 that trainers of the original harness write; ``dataset.id`` and
``dataset.version`` are accepted for ``dataset_id`` and ``dataset_version``.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, model_validator

from reward_harness.manifest import Frozen

RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that can be a file's and a partition's."""
Text = Annotated[str, Field(min_length=1)]
Status = Literal["succeeded", "failed", "canceled"]
Schema = Literal["1.0"]


def _moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]
"""An ISO 8601 time; one without a zone is UTC."""


def seconds_of(moment: str) -> float:
    """Seconds since 1970."""
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


class Dataset(Frozen):
    """What was trained on."""

    dataset_id: Text = Field(validation_alias=AliasChoices("dataset_id", "id"))
    dataset_version: Text = Field(validation_alias=AliasChoices("dataset_version", "version"))
    split: Text
    dataset_hash: str | None = None


class Trainer(Frozen):
    """Which code trained."""

    project: Text
    code_version: Text
    entrypoint: Text
    repo_url: str | None = None


class Execution(Frozen):
    """Where it ran."""

    launcher: str | None = None
    host: str | None = None
    accelerator: str | None = None
    num_workers: int | None = Field(default=None, ge=0)


class TrainingManifest(Frozen):
    """Declared before a run; ``rm_artifact_id`` is the reward's own id (``rm-…``)."""

    schema_version: Schema = "1.0"
    training_run_id: RunId
    created_at_utc: Moment
    rm_artifact_id: Text
    search_session_id: str | None = None
    rm_deploy_id: str | None = None
    rm_endpoint: str = Field(pattern=r"^https?://\S+$")
    dataset: Dataset
    trainer: Trainer
    trainer_config: dict[str, Any] = Field(default_factory=dict)
    execution: Execution = Execution()
    tags: list[str] | dict[str, str] = Field(default_factory=list[str])
    notes: str | None = None


class TrainingOutput(Frozen):
    """Where the run left what it made."""

    checkpoint_path: str | None = None
    model_artifact_path: str | None = None
    log_path: str | None = None


class Failure(Frozen):
    """Why a run failed, and in which stage: preflight, training, …"""

    type: Text
    message: Text
    stage: Text


class Cancellation(Frozen):
    """Why or by whom a run was canceled."""

    reason: str | None = None
    by: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Cancellation:
        if not (self.reason or self.by):
            raise ValueError("reason or by is required")
        return self


class TrainingResult(Frozen):
    """The end of a run; each status has its required fields."""

    schema_version: Schema = "1.0"
    training_run_id: RunId
    status: Status
    started_at_utc: Moment
    finished_at_utc: Moment
    duration_seconds: float = Field(ge=0)
    trainer_code_version: Text
    code_version_override_reason: str | None = None
    output: TrainingOutput = TrainingOutput()
    reward_summary: dict[str, Any] = Field(default_factory=dict)
    training_summary: dict[str, Any] = Field(default_factory=dict)
    failure: Failure | None = None
    cancellation: Cancellation | None = None

    @model_validator(mode="after")
    def _status_has_its_fields(self) -> TrainingResult:
        if seconds_of(self.finished_at_utc) < seconds_of(self.started_at_utc):
            raise ValueError("finished_at_utc is before started_at_utc")
        made = any(self.output.model_dump().values())
        wanted = {
            "succeeded": (bool(self.training_summary) and made, "training_summary and an output"),
            "failed": (self.failure is not None, "failure with type, message and stage"),
            "canceled": (self.cancellation is not None, "cancellation with a reason or by whom"),
        }
        present, fields = wanted[self.status]
        if not present:
            raise ValueError(f"status {self.status} needs {fields}")
        if self.status == "succeeded" and (self.failure or self.cancellation):
            raise ValueError("a succeeded run has neither failure nor cancellation")
        return self


class Benchmark(Frozen):
    """What a run was measured on."""

    name: Text
    version: Text
    split: str | None = None


class EvalMetric(Frozen):
    """A number with its interval and the direction in which it is better."""

    value: float = Field(allow_inf_nan=False)
    ci_low: float | None = Field(default=None, allow_inf_nan=False)
    ci_high: float | None = Field(default=None, allow_inf_nan=False)
    n: int | None = Field(default=None, ge=0)
    direction: Literal["max", "min", "none"] = "none"


class EvalArtifacts(Frozen):
    """Files behind the numbers."""

    report_path: str | None = None
    raw_predictions_path: str | None = None


class EvalReport(Frozen):
    """Measurements of one run on one benchmark.

    A metric is a number, as in the original, or an object with interval and direction; only the
    latter can be checked for regressions.
    """

    schema_version: Schema = "1.0"
    eval_run_id: RunId
    training_run_id: RunId
    evaluated_at_utc: Moment
    benchmark: Benchmark
    metrics: dict[str, float | EvalMetric] = Field(min_length=1)
    artifacts: EvalArtifacts = EvalArtifacts()
    summary: str | dict[str, Any] | None = None
    comparison_baseline: str | None = None

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> EvalReport:
        for name, metric in self.metrics.items():
            if isinstance(metric, float) and not math.isfinite(metric):
                raise ValueError(f"metric {name!r} is not a finite number")
        return self

    def measured(self) -> dict[str, EvalMetric]:
        """Every metric in the long form."""
        return {
            name: metric if isinstance(metric, EvalMetric) else EvalMetric(value=metric)
            for name, metric in self.metrics.items()
        }


Record = TrainingManifest | TrainingResult | EvalReport
