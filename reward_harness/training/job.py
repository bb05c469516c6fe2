"""A training job as a file: ``job.json`` says all that a worker needs, so that it runs by hand too.

One type for each method, told apart by ``method``. Paths and URLs say only where things lie on this
machine: neither the job's digest (which names its resume folder) nor its published copy has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from reward_harness.errors import TrainingError
from reward_harness.hashing import canonical_json, digest_json
from reward_harness.manifest import Frozen, Metric
from reward_harness.sections import (
    BTSection,
    DPOSection,
    EnsembleSection,
    GRPOSection,
    IterativeDPOSection,
    LoraSpec,
    PPOSection,
    ProcessSection,
    RubricModelSection,
    SFTSection,
    TrackerName,
)

LOCAL_FIELDS = frozenset({"path", "url", "resume_root", "report_to"})
"""Fields that hold this machine's paths and addresses, or where a person watches."""

RESULT_FILE = "log/result.json"
LOCAL_JOB_FILE = "log/job.json"


class DataFile(Frozen):
    """A file of canonical records."""

    path: str
    sha256: str
    licence: str | None = Field(default=None, description="of its sources; null: not recorded")


class ModelRef(Frozen):
    """The folder that training starts from; ``name`` is for people."""

    name: str
    path: str
    digest: str
    licence: str | None = Field(default=None, description="of its weights; null: not known")


class RewardRef(Frozen):
    """A reward: a running server, an ``rm_artifact`` folder, or a classifier's model folder."""

    kind: Literal["served", "artifact", "classifier"]
    digest: str
    url: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _has_its_place(self) -> RewardRef:
        if (self.url if self.kind == "served" else self.path) is None:
            raise ValueError("a served reward needs `url`, any other `path`")
        return self


class JobBase(Frozen):
    """What every job says."""

    schema_version: str = "1.0"
    experiment: str
    model: ModelRef
    train: DataFile
    seed: int
    device: Literal["auto", "cpu", "cuda"] = "auto"
    train_dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    processes: int = Field(default=1, ge=1)
    sharding: Literal["replicated", "full_shard"] = "replicated"
    report_to: TrackerName | None = None
    resume_root: str | None = Field(
        default=None, description="folder of resume states; null: no checkpoints"
    )

    def portable(self) -> dict[str, Any]:
        """The job without this machine's paths and addresses."""
        return _without(self.model_dump(mode="json"), LOCAL_FIELDS)

    @property
    def digest(self) -> str:
        """Digest of all that decides the result."""
        return digest_json(self.portable())


class SFTJob(JobBase):
    """Supervised fine-tuning on ``SFTExample`` records."""

    method: Literal["sft"] = "sft"
    settings: SFTSection
    lora: LoraSpec | None = None


class BTJob(JobBase):
    """A Bradley-Terry reward model on ``PreferencePair`` records, measured on ``test``."""

    method: Literal["bt"] = "bt"
    settings: BTSection
    validation: DataFile
    test: DataFile


class EnsembleJob(JobBase):
    """Bradley-Terry models of different seeds, measured as one penalised reward."""

    method: Literal["ensemble"] = "ensemble"
    settings: EnsembleSection
    validation: DataFile
    test: DataFile


class RubricModelJob(JobBase):
    """Regression on ``ScoredResponse`` records; ``rival`` is measured on the same test pairs."""

    method: Literal["rubric"] = "rubric"
    settings: RubricModelSection
    validation: DataFile
    test: DataFile
    rival: ModelRef | None = None


class ProcessJob(JobBase):
    """A process reward model and its outcome twin on ``StepwiseExample`` records."""

    method: Literal["process"] = "process"
    settings: ProcessSection
    test: DataFile


class DPOJob(JobBase):
    """Direct preference optimisation on ``PreferencePair`` records."""

    method: Literal["dpo"] = "dpo"
    settings: DPOSection
    lora: LoraSpec | None = None


class GRPOJob(JobBase):
    """Group-relative policy optimisation on ``RLPrompt`` records."""

    method: Literal["grpo"] = "grpo"
    settings: GRPOSection
    reward: RewardRef
    lora: LoraSpec | None = None


class PPOJob(JobBase):
    """Proximal policy optimisation on ``RLPrompt`` records."""

    method: Literal["ppo"] = "ppo"
    settings: PPOSection
    reward: RewardRef
    lora: LoraSpec | None = None


class IterativeDPOJob(JobBase):
    """Rounds of rollout and DPO on ``RLPrompt`` records; ``judge`` measures, ``reward`` trains."""

    method: Literal["iterative_dpo"] = "iterative_dpo"
    settings: IterativeDPOSection
    reward: RewardRef
    judge: RewardRef | None = None
    test: DataFile
    lora: LoraSpec | None = None


RewardJob = BTJob | EnsembleJob | RubricModelJob | ProcessJob
PolicyJob = SFTJob | DPOJob | GRPOJob | PPOJob | IterativeDPOJob
AnyJob = RewardJob | PolicyJob
TrainJob = Annotated[AnyJob, Field(discriminator="method")]

_JOB: TypeAdapter[AnyJob] = TypeAdapter(TrainJob)


class HackingOutcome(Frozen):
    """What the reward-hacking detector said in a run; ``stopped``: the run ended there."""

    judged_steps: int
    warnings: dict[int, str] = Field(description="message by step")
    hard_stop_step: int | None
    message: str
    stopped: bool


class TrainResult(Frozen):
    """What a finished job reports; kept in ``log/result.json``."""

    method: str
    steps: int
    metrics: dict[str, Metric]
    counts: dict[str, int] = Field(
        default_factory=dict[str, int], description="records, and how many of them were cut"
    )
    device: str
    seconds: float
    peak_memory_bytes: int
    tokens_per_second: float | None = None
    resumed_from: int | None = None
    hacking: HackingOutcome | None = None


def read_job(path: Path) -> AnyJob:
    """Read a job file; ``TrainingError`` names the field that is wrong."""
    try:
        return _JOB.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            "not a training job", where=str(path), got=str(error).replace("\n", " ")
        ) from error


def write_job(job: JobBase, output: Path) -> Path:
    """Write ``job.json`` (portable, published) and ``log/job.json`` (complete); returns that."""
    (output / "log").mkdir(parents=True, exist_ok=True)
    (output / "job.json").write_bytes(canonical_json(job.portable()))
    path = output / LOCAL_JOB_FILE
    path.write_bytes(canonical_json(job.model_dump(mode="json")))
    return path


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    return value
