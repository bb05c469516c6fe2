"""Resume states: ``<cache>/resume/<job digest>/checkpoint-<step>/``, valid only with their marker.

The marker ``COMPLETE.json`` is written last and holds the sha256 of every file, so that a
checkpoint torn by a kill is passed over for the one before it. One process at a time works on a
job's folder. Optimiser and generator states are pickles; they stay in the cache, are read with
``weights_only`` and are deleted when the stage has published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reward_harness.durable import force_to_disk, write_atomically
from reward_harness.hashing import canonical_json, digest_file
from reward_harness.locking import file_lock

MARKER = "COMPLETE.json"
KEPT = 2
"""Checkpoints kept: the newest, and one more in case the newest turns out damaged."""


@dataclass(frozen=True, slots=True)
class ResumeFolder:
    """The checkpoints of one job."""

    path: Path

    @contextmanager
    def held(self) -> Generator[None]:
        """Work on this folder alone; waits for a worker of the same job that is still dying."""
        self.path.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path / ".lock"):
            yield

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps lies; transformers uses the same name."""
        return self.path / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, valid or not, ascending."""
        names = [p.name.removeprefix("checkpoint-") for p in self.path.glob("checkpoint-*")]
        return sorted(int(name) for name in names if name.isdigit())

    def newest(self) -> tuple[int, Path] | None:
        """The newest checkpoint whose files match its marker; damaged ones are deleted."""
        for step in reversed(self.steps()):
            folder = self.checkpoint(step)
            if is_complete(folder):
                return step, folder
            shutil.rmtree(folder)
        return None

    def torn(self) -> Path | None:
        """The newest checkpoint if its writing did not end."""
        newest = self.checkpoint(steps[-1]) if (steps := self.steps()) else None
        return newest if newest and not (newest / MARKER).exists() else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Make the checkpoint of ``step``: ``write`` fills a folder, which is then sealed."""
        folder = self.checkpoint(step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        self.seal(step)

    def seal(self, step: int) -> None:
        """Mark the checkpoint of ``step`` as complete and delete all but the newest few."""
        folder = self.checkpoint(step)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARKER)
        digests = {p.relative_to(folder).as_posix(): digest_file(p) for p in files}
        for path in files:
            force_to_disk(path)
        write_atomically(folder / MARKER, canonical_json(digests))
        for old in self.steps()[:-KEPT]:
            shutil.rmtree(self.checkpoint(old))

    def clear(self) -> None:
        """Delete everything: the result is published."""
        shutil.rmtree(self.path, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether the folder's marker lists exactly files that are there and unchanged."""
    try:
        listed: dict[str, str] = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file() and digest_file(folder / name) == digest
        for name, digest in listed.items()
    )
