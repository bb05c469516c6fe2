"""Dataset sources: finding the records that ``data/sources/<name>.yaml`` pins, and checking them.

A source is looked for in the folder named by ``HARNESS_DATA_MIRROR``, then at its local ``path``,
then on the hub; a generated one needs no file. Wherever it is found, the records must have the
pinned ``sha256`` (of their canonical lines), so the place does not matter. Rows known to be invalid
are listed by line with a reason: they are left out and counted, any other invalid row is an error,
and so is a listed one that reads fine.

    >>> resolve(Workspace.discover(), "tour", RankedPrompt).records[0].prompt_id
    'explain-tides'
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from reward_harness.data.derive import Pairing, derive
from reward_harness.data.files import (
    json_document,
    json_lines,
    located,
    record_id,
    records_digest,
    refuse_repeated_id,
    validated,
)
from reward_harness.data.generators import GENERATORS
from reward_harness.data.hub import HubFile, HubUnavailable, download, load_rows
from reward_harness.data.readers import READERS
from reward_harness.data.readers.rows import Reader, Rows
from reward_harness.data.records import Record
from reward_harness.data.source_spec import Generated, SourceSpec, read_source
from reward_harness.errors import DataError, SpecError
from reward_harness.hashing import digest_file, digest_json
from reward_harness.workspace import Workspace

MIRROR_VARIABLE = "HARNESS_DATA_MIRROR"
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that was left out, as the source's file foresaw."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Resolved(Generic[R]):
    """The records of a source as one type.

    ``origin`` says where they were found, ``sha256`` what they are.
    """

    spec: SourceSpec
    records: list[R]
    left_out: tuple[LeftOut, ...]
    origin: Literal["mirror", "path", "hub", "generated"]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a source was found: a file, or rows that the hub's loader made."""

    origin: Literal["mirror", "path", "hub"]
    where: str
    rows: Rows
    fix: str = "Repair the row, or list it under known_invalid in the source's YAML."


def resolve(
    workspace: Workspace, name: str, wanted: type[R], *, pairs: Pairing = "all"
) -> Resolved[R]:
    """All records of a source as type ``wanted``, derived if the source has another type."""
    spec = read_source(workspace, name)
    if spec.generated is not None:
        return _generated(workspace, spec, spec.generated, wanted)
    reader = READERS[spec.reader or ""]
    found = _locate(workspace, spec, reader)
    records, left_out = _read(spec, reader, found)
    digest = records_digest(records)
    if spec.sha256 is not None and digest != spec.sha256:
        raise DataError(
            "records are not the ones that the source pins",
            where=found.where,
            got=f"sha256 {digest}",
            expected=f"{spec.sha256} ({workspace.sources / name}.yaml)",
            fix="Restore the file; if the change is meant, write the new sha256 into the YAML.",
        )
    return Resolved(spec, _as_wanted(records, wanted, pairs, spec), left_out, found.origin, digest)


def fingerprint(workspace: Workspace, name: str) -> str:
    """What decides a source's records, without reading them if they are pinned.

    Part of a dataset stage's recipe.
    """
    spec = read_source(workspace, name)
    decides: dict[str, Any] = spec.model_dump(
        mode="json", include={"reader", "generated", "sha256", "known_invalid", "licence"}
    )
    if spec.generated is not None:
        generator = GENERATORS.get(spec.generated.generator)
        decides["version"] = generator.version if generator else None
    elif spec.sha256 is None:
        file = next((p for _, p in _candidate_files(workspace, spec) if p.is_file()), None)
        decides["content"] = digest_file(file) if file else spec.model_dump(mode="json")["hub"]
    return digest_json(decides)


def _generated(
    workspace: Workspace, spec: SourceSpec, made: Generated, wanted: type[R]
) -> Resolved[R]:
    generator = GENERATORS.get(made.generator)
    where = f"{workspace.sources / spec.name}.yaml"
    if generator is None:
        raise SpecError(
            "no such generator",
            where=where,
            got=made.generator,
            expected=f"one of: {', '.join(GENERATORS)}",
        )
    params = validated(generator.params, made.params, f"{where}: generated.params")
    if wanted not in generator.makes:
        raise DataError(
            f"the generator makes no {wanted.__name__}",
            where=where,
            expected=", ".join(t.__name__ for t in generator.makes),
        )
    records: list[Any] = generator.makes[wanted](params)
    return Resolved(spec, records, (), "generated", records_digest(records))


