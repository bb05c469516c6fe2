"""The artifact store: ``data/runs/<experiment>/<stage>/<digest>/``, published atomically, verified
on read.

Publish = build in a temporary sibling folder, fsync files and folder, rename. Each publication is
one line of ``publications.jsonl`` (recipe, inputs, run id, time): the last line says which
artifact is current. A *recipe* is all that decides a stage's result (code version, section
digests, input digests); the same recipe reuses what is published, and a shared stage takes what
another experiment published from it: a copy by hard links, whose manifest names where it was made.
One lock for each recipe makes two runs share the work instead of racing for it; the kernel drops
the lock of a killed process, and what it left half built is swept by the next builder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reward_harness.artifact import Artifact as Artifact
from reward_harness.durable import force_to_disk, link_or_copy, write_atomically, write_durably
from reward_harness.errors import ArtifactError
from reward_harness.hashing import canonical_json, digest_file
from reward_harness.locking import file_lock
from reward_harness.manifest import (
    MANIFEST_NAME,
    TAKEN_FROM,
    Code,
    Environment,
    Manifest,
    Outcome,
    Output,
    Reproduce,
    outputs_digest,
)
from reward_harness.recipe import Publication as Publication
from reward_harness.recipe import Recipe as Recipe
from reward_harness.recipe import reproduce_argv

GATES_NAME = "gates.json"
PUBLICATIONS_NAME = "publications.jsonl"
SPECS_FOLDER = "specs"
SHARED_LOCKS = ".locks"


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """Artifacts below ``root`` (the workspace's ``runs`` folder)."""

    root: Path

    def stage_folder(self, experiment: str, stage: str) -> Path:
        return self.root / experiment / stage

    def publications(self, experiment: str, stage: str) -> list[Publication]:
        """All publications of a stage, oldest first; a torn last line (a crash) is left out."""
        path = self.stage_folder(experiment, stage) / PUBLICATIONS_NAME
        if not path.is_file():
            return []
        found: list[Publication] = []
        for line in path.read_bytes().split(b"\n"):
            try:
                found.append(Publication.model_validate_json(line))
            except ValidationError:
                continue
        return found

    def current(self, experiment: str, stage: str) -> Artifact | None:
        """The newest publication whose artifact is there, or None."""
        return self._newest(experiment, stage, lambda publication: True)

    def load(self, experiment: str, stage: str, digest: str) -> Artifact:
        """The artifact with this digest (or its unique prefix); ``ArtifactError`` if it is not
        published.
        """
        matches = [p for p in self.publications(experiment, stage) if p.digest.startswith(digest)]
        if len({p.digest for p in matches}) != 1:
            raise ArtifactError(
                "no such artifact" if not matches else "more than one artifact has this prefix",
                where=f"{experiment}/{stage}",
                got=digest,
                fix=f"`harness experiment show {experiment}` lists what is published.",
            )
        return self._open(experiment, stage, matches[-1])

    def find(self, recipe: Recipe) -> Artifact | None:
        """What was published from an equal recipe, newest first, or None."""
        return self._newest(
            recipe.experiment,
            recipe.stage,
            lambda made: made.recipe == recipe.digest and recipe.again in ("", made.again),
        )

    def find_any(self, recipe: Recipe, *, shared: bool) -> Artifact | None:
        """What a plain run of this recipe would reuse; ``shared`` as in ``produce``."""
        return self.find(recipe) or (self.find_elsewhere(recipe) if shared else None)

    def find_elsewhere(self, recipe: Recipe) -> Artifact | None:
        """What another experiment published from an equal recipe, or None; no repetition, which is
        its own affair, and nothing whose files have changed.
        """

        def first(made: Publication) -> bool:
            return made.recipe == recipe.digest and not made.again

        for path in sorted(self.root.glob(f"[!.]*/{recipe.stage}/{PUBLICATIONS_NAME}")):
            experiment = path.parents[1].name
            if experiment == recipe.experiment:
                continue
            try:
                known = recipe.digest.encode() in path.read_bytes()
                found = self._newest(experiment, recipe.stage, first) if known else None
                if found is not None:
                    found.verify()
                    return found
            except (ArtifactError, OSError):
                continue  # who reads it there will hear of it
        return None

    def _newest(
        self, experiment: str, stage: str, wanted: Callable[[Publication], bool]
    ) -> Artifact | None:
        """The newest wanted publication whose artifact is there, or None."""
        for publication in reversed(self.publications(experiment, stage)):
            path = self._manifest_path(experiment, stage, publication.digest)
            if wanted(publication) and path.is_file():
                return self._open(experiment, stage, publication)
        return None

    def produce(
        self,
        recipe: Recipe,
        build: Callable[[Path], Outcome],
        *,
        snapshot: Mapping[str, Any],
        environment: Callable[[str], Environment],
        code: Code,
        run_id: str,
        shared: bool = False,
    ) -> tuple[Artifact, bool]:
        """Reuse what an equal recipe published, else build and publish; returns (artifact, reused).

        ``build`` writes files into the folder it is given. Whatever it raises leaves nothing
        published. ``shared``: what another experiment published from an equal recipe will do too.
        """
        folder = self.stage_folder(recipe.experiment, recipe.stage)
        folder.mkdir(parents=True, exist_ok=True)
        locks = self.root / SHARED_LOCKS if shared else folder
        with file_lock(locks / f".lock-{recipe.digest[:16]}"):
            if (known := self.find(recipe)) is not None:
                known.verify()
                return self._made_current(known, recipe, run_id), True
            elsewhere = self.find_elsewhere(recipe) if shared and not recipe.again else None
            building = folder / f".building-{recipe.digest[:16]}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            try:
                if elsewhere is None:
                    outcome = build(building)
                    device = environment(outcome.device)
                    manifest = self._seal(building, recipe, outcome, device, code)
                else:
                    manifest = self._take(elsewhere, building, recipe)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            self._save_spec(recipe, snapshot)
            self._publish(building, folder / manifest.digest)
            publication = self._append(recipe, manifest.digest, run_id, manifest.notes)
        artifact = self._open(recipe.experiment, recipe.stage, publication)
        return artifact, elsewhere is not None

    def spec_snapshot(self, experiment: str, spec_digest: str) -> dict[str, Any]:
        """The experiment that an artifact was made with, by its manifest's ``spec_digest``.

        Sections that the stage does not read may have been different; they do not matter to it.
        """
        path = self.root / experiment / SPECS_FOLDER / f"{spec_digest}.json"
        if not path.is_file():
            raise ArtifactError("spec snapshot is missing", where=str(path))
        return json.loads(path.read_bytes())

    def _manifest_path(self, experiment: str, stage: str, digest: str) -> Path:
        return self.stage_folder(experiment, stage) / digest / MANIFEST_NAME

    def _open(self, experiment: str, stage: str, publication: Publication) -> Artifact:
        path = self._manifest_path(experiment, stage, publication.digest)
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                "manifest cannot be read",
                where=str(path),
                got=str(error).splitlines()[0],
                fix="Delete the artifact's folder and run the stage again.",
            ) from error
        if outputs_digest(manifest.outputs) != publication.digest:
            raise ArtifactError(
                "manifest does not match its digest",
                where=str(path),
                fix="Delete the artifact's folder and run the stage again.",
            )
        return Artifact(path.parent, manifest, publication)

    def _made_current(self, artifact: Artifact, recipe: Recipe, run_id: str) -> Artifact:
        latest = self.publications(recipe.experiment, recipe.stage)[-1]
        if latest.recipe == recipe.digest and latest.digest == artifact.digest:
            return artifact
        made = artifact.publication
        recipe = replace(recipe, again=made.again)
        publication = self._append(recipe, artifact.digest, run_id, made.notes)
        return Artifact(artifact.path, artifact.manifest, publication)

    def _seal(
        self, folder: Path, recipe: Recipe, outcome: Outcome, environment: Environment, code: Code
    ) -> Manifest:
        """Write ``gates.json`` and the manifest, the latter last, and force all of it to disk."""
        if outcome.gates:
            gates = {name: gate.model_dump() for name, gate in outcome.gates.items()}
            (folder / GATES_NAME).write_bytes(canonical_json(gates))
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if not files:
            raise ArtifactError(
                "the stage wrote no files", where=f"{recipe.experiment}/{recipe.stage}"
            )
        outputs = [
            Output(
                path=p.relative_to(folder).as_posix(), sha256=digest_file(p), bytes=p.stat().st_size
            )
            for p in files
        ]
        manifest = Manifest(
            stage=recipe.stage,
            experiment=recipe.experiment,
            digest=outputs_digest(outputs),
            created_at=_now(),
            inputs=dict(recipe.inputs),
            spec_digest=recipe.spec_digest,
            code=code,
            environment=environment,
            outputs=outputs,
            metrics=dict(outcome.metrics),
            gates=dict(outcome.gates),
            cost=outcome.cost,
            reproduce=Reproduce(argv=reproduce_argv(recipe)),
            notes=dict(outcome.notes),
        )
        for path in files:
            force_to_disk(path)
        _write_manifest(folder, manifest)
        return manifest

    def _take(self, source: Artifact, folder: Path, recipe: Recipe) -> Manifest:
        """Fill ``folder`` with links to another experiment's files; what they cost is told as it
        was, and where they were made under ``TAKEN_FROM``.
        """
        for output in source.manifest.outputs:
            target = folder / output.path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source.path / output.path, target)
        made_in = source.manifest.notes.get(TAKEN_FROM, source.manifest.artifact_id)
        code = source.manifest.code.model_copy(update={"version": recipe.code_version})
        manifest = source.manifest.model_copy(
            update={
                "experiment": recipe.experiment,
                "inputs": dict(recipe.inputs),
                "spec_digest": recipe.spec_digest,
                "code": code,
                "reproduce": Reproduce(argv=reproduce_argv(recipe)),
                "notes": {**source.manifest.notes, TAKEN_FROM: made_in},
            }
        )
        _write_manifest(folder, manifest)
        return manifest

    def _publish(self, building: Path, final: Path) -> None:
        if (final / MANIFEST_NAME).is_file():
            shutil.rmtree(building)  # the same content was published before
            return
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
        force_to_disk(final.parent)

    def _append(
        self, recipe: Recipe, digest: str, run_id: str, notes: Mapping[str, Any]
    ) -> Publication:
        publication = Publication(
            digest=digest,
            recipe=recipe.digest,
            inputs=dict(recipe.inputs),
            spec_digest=recipe.spec_digest,
            run_id=run_id,
            published_at=_now(),
            again=recipe.again,
            notes=dict(notes),
        )
        folder = self.stage_folder(recipe.experiment, recipe.stage)
        with (
            file_lock(folder / ".lock-publications"),
            (folder / PUBLICATIONS_NAME).open("ab+") as stream,
        ):
            stream.seek(0, os.SEEK_END)
            torn = stream.tell() > 0 and _last_byte(stream.fileno(), stream.tell()) != b"\n"
            stream.write((b"\n" if torn else b"") + publication.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        return publication

    def _save_spec(self, recipe: Recipe, snapshot: Mapping[str, Any]) -> None:
        path = self.root / recipe.experiment / SPECS_FOLDER / f"{recipe.spec_digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_atomically(path, canonical_json(dict(snapshot)))


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    write_durably(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())
    force_to_disk(folder)


def _last_byte(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, 1, size - 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
