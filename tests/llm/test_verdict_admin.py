"""The verdict store's counts, pruning, export, and processes that share it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reward_harness.cli.verdicts import app
from reward_harness.errors import DataError, SpecError
from reward_harness.llm.verdict_admin import DAY_S, Selection, count, export, prune, stats
from reward_harness.llm.verdicts import Asker, VerdictStore

OLD_SCHEMA = """CREATE TABLE verdicts (key TEXT PRIMARY KEY, role TEXT NOT NULL, model TEXT NOT NULL,
value TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID"""
WRITER = """
import sys
from pathlib import Path
from reward_harness.llm.verdicts import Asker, VerdictStore
me = int(sys.argv[2])
for i in range(300):
    if i % 50 == 0:
        store = VerdictStore(Path(sys.argv[1]))
    asker = Asker("judge", "m", "t", "s")
    kept = store.put(asker, {f"shared{i}": me, f"own{me}-{i}": i})
    assert kept[f"own{me}-{i}"] == i and kept == store.get_many(list(kept))
"""


@pytest.fixture
def store(tmp_path) -> Path:
    path = tmp_path / "verdicts.sqlite"
    with VerdictStoreAt(path) as opened:
        opened.put(Asker("judge", "m", "t", "s"), {"a": 1, "b": -1})
        opened.put(Asker("verifier", "m", "t", "s"), {"c": 0.5})
        opened.put(Asker("verifier", "n", "t", "s"), {"d": None})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE verdicts SET created = created - ? WHERE key = 'a'", [10 * DAY_S])
    return path


class VerdictStoreAt:
    def __init__(self, path: Path) -> None:
        self._store = VerdictStore(path)

    def __enter__(self) -> VerdictStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def grouped(path: Path) -> dict[tuple[str, str], int]:
    return {(g.role, g.model): g.verdicts for g in stats(path).groups}


def test_stats_count_by_role_and_model(store):
    assert grouped(store) == {("judge", "m"): 2, ("verifier", "m"): 1, ("verifier", "n"): 1}
    assert stats(store).verdicts == 4
    assert stats(store).size_bytes >= store.stat().st_size > 0


def test_a_repeated_put_is_not_counted_again(store):
    with VerdictStoreAt(store) as opened:
        opened.put(Asker("judge", "m", "t", "s"), {"a": 0, "e": 1})
        assert opened.counts() == {"judge": 3, "verifier": 2}
    assert grouped(store)["judge", "m"] == 3


def test_a_store_without_summary_gets_one(tmp_path):
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(OLD_SCHEMA)
        rows = [(f"k{i}", "judge", f"m{i % 2}", "1", 100.0 + i) for i in range(10)]
        db.executemany("INSERT INTO verdicts VALUES (?,?,?,?,?)", rows)
    assert grouped(path) == {("judge", "m0"): 5, ("judge", "m1"): 5}
    assert [(g.oldest, g.newest) for g in stats(path).groups] == [(100.0, 108.0), (101.0, 109.0)]
    with VerdictStoreAt(path) as opened:
        opened.put(Asker("judge", "m0", "t", "s"), {"new": 1})
    assert grouped(path)["judge", "m0"] == 6


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (
            Selection(older_than_days=5),
            {("judge", "m"): 1, ("verifier", "m"): 1, ("verifier", "n"): 1},
        ),
        (Selection(role="verifier"), {("judge", "m"): 2}),
        (Selection(model="m"), {("verifier", "n"): 1}),
        (
            Selection(role="judge", model="n"),
            {("judge", "m"): 2, ("verifier", "m"): 1, ("verifier", "n"): 1},
        ),
    ],
)
def test_prune_takes_exactly_what_was_chosen(store, selection, left):
    chosen = count(store, selection)
    assert prune(store, selection) == chosen == 4 - sum(left.values())
    assert grouped(store) == left


def test_prune_corrects_the_oldest_and_gives_space_back(store):
    with VerdictStoreAt(store) as opened:
        opened.put(Asker("judge", "big", "t", "s"), {f"x{i}": "y" * 1000 for i in range(2000)})
    before = stats(store).size_bytes
    prune(store, Selection(model="big"))
    prune(store, Selection(older_than_days=5))
    assert stats(store).size_bytes < before / 10
    assert min(g.oldest for g in stats(store).groups) > time.time() - DAY_S


def test_export_gives_every_verdict_once_in_order(store):
    rows = list(export(store, Selection()))
    assert [(r["key"], r["value"]) for r in rows] == [("a", 1), ("b", -1), ("c", 0.5), ("d", None)]
    assert [r["key"] for r in export(store, Selection(role="judge"))] == ["a", "b"]


def test_no_store_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="no verdict store yet"):
        stats(tmp_path / "none.sqlite")


def test_the_command(store, tmp_path):
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            app, [*arguments, "--store", str(store)], catch_exceptions=False
        )
        assert result.exit_code == 0
        return result.stdout

    told = json.loads(run("stats", "--json"))
    assert told["verdicts"] == 4
    assert told["groups"][0]["role"] == "judge"
    assert "verifier" in run("stats")
    assert "2 verdicts would be deleted. Add --yes" in run("prune", "--role", "judge")
    assert "2 verdicts would be deleted." in run("prune", "--role", "judge", "--dry-run", "--yes")
    assert stats(store).verdicts == 4
    assert "deleted 2 verdicts" in run("prune", "--role", "judge", "--yes")
    lines = run("export").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["c", "d"]
    run("export", "--model", "n", "-o", str(tmp_path / "out.jsonl"))
    assert json.loads((tmp_path / "out.jsonl").read_text())["value"] is None
    with pytest.raises(SpecError, match="nothing chosen"):
        run("prune", "--yes")


def test_processes_share_one_store_from_its_very_first_moment(tmp_path):
    path = tmp_path / "verdicts.sqlite"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)], stderr=subprocess.PIPE
        )
        for number in (1, 2)
    ]
    problems = [writer.communicate(timeout=60)[1].decode() for writer in writers]
    assert problems == ["", ""]
    assert grouped(path) == {("judge", "m"): 900}
    assert count(path, Selection()) == 900


def test_pruning_beside_a_writer(tmp_path):
    path = tmp_path / "verdicts.sqlite"
    VerdictStore(path).close()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "1"], stderr=subprocess.PIPE
    )
    while writer.poll() is None:
        prune(path, Selection(model="other"))
        time.sleep(0.02)
    assert writer.communicate()[1].decode() == ""
    assert stats(path).verdicts == 600
