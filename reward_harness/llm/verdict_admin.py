"""Looking after a verdict store: what is in it, taking old verdicts out, writing them to a file.

Every function opens the store for itself, beside searches that use it. Counts come from the
summary table that the store keeps by triggers (``verdicts``), so that they cost nothing even for
millions of verdicts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_harness.errors import DataError, LLMError
from reward_harness.llm.verdicts import VerdictStore
from reward_harness.shared_sqlite import BUSY_TIMEOUT_S

DAY_S = 86_400.0
PRUNE_BATCH = 20_000
"""Verdicts deleted in one transaction, so that a running search waits a moment, not a minute."""


@dataclass(frozen=True, slots=True)
class Group:
    """The verdicts of one role by one model; times are Unix seconds."""

    role: str
    model: str
    verdicts: int
    oldest: float
    newest: float


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds; ``size_bytes`` is that of its files, write-ahead log included."""

    groups: tuple[Group, ...]
    size_bytes: int

    @property
    def verdicts(self) -> int:
        """Number of verdicts in all."""
        return sum(group.verdicts for group in self.groups)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which verdicts; what is None does not restrict."""

    role: str | None = None
    model: str | None = None
    older_than_days: float | None = None

    def where(self) -> tuple[str, list[str | float]]:
        """A SQL condition and its values."""
        limit = None if self.older_than_days is None else time.time() - self.older_than_days * DAY_S
        parts = (("role = ?", self.role), ("model = ?", self.model), ("created < ?", limit))
        chosen = [(text, value) for text, value in parts if value is not None]
        condition = " AND ".join(text for text, _ in chosen) or "TRUE"
        return condition, [value for _, value in chosen]


def stats(path: Path) -> Stats:
    """Counts by role and model, in milliseconds."""
    with _opened(path) as db:
        rows = db.execute(
            "SELECT role, model, verdicts, oldest, newest FROM summary WHERE verdicts > 0"
            " ORDER BY role, model"
        )
        groups = tuple(Group(*row) for row in rows)
    files = (path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
    return Stats(groups, sum(file.stat().st_size for file in files if file.exists()))


def count(path: Path, selection: Selection) -> int:
    """Number of verdicts that ``selection`` fits."""
    condition, values = selection.where()
    with _opened(path) as db:
        row = db.execute(f"SELECT COUNT(*) FROM verdicts WHERE {condition}", values).fetchone()
        return int(row[0])


def prune(path: Path, selection: Selection) -> int:
    """Delete what ``selection`` fits and give the space back; the number of verdicts deleted."""
    condition, values = selection.where()
    deleted = 0
    with _opened(path) as db:
        chosen = f"SELECT key FROM verdicts WHERE {condition} LIMIT {PRUNE_BATCH}"
        while gone := db.execute(f"DELETE FROM verdicts WHERE key IN ({chosen})", values).rowcount:
            deleted += gone
        _refresh_summary(db)
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return deleted


def export(path: Path, selection: Selection) -> Iterator[dict[str, Any]]:
    """Verdicts in the order of their keys: ``key, role, model, value, created``."""
    condition, values = selection.where()
    with _opened(path) as db:
        rows = db.execute(
            f"SELECT key, role, model, value, created FROM verdicts WHERE {condition} ORDER BY key",
            values,
        )
        for key, role, model, value, created in rows:
            yield {
                "key": key,
                "role": role,
                "model": model,
                "value": json.loads(value),
                "created": created,
            }


def _refresh_summary(db: sqlite3.Connection) -> None:
    """The triggers keep counts exact, but a deleted verdict may have been oldest or newest."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM summary")
    db.execute(
        "INSERT INTO summary SELECT role, model, COUNT(*), MIN(created), MAX(created)"
        " FROM verdicts GROUP BY role, model"
    )
    db.execute("COMMIT")


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    if not path.is_file():
        raise DataError("there is no verdict store yet", where=str(path))
    VerdictStore(path).close()  # an older store gets its summary first
    try:
        with closing(
            sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise LLMError(
            "the verdict store cannot be read", where=str(path), got=str(error)
        ) from error
