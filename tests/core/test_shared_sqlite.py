"""A SQLite file that several processes open at once."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from reward_harness.shared_sqlite import open_shared


def open_together(path: str, barrier, out) -> None:
    barrier.wait()
    try:
        out.put(open_shared(Path(path)).execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error as error:
        out.put(str(error))


def test_processes_that_open_a_new_file_together_all_get_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(40):  # without the wait, one round in eight fails
        barrier, out = context.Barrier(6), context.Queue()
        named = (str(tmp_path / f"{number}.sqlite"), barrier, out)
        workers = [context.Process(target=open_together, args=named) for _ in range(6)]
        for worker in workers:
            worker.start()
        assert [out.get(timeout=60) for _ in workers] == ["wal"] * 6
        for worker in workers:
            worker.join(10)


def test_what_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("these are my notes, and no database\n" * 40)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_shared(path)
