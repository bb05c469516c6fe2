"""The verdict store: every answer that was paid for, kept by content, shared by processes.

SQLite in WAL mode. An answer is committed the moment it arrives (no batching: a commit without
fsync costs some tens of microseconds), so a killed process loses only requests that were still
unanswered. The first answer to a question stays: ``put`` returns what the store now holds.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_harness.errors import LLMError
from reward_harness.hashing import digest_json
from reward_harness.shared_sqlite import open_shared

STORE_NAME = "verdicts.sqlite"
BATCH = 500

SCHEMA_VERSION = 1
"""``PRAGMA user_version`` of a store with its summary; a store without one is 0."""

_VERDICTS = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY, role TEXT NOT NULL, model TEXT NOT NULL, value TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID
"""
_SUMMARY = (
    """CREATE TABLE IF NOT EXISTS summary (
    role TEXT NOT NULL, model TEXT NOT NULL, verdicts INTEGER NOT NULL, oldest REAL NOT NULL,
    newest REAL NOT NULL, PRIMARY KEY (role, model)
) WITHOUT ROWID""",
    "DELETE FROM summary",
    """INSERT INTO summary SELECT role, model, COUNT(*), MIN(created), MAX(created)
FROM verdicts GROUP BY role, model""",
    """CREATE TRIGGER IF NOT EXISTS verdict_added AFTER INSERT ON verdicts BEGIN
    INSERT OR IGNORE INTO summary VALUES (NEW.role, NEW.model, 0, NEW.created, NEW.created);
    UPDATE summary SET verdicts = verdicts + 1, oldest = MIN(oldest, NEW.created),
        newest = MAX(newest, NEW.created) WHERE role = NEW.role AND model = NEW.model;
END""",
    """CREATE TRIGGER IF NOT EXISTS verdict_removed AFTER DELETE ON verdicts BEGIN
    UPDATE summary SET verdicts = verdicts - 1 WHERE role = OLD.role AND model = OLD.model;
END""",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)
"""Counts by role and model, kept by triggers whoever writes; filled once for an older store."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who is asked and how: what every key of one role has in common."""

    role: str
    model: str
    template: str
    sampling: str

    def key(self, *parts: object) -> str:
        """The key of one question to this asker."""
        return digest_json([self.role, self.model, self.template, self.sampling, *parts])


class VerdictStore:
    """Answers by key, at ``path`` or in memory; safe for several threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._db = open_shared(path)
            self._make_tables()
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from error

    def _make_tables(self) -> None:
        if self._db.execute("PRAGMA user_version").fetchone()[0] >= SCHEMA_VERSION:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if self._db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                for statement in (_VERDICTS, *_SUMMARY):
                    self._db.execute(statement)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """The known answers among ``keys``."""
        found: dict[str, Any] = {}
        with self._lock:
            for start in range(0, len(keys), BATCH):
                part = keys[start : start + BATCH]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(
                    f"SELECT key, value FROM verdicts WHERE key IN ({marks})", part
                )
                found.update((key, json.loads(value)) for key, value in rows)
        return found

    def put(self, asker: Asker, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Keep ``answers`` in one transaction; returns what is stored, the first answer winning."""
        now = time.time()
        rows = [(k, asker.role, asker.model, json.dumps(v), now) for k, v in answers.items()]
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany("INSERT OR IGNORE INTO verdicts VALUES (?,?,?,?,?)", rows)
                    self._db.execute("COMMIT")
                except sqlite3.Error:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        return self.get_many(list(answers))

    def counts(self) -> dict[str, int]:
        """Number of verdicts by role."""
        with self._lock:
            rows = self._db.execute(
                "SELECT role, SUM(verdicts) FROM summary WHERE verdicts > 0 GROUP BY role"
            )
            return {str(role): int(n) for role, n in rows}

    def close(self) -> None:
        """Close the connection; what was put is safe without it."""
        with self._lock:
            self._db.close()


def _unusable(path: Path | None, error: Exception) -> LLMError:
    return LLMError(
        "the verdict store cannot be used",
        where=str(path),
        got=str(error),
        fix="Check that its disk is writable and not full; what was stored before is kept.",
    )
