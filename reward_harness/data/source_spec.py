"""The format of ``data/sources/<name>.yaml``: where records come from, and what they are.

A source has a ``reader`` and places where its file may be found (``file`` in the mirror, ``path``
in the project, ``hub``), or it is ``generated``. docs/data.md explains every field.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from reward_harness.data.hub import HubFile
from reward_harness.data.readers import READERS
from reward_harness.errors import DataError
from reward_harness.manifest import Frozen
from reward_harness.spec import read_yaml, validation_error
from reward_harness.workspace import Workspace

SHA256 = re.compile(r"^[0-9a-f]{64}$")


class KnownInvalid(Frozen):
    """A row of the published file that is no valid record, and why."""

    line: int = Field(ge=1)
    reason: str = Field(min_length=3)


class Generated(Frozen):
    """A generator and its parameters."""

    generator: str
    params: dict[str, Any] = Field(default_factory=dict)


class SourceSpec(Frozen):
    """One source file; see docs/data.md."""

    name: str
    description: str
    licence: str
    homepage: str | None = None
    reader: str | None = None
    file: str | None = Field(default=None, description="relative to HARNESS_DATA_MIRROR")
    path: str | None = Field(default=None, description="relative to the project")
    hub: HubFile | None = None
    generated: Generated | None = None
    fields: list[str] = Field(default_factory=list, description="fields of a published row")
    sha256: str | None = Field(default=None, description="of the records' canonical lines")
    known_invalid: list[KnownInvalid] = Field(default_factory=list[KnownInvalid])
    evaluation_only: bool = False

    @field_validator("reader")
    @classmethod
    def _reader_exists(cls, name: str | None) -> str | None:
        if name is not None and name not in READERS:
            raise ValueError(f"there is no such reader; there are: {', '.join(READERS)}")
        return name

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, digest: str | None) -> str | None:
        if digest is not None and not SHA256.match(digest):
            raise ValueError("64 lowercase hex digits")
        return digest

    @model_validator(mode="after")
    def _has_one_origin(self) -> SourceSpec:
        if (self.reader is None) == (self.generated is None):
            raise ValueError(
                "a source has either a `reader` or `generated`, not both and not neither"
            )
        if self.reader is not None and not (self.file or self.path or self.hub):
            raise ValueError("a source with a reader needs a `file`, a `path` or a `hub` entry")
        return self


def source_names(workspace: Workspace) -> list[str]:
    """Names of all source files, sorted."""
    return sorted(p.stem for p in workspace.sources.glob("*.yaml"))


def read_source(workspace: Workspace, name: str) -> SourceSpec:
    """The named source file.

    ``DataError`` if there is none, ``SpecError`` with file and line if it is not valid.
    """
    path = workspace.sources / f"{name}.yaml"
    if not path.is_file():
        raise DataError(
            f"no source {name!r}",
            where=str(workspace.sources),
            expected=f"one of: {', '.join(source_names(workspace)) or 'none yet'}",
            fix=f"Correct the name, or describe the source in {path}; see docs/data.md.",
        )
    try:
        return SourceSpec.model_validate({**read_yaml(path), "name": name})
    except ValidationError as error:
        raise validation_error(path, error) from error
