"""The ledger: every publication, metric and input of a store in one DuckDB file, for questions over
all experiments.

It is derived: ``data/runs/.ledger/lineage.duckdb`` may be deleted at any time and is made again.
Opening it compares one fingerprint of all stage folders (two ``stat`` calls each) and reads only
those that changed. One writer at a time holds a lock, works on a copy and renames it over the old
file, so that readers are never kept out and a killed writer leaves the old ledger.

    with open_ledger(workspace) as ledger:
        ledger.rows("SELECT experiment, digest FROM publications WHERE current AND stage = ?", "x")
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb

from reward_harness.locking import file_lock
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.lineage.reading import Place, Row

FOLDER = ".ledger"
NAME = "lineage.duckdb"
PLACE = {"experiment": "VARCHAR", "stage": "VARCHAR"}
TABLES: Mapping[str, Mapping[str, str]] = {
    "marks": PLACE | {"mark": "VARCHAR"},
    "publications": PLACE
    | {
        "seq": "INTEGER",
        "digest": "VARCHAR",
        "published": "DOUBLE",
        "run_id": "VARCHAR",
        "benchmark": "VARCHAR",
        "newest_of_digest": "BOOLEAN",
        "current": "BOOLEAN",
    },
    "artifacts": PLACE
    | {
        "digest": "VARCHAR",
        "accepted": "BOOLEAN",
        "seconds": "DOUBLE",
        "llm_calls": "BIGINT",
        "usd": "DOUBLE",
    },
    "metrics": PLACE
    | {
        "digest": "VARCHAR",
        "name": "VARCHAR",
        "value": "DOUBLE",
        "ci_low": "DOUBLE",
        "ci_high": "DOUBLE",
        "n": "BIGINT",
        "direction": "VARCHAR",
    },
    "inputs": PLACE
    | {
        "seq": "INTEGER",
        "input_experiment": "VARCHAR",
        "input_stage": "VARCHAR",
        "input_digest": "VARCHAR",
    },
}
"""Tables and the types of their columns; ``published`` is in seconds since 1970."""
MEANING = "1"
"""Bumped by hand when the same columns mean something else."""
VERSION = hashlib.sha256(json.dumps([MEANING, TABLES]).encode()).hexdigest()
"""A ledger of another version is made again."""


class Ledger:
    """An open ledger, for reading."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of a query; ``?`` are filled in order."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def ledger_path(workspace: Workspace) -> Path:
    """Where the ledger of this project lies."""
    return workspace.runs / FOLDER / NAME


def open_ledger(workspace: Workspace, *, rebuild: bool = False) -> Ledger:
    """The ledger as the files are now; ``rebuild`` reads everything again."""
    path = ledger_path(workspace)
    marks = scan(workspace.runs)
    opened = None if rebuild else _open(path)
    if opened is not None and _fingerprint_in(opened) == _fingerprint(marks):
        return Ledger(opened)
    if opened is not None:
        opened.close()
    _refresh(workspace.runs, path, rebuild=rebuild)
    return Ledger(duckdb.connect(str(path), read_only=True))


def scan(runs: Path) -> dict[Place, str]:
    """The mark of each published stage: it changes with publications and deletions."""
    found: dict[Place, str] = {}
    if not runs.is_dir():
        return found
    for experiment in os.scandir(runs):
        if experiment.name.startswith(".") or not experiment.is_dir():
            continue
        place = os.open(experiment.path, os.O_RDONLY)  # names below it are looked up the sooner
        try:
            for stage in os.listdir(place):  # noqa: PTH208
                try:
                    lines = os.stat(f"{stage}/publications.jsonl", dir_fd=place)
                    folder = os.stat(stage, dir_fd=place)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                mark = f"{lines.st_mtime_ns}.{lines.st_size}.{folder.st_mtime_ns}"
                found[experiment.name, stage] = mark
        finally:
            os.close(place)
    return found


def _fingerprint(marks: Mapping[Place, str]) -> str:
    lines = sorted(f"{experiment}/{stage} {mark}" for (experiment, stage), mark in marks.items())
    return hashlib.sha256("\n".join([VERSION, *lines]).encode()).hexdigest()


def _open(path: Path) -> duckdb.DuckDBPyConnection | None:
    """The ledger's file for reading; None if there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        return duckdb.connect(str(path), read_only=True)
    except duckdb.Error:
        return None


def _fingerprint_in(connection: duckdb.DuckDBPyConnection) -> str | None:
    try:
        found = connection.execute("SELECT fingerprint FROM state").fetchone()
    except duckdb.Error:
        return None
    return found[0] if found else None


def _refresh(runs: Path, path: Path, *, rebuild: bool) -> None:
    """Bring the file up to date, as the only writer."""
    with file_lock(path.with_name(".lock")):
        for left in path.parent.glob(f".{NAME}.*"):
            left.unlink()
        marks = scan(runs)
        known = {} if rebuild else _marks_in(path)
        changed = {
            place for place in marks.keys() | known.keys() if marks.get(place) != known.get(place)
        }
        building = path.with_name(f".{NAME}.{os.getpid()}")
        if known:
            shutil.copyfile(path, building)
        with duckdb.connect(str(building)) as connection:
            if not known:
                _create(connection)
            _replace(connection, runs, changed, marks)
        building.replace(path)


def _marks_in(path: Path) -> dict[Place, str]:
    """The marks at the last refresh; none if the ledger cannot be built upon."""
    connection = _open(path)
    if connection is None:
        return {}
    try:
        (version,) = connection.execute("SELECT version FROM state").fetchall()[0]
        rows = connection.execute("SELECT experiment, stage, mark FROM marks").fetchall()
    except (duckdb.Error, IndexError):
        return {}
    finally:
        connection.close()
    return {(experiment, stage): mark for experiment, stage, mark in rows if version == VERSION}


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE state (version VARCHAR, fingerprint VARCHAR)")
    for table, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({_typed(columns)})")


def _replace(
    connection: duckdb.DuckDBPyConnection,
    runs: Path,
    changed: set[Place],
    marks: Mapping[Place, str],
) -> None:
    """Delete what is known of the changed stages and insert what they are now."""
    from reward_harness.lineage.reading import read_stage

    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    gone = [{"experiment": experiment, "stage": stage} for experiment, stage in changed]
    for place in sorted(marks.keys() & changed):
        rows["marks"].append({"experiment": place[0], "stage": place[1], "mark": marks[place]})
        for table, row in read_stage(runs, place):
            rows[table].append(row)
    connection.execute("BEGIN")
    connection.execute(f"CREATE TEMP TABLE gone ({_typed(PLACE)})")
    _insert(connection, "gone", PLACE, gone)
    for table, columns in TABLES.items():
        connection.execute(f"DELETE FROM {table} WHERE (experiment, stage) IN (FROM gone)")
        _insert(connection, table, columns, rows[table])
    connection.execute("DELETE FROM state")
    connection.execute("INSERT INTO state VALUES (?, ?)", [VERSION, _fingerprint(marks)])
    connection.execute("COMMIT")


def _typed(columns: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}" {kind}' for name, kind in columns.items())


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    columns: Mapping[str, str],
    rows: Iterable[Row],
) -> None:
    """Add rows through a file of JSON lines: a row at a time would take a millisecond each."""
    read = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
        stream.flush()
        source = f"read_json(?, format = 'newline_delimited', columns = {{{read}}})"
        connection.execute(f"INSERT INTO {table} SELECT * FROM {source}", [stream.name])