def _candidate_files(
    workspace: Workspace, spec: SourceSpec
) -> list[tuple[Literal["mirror", "path"], Path]]:
    """Files where the source may lie, first choice first.

    ``DataError`` if the mirror's folder is not there.
    """
    places: list[tuple[Literal["mirror", "path"], Path]] = []
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror and not Path(mirror).is_dir():
        raise DataError(
            "the mirror's folder does not exist",
            where=MIRROR_VARIABLE,
            got=mirror,
            fix=f"Correct {MIRROR_VARIABLE} or unset it.",
        )
    if mirror and spec.file:
        places.append(("mirror", Path(mirror) / spec.file))
    if spec.path:
        places.append(("path", workspace.root / spec.path))
    return places


def _locate(workspace: Workspace, spec: SourceSpec, reader: Reader) -> _Found:
    places = _candidate_files(workspace, spec)
    tried: list[str] = []
    for origin, path in places:
        if path.is_file():
            return _Found(origin, str(path), _rows(path, reader))
        tried.append(f"{origin}: no file {path}")
    if spec.hub is not None:
        try:
            return _on_hub(spec.hub, reader)
        except HubUnavailable as error:
            tried.append(f"hub: {error}")
    if spec.file and not os.environ.get(MIRROR_VARIABLE):
        tried.insert(0, f"mirror: {MIRROR_VARIABLE} is not set")
    raise DataError(
        f"source {spec.name!r} is nowhere to be found ({'; '.join(tried)})",
        where=f"{workspace.sources / spec.name}.yaml",
        fix=_advice(spec),
    )


def _advice(spec: SourceSpec) -> str:
    ways: list[str] = []
    if spec.file:
        ways.append(f"point {MIRROR_VARIABLE} at a folder that holds {spec.file}")
    if spec.path:
        ways.append(f"put the file at {spec.path}")
    if spec.hub:
        ways.append("allow access to the hub (unset HF_HUB_OFFLINE)")
    text = ", or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def _rows(path: Path, reader: Reader) -> Rows:
    return json_document(path, reader.top_level) if reader.top_level else json_lines(path)


def _on_hub(entry: HubFile, reader: Reader) -> _Found:
    if entry.file:
        path = download(entry)
        return _Found("hub", f"{entry.id}@{entry.revision[:12]}/{entry.file}", _rows(path, reader))
    where = f"{entry.id}@{entry.revision[:12]} ({entry.config or 'default'}, {entry.split})"
    return _Found("hub", where, load_rows(entry))


def _read(spec: SourceSpec, reader: Reader, found: _Found) -> tuple[list[Any], tuple[LeftOut, ...]]:
    """All valid records, and the foreseen invalid rows; the first surprise is a ``DataError``."""
    known = {entry.line: entry.reason for entry in spec.known_invalid}
    records: list[Record] = []
    left_out: list[LeftOut] = []
    lines: dict[str, int] = {}
    for line, read in reader.read(found.rows, spec.name):
        where = (
            f"{found.where}:{line}" if reader.top_level is None else f"{found.where}: item {line}"
        )
        if isinstance(read, DataError):
            if line not in known:
                raise located(read, where, found.fix)
            left_out.append(LeftOut(line, known.pop(line)))
            continue
        if line in known:
            raise _unexpectedly_valid(spec, where, known[line])
        refuse_repeated_id(record_id(read), line, lines, where)
        records.append(read)
    if known:
        raise DataError(
            "rows listed under known_invalid are not in the file",
            where=found.where,
            got=f"lines {sorted(known)}",
            fix=f"Take them out of data/sources/{spec.name}.yaml, or restore the file.",
        )
    if not records:
        raise DataError("no records", where=found.where, expected="at least one")
    return records, tuple(left_out)


def _unexpectedly_valid(spec: SourceSpec, where: str, reason: str) -> DataError:
    return DataError(
        "row is listed under known_invalid, but there is nothing wrong with it",
        where=where,
        expected=f"the listed problem: {reason}",
        fix=f"Take the line out of data/sources/{spec.name}.yaml, or restore the file.",
    )


def _as_wanted(records: list[Any], wanted: type[R], pairs: Pairing, spec: SourceSpec) -> list[R]:
    try:
        return derive(records, wanted, pairs=pairs)
    except DataError as error:
        raise located(
            error, f"source {spec.name!r}" + (f", {error.where}" if error.where else "")
        ) from error
