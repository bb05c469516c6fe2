"""A published folder, verified on read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import ArtifactError
from reward_harness.hashing import digest_file
from reward_harness.manifest import Manifest, Output
from reward_harness.recipe import Publication


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published folder with its manifest and the publication through which it was found."""

    path: Path
    manifest: Manifest
    publication: Publication

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Path of one output, after its sha256 was checked; ``ArtifactError`` if it differs."""
        listed = next((o for o in self.manifest.outputs if o.path == name), None)
        if listed is None:
            have = ", ".join(sorted(o.path for o in self.manifest.outputs)[:12])
            raise ArtifactError(
                f"no output {name!r}", where=self.manifest.artifact_id, expected=have
            )
        _verify(self.path / name, listed, self.manifest.artifact_id)
        return self.path / name

    def folder(self, name: str) -> Path:
        """Path of a folder of outputs, after every file in it was checked."""
        for output in self.manifest.outputs:
            if output.path.startswith(f"{name}/"):
                _verify(self.path / output.path, output, self.manifest.artifact_id)
        return self.path / name

    def verify(self) -> None:
        """Check every output; ``ArtifactError`` for the first that is missing or changed."""
        for output in self.manifest.outputs:
            _verify(self.path / output.path, output, self.manifest.artifact_id)


def _verify(path: Path, output: Output, artifact_id: str) -> None:
    advice = "Restore the file, or delete the artifact's folder and run the stage again."
    if not path.is_file():
        raise ArtifactError("file is missing", where=f"{artifact_id}/{output.path}", fix=advice)
    found = digest_file(path)
    if found != output.sha256:
        raise ArtifactError(
            "file does not match its digest",
            where=f"{artifact_id}/{output.path}",
            got=found[:16],
            expected=output.sha256[:16],
            fix=advice,
        )
