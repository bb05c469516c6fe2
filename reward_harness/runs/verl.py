"""A verl run on a served reward, recorded from its declaration to its end.

*prepare* shakes hands with the reward server and records the training manifest; *run* runs the
trainer's command; *finalize* records the result. What a result says was seen or was written by the
trainer: the exit code and duration, the log, checkpoints that are there, and the two files

    <run folder>/training_summary.json, reward_summary.json     any JSON object
    <run folder>/eval/*.json                                    evaluation reports

The trainer finds its run in RM_ENDPOINT, RM_ARTIFACT_ID, TRAINING_RUN_ID and TRAINING_RUN_DIR;
``reward_harness.integrations.verl`` reads HARNESS_REWARD_URL. Nothing here imports verl: any
command will do.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from reward_harness.durable import write_atomically
from reward_harness.errors import ArtifactError, DataError, HarnessError
from reward_harness.runs.handshake import require_reward
from reward_harness.runs.registry import Registry, read_record
from reward_harness.runs.schemas import (
    Cancellation,
    Dataset,
    EvalReport,
    Execution,
    Failure,
    Status,
    Trainer,
    TrainingManifest,
    TrainingOutput,
    TrainingResult,
)
from reward_harness.runs.supervision import Ended, supervise

FOLDERS = ("checkpoints", "logs", "eval")
ENDED_NAME = "ended.json"
LOG_NAME = "logs/trainer.log"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run, ``<output_dir>/<training_run_id>``."""

    path: Path

    def create(self) -> None:
        for name in FOLDERS:
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def checkpoints(self) -> Path | None:
        """The folder of checkpoints, if the trainer left anything in it."""
        folder = self.path / "checkpoints"
        return folder if folder.is_dir() and any(folder.iterdir()) else None

    def summary(self, name: Literal["training", "reward"]) -> dict[str, Any]:
        """What the trainer wrote of its training or rewards; empty if it wrote nothing."""
        path = self.path / f"{name}_summary.json"
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError("not valid JSON", where=str(path), got=str(error)) from error
        if not isinstance(found, dict):
            raise DataError("not a JSON object", where=str(path), got=type(found).__name__)
        return cast("dict[str, Any]", found)

    def environment(self, manifest: TrainingManifest) -> dict[str, str]:
        """What the trainer is told of its run."""
        return {
            "RM_ENDPOINT": manifest.rm_endpoint,
            "RM_ARTIFACT_ID": manifest.rm_artifact_id,
            "TRAINING_RUN_ID": manifest.training_run_id,
            "TRAINING_RUN_DIR": str(self.path.resolve()),
            "HARNESS_REWARD_URL": manifest.rm_endpoint,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user says of a run before it; the rest is asked of the server."""

    rm_endpoint: str
    dataset: Dataset
    trainer: Trainer
    rm_artifact_id: str | None = None
    search_session_id: str | None = None
    rm_deploy_id: str | None = None
    training_run_id: str | None = None


def prepare(registry: Registry, plan: Plan, output_dir: Path) -> TrainingManifest:
    """Shake hands, make the run's folder, record the manifest.

    ``LLMError`` without a healthy server; ``ArtifactError`` if it serves something else. If the
    declaration names its reward, a failed handshake is recorded as a run that failed in preflight.
    """
    started = _now()
    try:
        told = require_reward(plan.rm_endpoint, plan.rm_artifact_id, plan.search_session_id)
    except HarnessError as error:
        if plan.rm_artifact_id is not None:
            manifest = manifest_of(plan, plan.rm_artifact_id, plan.search_session_id)
            registry.record(manifest)
            registry.record(_failed_preflight(manifest, error, started))
        raise
    manifest = manifest_of(plan, told["artifact_id"], told.get("source_session_id"))
    registry.record(manifest)
    folder = RunFolder(output_dir / manifest.training_run_id)
    folder.create()
    text = manifest.model_dump_json(indent=1, exclude_none=True)
    write_atomically(folder.path / "manifest.json", f"{text}\n".encode())
    return manifest


def run(registry: Registry, run_id: str, command: Sequence[str], output_dir: Path) -> Ended:
    """Run the trainer of a prepared run; how it ended is kept in its folder for ``finalize``.

    ``ArtifactError`` if the run was not prepared or has ended; a failed handshake as in
    ``prepare``.
    """
    manifest = registry.manifest(run_id)
    folder = RunFolder(output_dir / run_id)
    if registry.run(run_id).result or (folder.path / ENDED_NAME).is_file():
        raise ArtifactError("the run has ended already", got=run_id, fix="Prepare a new run.")
    started = _now()
    try:
        require_reward(manifest.rm_endpoint, manifest.rm_artifact_id, manifest.search_session_id)
    except HarnessError as error:
        registry.record(_failed_preflight(manifest, error, started))
        raise
    folder.create()
    ended = supervise(command, folder.environment(manifest), folder.path / LOG_NAME)
    write_atomically(folder.path / ENDED_NAME, f"{ended.model_dump_json(indent=1)}\n".encode())
    return ended


def finalize(registry: Registry, run_id: str, output_dir: Path) -> TrainingResult:
    """Record the result of a run that has ended, then its evaluation reports.

    ``ArtifactError`` if it has not ended; ``DataError`` for a summary or report that is not valid
    (the result is recorded before the reports are read).
    """
    manifest = registry.manifest(run_id)
    folder = RunFolder(output_dir / run_id)
    ended = _ended(folder)
    status: Status = "failed" if ended.exit_code else "succeeded"
    if ended.canceled_by:
        status = "canceled"
    checkpoints, log = folder.checkpoints(), folder.path / LOG_NAME
    result = TrainingResult(
        training_run_id=run_id,
        status=status,
        started_at_utc=ended.started_at_utc,
        finished_at_utc=ended.finished_at_utc,
        duration_seconds=ended.duration_seconds,
        trainer_code_version=manifest.trainer.code_version,
        output=TrainingOutput(
            checkpoint_path=str(checkpoints.resolve()) if checkpoints else None,
            log_path=str(log.resolve()) if log.is_file() else None,
        ),
        reward_summary=folder.summary("reward"),
        training_summary={"exit_code": ended.exit_code} | folder.summary("training"),
        failure=_failure(ended) if status == "failed" else None,
        cancellation=Cancellation(by=ended.canceled_by) if ended.canceled_by else None,
    )
    registry.record(result)
    for path in sorted((folder.path / "eval").glob("*.json")):
        registry.record(read_record(path, EvalReport))
    return result


def manifest_of(plan: Plan, rm_artifact_id: str, session: str | None) -> TrainingManifest:
    """The declaration; the run's id is made up of its time if it has none."""
    moment = datetime.now(UTC)
    made_up = f"train_{moment:%Y%m%dT%H%M%S}_{uuid.uuid4().hex[:6]}"
    try:
        return TrainingManifest(
            training_run_id=plan.training_run_id or made_up,
            created_at_utc=moment.isoformat(timespec="milliseconds"),
            rm_artifact_id=rm_artifact_id,
            search_session_id=session,
            rm_deploy_id=plan.rm_deploy_id,
            rm_endpoint=plan.rm_endpoint,
            dataset=plan.dataset,
            trainer=plan.trainer,
            execution=Execution(launcher="harness verl", host=platform.node()),
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{field}: {first['msg']}", got=first.get("input")) from error


def _ended(folder: RunFolder) -> Ended:
    path = folder.path / ENDED_NAME
    if not path.is_file():
        raise ArtifactError(
            "the run has not ended: nothing is known to record",
            where=str(path),
            fix="Run it with `harness verl run`, or record a result that you wrote.",
        )
    return Ended.model_validate_json(path.read_bytes())


def _failure(ended: Ended) -> Failure:
    message = ended.problem or f"the trainer ended with exit code {ended.exit_code}"
    return Failure(type="exit_code", message=message, stage="training")


def _failed_preflight(
    manifest: TrainingManifest, error: HarnessError, started: str
) -> TrainingResult:
    return TrainingResult(
        training_run_id=manifest.training_run_id,
        status="failed",
        started_at_utc=started,
        finished_at_utc=_now(),
        duration_seconds=0.0,
        trainer_code_version=manifest.trainer.code_version,
        failure=Failure(type=type(error).__name__, message=str(error), stage="preflight"),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
