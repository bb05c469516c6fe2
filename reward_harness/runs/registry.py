"""The registry of external runs: ``data/training_runs/{manifests,results,evals}/<id>.json``.

Records are only ever added. The same content again is the same record; another content under an id
that is taken is refused, and nothing can be recorded of a run that was not declared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from reward_harness.durable import write_atomically
from reward_harness.errors import ArtifactError, DataError
from reward_harness.hashing import digest_json
from reward_harness.locking import file_lock
from reward_harness.manifest import Frozen
from reward_harness.runs.schemas import (
    EvalReport,
    Record,
    TrainingManifest,
    TrainingResult,
    seconds_of,
)
from reward_harness.workspace import Workspace

R = TypeVar("R", bound=Frozen)
FOLDERS: dict[type[Any], str] = {
    TrainingManifest: "manifests",
    TrainingResult: "results",
    EvalReport: "evals",
}


@dataclass(frozen=True, slots=True)
class Run:
    """All that is recorded of one run; reports oldest first."""

    manifest: TrainingManifest
    result: TrainingResult | None
    evals: tuple[EvalReport, ...]

    @property
    def status(self) -> str:
        """``planned`` until a result is recorded."""
        return self.result.status if self.result else "planned"


@dataclass(frozen=True, slots=True)
class Registry:
    """The external runs of a project."""

    workspace: Workspace

    @property
    def root(self) -> Path:
        return self.workspace.data / "training_runs"

    def record(self, record: Record) -> bool:
        """Add a record; False if it was there already. ``DataError`` if it contradicts another."""
        path = self._path(type(record), id_of(record))
        with file_lock(self.root / ".lock"):
            if path.is_file():
                return self._same_again(path, record)
            self._require_consistent(record)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = record.model_dump_json(indent=1, exclude_none=True)
            write_atomically(path, f"{text}\n".encode())
        return True

    def manifest(self, run_id: str) -> TrainingManifest:
        """The declaration of a run; ``ArtifactError`` if there is none."""
        found = self._find(TrainingManifest, run_id)
        if found is None:
            raise ArtifactError(
                "no such training run",
                where=str(self.root),
                got=run_id,
                fix="Record its manifest first: `harness runs record-manifest FILE`.",
            )
        return found

    def run(self, run_id: str) -> Run:
        """All that is recorded of a run; ``ArtifactError`` if it was not declared."""
        evals = [report for report in self.evals() if report.training_run_id == run_id]
        return Run(self.manifest(run_id), self._find(TrainingResult, run_id), tuple(evals))

    def runs(self) -> list[Run]:
        """All runs, oldest declaration first."""
        results = {result.training_run_id: result for result in self._all(TrainingResult)}
        evals = self.evals()
        manifests = sorted(self._all(TrainingManifest), key=lambda m: seconds_of(m.created_at_utc))
        return [
            Run(
                manifest,
                results.get(manifest.training_run_id),
                tuple(e for e in evals if e.training_run_id == manifest.training_run_id),
            )
            for manifest in manifests
        ]

    def evals(self) -> list[EvalReport]:
        """All evaluation reports, oldest first."""
        return sorted(self._all(EvalReport), key=lambda report: seconds_of(report.evaluated_at_utc))

    def _path(self, kind: type[Any], name: str) -> Path:
        return self.root / FOLDERS[kind] / f"{name}.json"

    def _find(self, kind: type[R], name: str) -> R | None:
        path = self._path(kind, name)
        return read_record(path, kind) if path.is_file() else None

    def _all(self, kind: type[R]) -> list[R]:
        folder = self.root / FOLDERS[kind]
        return [read_record(path, kind) for path in sorted(folder.glob("[!.]*.json"))]

    def _same_again(self, path: Path, record: Record) -> bool:
        known = read_record(path, type(record))
        if digest_json(known.model_dump(mode="json")) == digest_json(
            record.model_dump(mode="json")
        ):
            return False
        raise DataError(
            "this id is recorded with other content, and records are never changed",
            where=str(path),
            got=", ".join(sorted(_differing(known, record))),
            expected="the same content, or a new id",
        )

    def _require_consistent(self, record: Record) -> None:
        if isinstance(record, TrainingManifest):
            self._require_deployment(record)
            return
        manifest = self.manifest(record.training_run_id)
        if isinstance(record, TrainingResult):
            _require_code_version(record, manifest)
        elif record.comparison_baseline and not self._is_known(record.comparison_baseline):
            raise DataError(
                "comparison_baseline is not recorded",
                where=f"evaluation report {record.eval_run_id}",
                got=record.comparison_baseline,
                expected="the id of an evaluation report or a training run",
            )

    def _is_known(self, name: str) -> bool:
        return any(self._path(kind, name).is_file() for kind in (EvalReport, TrainingManifest))

    def _require_deployment(self, manifest: TrainingManifest) -> None:
        """A named deployment that is known here must be of the named reward."""
        from reward_harness.rm.deployments import Deployments

        if manifest.rm_deploy_id is None:
            return
        for path in self.workspace.deployments.glob(f"*/manifests/{manifest.rm_deploy_id}.json"):
            target: Any = path.parents[1].name
            deployed = Deployments(self.workspace, target).manifest(manifest.rm_deploy_id)
            if deployed.artifact_id != manifest.rm_artifact_id:
                raise DataError(
                    "rm_deploy_id is the deployment of another reward",
                    where=f"training manifest {manifest.training_run_id}",
                    got=manifest.rm_artifact_id,
                    expected=deployed.artifact_id,
                )


def id_of(record: Record) -> str:
    """The id under which a record is kept."""
    return record.eval_run_id if isinstance(record, EvalReport) else record.training_run_id


def read_record(path: Path, kind: type[R]) -> R:
    """A record from a JSON file; ``DataError`` names the file and the field."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        problem = f"field {field!r}: {first['msg']}{more}" if field else f"{first['msg']}{more}"
        raise DataError(problem, where=str(path)) from error


def _require_code_version(result: TrainingResult, manifest: TrainingManifest) -> None:
    declared = manifest.trainer.code_version
    if result.trainer_code_version != declared and not result.code_version_override_reason:
        raise DataError(
            "trainer_code_version is not the one that was declared",
            where=f"result of {result.training_run_id}",
            got=result.trainer_code_version,
            expected=declared,
            fix="If the code was changed for this run, say why in code_version_override_reason.",
        )


def _differing(known: Record, record: Record) -> set[str]:
    first, second = (json.loads(side.model_dump_json()) for side in (known, record))
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
