"""``CachedRM``: scores kept on disk, found again by their content.

A score's key is the digest of the reward's identity (its artifact's digest, or that of all its
scores depend on) and of the conversation, so a changed reward never answers from the old one's
scores. Only scores are kept: what failed or had no opinion is asked again. The store is one sqlite
file; several processes may share it, the first to store a score wins, and all hand out that one.

    >>> rm = CachedRM(AutoRM.load("./my-reward-model"), "./rm_cache")
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_harness.errors import SpecError, StorageError
from reward_harness.hashing import digest_json
from reward_harness.rewards.base import (
    BaseRM,
    Conversation,
    Item,
    Scored,
    ScoreResult,
    finite,
    invalid,
)
from reward_harness.shared_sqlite import open_shared

STORE_NAME = "scores.sqlite"
LOOKUP = 500


class ScoreStore:
    """Scores by key in one sqlite file; safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._db = open_shared(path)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL NOT NULL, "
                "details TEXT NOT NULL) WITHOUT ROWID"
            )
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                "the score cache cannot be used", where=str(path), got=str(error)
            ) from error

    def get(self, keys: Sequence[str]) -> dict[str, Scored]:
        """The known scores among ``keys``."""
        found: dict[str, Scored] = {}
        with self._lock:
            for start in range(0, len(keys), LOOKUP):
                part = keys[start : start + LOOKUP]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(
                    f"SELECT key, value, details FROM scores WHERE key IN ({marks})", part
                )
                found.update((key, Scored(value, json.loads(told))) for key, value, told in rows)
        return found

    def put(self, scores: Mapping[str, Scored]) -> dict[str, Scored]:
        """Keep ``scores`` in one transaction; returns what is stored, the first one winning."""
        rows = [
            (key, scored.value, json.dumps(dict(scored.details))) for key, scored in scores.items()
        ]
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany("INSERT OR IGNORE INTO scores VALUES (?,?,?)", rows)
                finally:
                    self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(
                "a score cannot be kept", where=str(self.path), got=str(error)
            ) from error
        return self.get(list(scores))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


class CachedRM(BaseRM):
    """A reward whose scores survive the process.

    Args:
        rm: the reward.
        cache_dir: folder of the store.
        version: name of what the scores depend on, for a reward that cannot tell it itself (a
            class of your own); change it when the rule changes.

    ``SpecError`` for a reward that is not known by its content and has no ``version``.

    Attributes:
        hits, misses: conversations answered from the store, and those that were not.
    """

    def __init__(self, rm: BaseRM, cache_dir: Path | str, version: str | None = None) -> None:
        known = rm.identity() or (version and digest_json([type(rm).__name__, version]))
        if not known:
            raise SpecError(
                "this reward cannot be cached: nothing tells when its scores change",
                got=type(rm).__name__,
                expected="a reward loaded from an artifact or model, or version=",
                fix="Pass version='1' and change it with the rule; for a server, expect_digest=.",
            )
        self.rm, self._known = rm, known
        self._version, self._folder = version, Path(cache_dir)
        self.artifact_id, self.digest, self.pace = rm.artifact_id, rm.digest, rm.pace
        self.hits = self.misses = 0
        self._store: ScoreStore | None = None

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order."""
        return self.score_items([Item(conversation) for conversation in batch], batch_size)

    def score_items(self, items: Sequence[Item], batch_size: int = 32) -> list[ScoreResult]:
        """As ``score_batch_results``; equal items are asked once, and kept batch by batch."""
        results: list[ScoreResult | None] = [invalid(item.conversation) for item in items]
        identity = self.identity()
        keys = {
            number: _key(identity, items[number])
            for number, problem in enumerate(results)
            if problem is None
        }
        known: dict[str, ScoreResult] = dict(self._open().get(list(dict.fromkeys(keys.values()))))
        asked = {key: n for n, key in keys.items() if key not in known}
        self.hits += sum(key in known for key in keys.values())
        self.misses += sum(key not in known for key in keys.values())
        new = list(asked)
        for start in range(0, len(new), max(1, batch_size)):
            part = new[start : start + max(1, batch_size)]
            answers = self.rm.score_items([items[asked[key]] for key in part], batch_size)
            known |= self._kept(dict(zip(part, map(finite, answers), strict=True)))
        for number, key in keys.items():
            results[number] = known[key]
        return [result for result in results if result is not None]

    def score_steps(
        self, prompt: str | Conversation, response: str, step_delimiter: str = "\n\n"
    ) -> list[float]:
        """The reward's own step scores, kept as well."""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        key = digest_json([self.identity(), [dict(t) for t in turns], response, step_delimiter])
        if (found := self._open().get([key]).get(key)) is not None:
            self.hits += 1
            return list(found.details["steps"])
        self.misses += 1
        values = self.rm.score_steps(prompt, response, step_delimiter)
        kept = self._open().put({key: Scored(values[-1], {"steps": values})})
        return list(kept[key].details["steps"])

    def identity(self) -> str:
        """The reward's identity, asked anew: a mixture's changes with its schedule."""
        return self._known if self._version else self.rm.identity() or self._known

    def close(self) -> None:
        """Close the store and the reward."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self.rm.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def _kept(self, answers: Mapping[str, ScoreResult]) -> dict[str, ScoreResult]:
        scored = {key: answer for key, answer in answers.items() if isinstance(answer, Scored)}
        return {**answers, **(self._open().put(scored) if scored else {})}

    def _open(self) -> ScoreStore:
        if self._store is None:
            self._store = ScoreStore(self._folder / STORE_NAME)
        return self._store


def _key(identity: str, item: Item) -> str:
    turns = [[turn["role"], turn["content"]] for turn in item.conversation]
    return digest_json([identity, item.prompt_id, turns])
