"""SQLite files that threads and processes share."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

BUSY_TIMEOUT_S = 30.0
POLL_S = 0.01


def open_shared(path: Path | None) -> sqlite3.Connection:
    """A connection to ``path``, or to memory: write-ahead, every statement a transaction.

    Of processes that open a new file together one changes its mode; SQLite tells the others that
    it is locked without waiting its busy timeout, so they wait here. ``sqlite3.Error`` and
    ``OSError`` are the caller's.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path or ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(POLL_S)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
