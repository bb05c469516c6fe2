"""The audit log: one JSON line a request, never with a text of a prompt or a response."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What is kept of a request."""

    request_id: str
    endpoint: str
    artifact_id: str | None
    prompt_id: str | None
    latency_ms: float
    status: int
    error_code: str | None


class AuditLog:
    """Appends lines; a file that has grown to ``MAX_BYTES`` is moved to ``<name>.1`` first."""

    def __init__(self, path: Path | None, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._stream: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")

    def write(self, line: AuditLine) -> None:
        """Append one line; without a path nothing is kept."""
        if self._stream is None:
            return
        stamped = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds")}
        text = json.dumps(stamped | asdict(line)) + "\n"
        with self._lock:
            self._rotate()
            self._stream.write(text)
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _rotate(self) -> None:
        assert self._stream is not None and self._path is not None
        if self._stream.tell() < self._max_bytes:
            return
        self._stream.close()
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._stream = self._path.open("a", encoding="utf-8")
