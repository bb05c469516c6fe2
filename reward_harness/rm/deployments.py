"""Deployments: which artifact a target serves, switched by one atomic rename.

``data/deployments/<target>/`` holds ``manifests/<deploy_id>.json`` (one each, never changed),
``current.json`` (the pointer: the id of the manifest in force) and ``history.jsonl``. A lock
serialises deployers; the kernel frees that of a killed one. A deployer whose target was switched
while it verified its artifact is refused: it decided on what is no longer in force. A manifest is
durable before the pointer names it, so that a crash at any moment leaves the old or the new
deployment.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from reward_harness.durable import write_atomically
from reward_harness.errors import ArtifactError, GateRejected, SpecError
from reward_harness.locking import file_lock
from reward_harness.manifest import Frozen
from reward_harness.rm.artifact import gates_of, read_artifact, verified_digest
from reward_harness.workspace import Workspace

Target = Literal["dev", "staging", "prod"]
TARGETS: tuple[Target, ...] = ("dev", "staging", "prod")


class DeploymentManifest(Frozen):
    """One deployment; ``artifact_path`` is relative to the project where it lies below it."""

    deploy_id: str
    deployed_at_utc: str
    artifact_id: str
    artifact_digest: str
    artifact_path: str
    deployed_by: str
    deployment_target: Target
    previous_artifact_id: str | None
    previous_deploy_id: str | None
    rollback_policy: Literal["previous_artifact"] = "previous_artifact"
    source_session_id: str | None
    dataset_hash: str | None
    config_hash: str | None


class Pointer(Frozen):
    """The deployment in force."""

    deploy_id: str


class Event(Frozen):
    """One line of ``history.jsonl``; ``before`` is the deployment that was in force until then."""

    at: str
    action: Literal["deploy", "rollback"]
    deploy_id: str
    by: str
    before: str | None = None


class DeploymentConflict(ArtifactError):
    """Somebody else switched the target between this deployer's look at it and its own turn."""


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments of one target."""

    workspace: Workspace
    target: Target

    @property
    def folder(self) -> Path:
        return self.workspace.deployments / self.target

    def current(self) -> DeploymentManifest | None:
        """The deployment in force, or None before the first."""
        path = self.folder / "current.json"
        try:
            pointer = Pointer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ArtifactError("deployment pointer cannot be read", where=str(path)) from error
        return self.manifest(pointer.deploy_id)

    def manifest(self, deploy_id: str) -> DeploymentManifest:
        """The manifest of one deployment; ``ArtifactError`` if it is not there."""
        path = self._manifest_path(deploy_id)
        try:
            return DeploymentManifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError("deployment manifest cannot be read", where=str(path)) from error

    def artifact_path(self, manifest: DeploymentManifest) -> Path:
        """Where the deployed artifact lies."""
        return self.workspace.root / manifest.artifact_path

    def deploy(self, artifact: Path, deployed_by: str | None = None) -> DeploymentManifest:
        """Verify the artifact and its gates, record the deployment, switch the pointer.

        The artifact that is in force already is not deployed again. ``GateRejected`` if a gate bars
        it, ``DeploymentConflict`` if another deployer came first.
        """
        seen = self.current()
        described = read_artifact(artifact)
        digest = verified_digest(artifact, described)
        require_deployable(artifact, self.target)
        with file_lock(self.folder / ".lock"):
            before = self.current()
            if before is not None and before.artifact_digest == digest:
                return before
            if before is not None and before != seen:
                raise self._conflict(before)
            previous = self._previous(before, described.artifact_id)
            manifest = DeploymentManifest(
                deploy_id=uuid.uuid4().hex,
                deployed_at_utc=_now(),
                artifact_id=described.artifact_id,
                artifact_digest=digest,
                artifact_path=self._portable(artifact),
                deployed_by=deployed_by or _user(),
                deployment_target=self.target,
                previous_artifact_id=previous.artifact_id if previous else None,
                previous_deploy_id=previous.deploy_id if previous else None,
                source_session_id=described.source_session_id,
                dataset_hash=described.dataset_hash,
                config_hash=described.config_hash,
            )
            self._save(manifest)
            self._switch(manifest, "deploy", manifest.deployed_by, before)
        return manifest

    def rollback(self, by: str | None = None) -> DeploymentManifest:
        """Put the deployment before the current one in force again; ``ArtifactError`` if there is
        none.
        """
        with file_lock(self.folder / ".lock"):
            current = self.current()
            if current is None or current.previous_deploy_id is None:
                raise ArtifactError(
                    "nothing to roll back to",
                    where=f"deployments/{self.target}",
                    got="no deployment" if current is None else "only one deployment",
                )
            previous = self.manifest(current.previous_deploy_id)
            path = self.artifact_path(previous)
            verified_digest(path, read_artifact(path))
            self._switch(previous, "rollback", by or _user(), current)
        return previous

    def history(self) -> list[Event]:
        """Every switch, oldest first; a line that a crash tore is left out."""
        path = self.folder / "history.jsonl"
        found: list[Event] = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            with suppress(ValidationError):
                found.append(Event.model_validate_json(line))
        return found

    def withdrawn(self, artifact_digest: str) -> Event | None:
        """The rollback that took this very artifact out of force, if nothing was switched since."""
        current, last = self.current(), next(iter(reversed(self.history())), None)
        if last is None or last.action != "rollback" or last.before is None:
            return None
        if current is None or current.deploy_id != last.deploy_id:
            return None
        return last if self.manifest(last.before).artifact_digest == artifact_digest else None

    def _previous(
        self, before: DeploymentManifest | None, artifact_id: str
    ) -> DeploymentManifest | None:
        """What a rollback goes back to: never the same reward, measured again."""
        if before is None or before.artifact_id != artifact_id:
            return before
        return self.manifest(before.previous_deploy_id) if before.previous_deploy_id else None

    def _conflict(self, before: DeploymentManifest) -> DeploymentConflict:
        return DeploymentConflict(
            "another deployment came first",
            where=f"deployments/{self.target}",
            got=f"{before.artifact_id} in force since {before.deployed_at_utc},"
            f" by {before.deployed_by}",
            fix="Look at what is in force now; deploy again if yours is to replace it.",
        )

    def _save(self, manifest: DeploymentManifest) -> None:
        path = self._manifest_path(manifest.deploy_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, manifest.model_dump_json(indent=1).encode())

    def _switch(
        self,
        manifest: DeploymentManifest,
        action: Literal["deploy", "rollback"],
        by: str,
        before: DeploymentManifest | None,
    ) -> None:
        pointer = Pointer(deploy_id=manifest.deploy_id).model_dump_json().encode()
        write_atomically(self.folder / "current.json", pointer)
        event = Event(
            at=_now(),
            action=action,
            deploy_id=manifest.deploy_id,
            by=by,
            before=before.deploy_id if before else None,
        )
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(event.model_dump_json() + "\n")

    def _manifest_path(self, deploy_id: str) -> Path:
        return self.folder / "manifests" / f"{deploy_id}.json"

    def _portable(self, artifact: Path) -> str:
        resolved = artifact.resolve()
        root = self.workspace.root.resolve()
        return str(resolved.relative_to(root) if resolved.is_relative_to(root) else resolved)


def checked_target(name: str) -> Target:
    """``name`` as a target; ``SpecError`` if there is none of that name."""
    for target in TARGETS:
        if name == target:
            return target
    raise SpecError("no such deployment target", got=name, expected=" | ".join(TARGETS))


def require_deployable(artifact: Path, target: Target) -> None:
    """``GateRejected`` for a failed gate; prod also refuses unenforced failures and gates not
    run.
    """
    described = read_artifact(artifact)
    strict = target == "prod"
    gates = gates_of(artifact, described)
    if gates is None and strict:
        raise ArtifactError(
            "gates were not run, and target prod needs them",
            where=described.artifact_id,
            fix="Export it with --gates, or deploy the artifact of an experiment.",
        )
    for name, gate in (gates or {}).items():
        if not gate.passed and (gate.enforced or strict):
            raise GateRejected(
                name, value=gate.value, threshold=gate.threshold, artifact=described.artifact_id
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid-{os.getuid()}"
