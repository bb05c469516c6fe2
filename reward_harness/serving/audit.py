"""What is kept of requests: the audit log, one JSON line each, and how surprises are logged.

Neither has a text of a prompt or a response, unless the audit log is asked to keep bodies.

The audit file is readable by its owner only. One that has grown to ``max_bytes`` becomes
``<name>.1``, the older ones move up, and what is older than ``KEPT`` files is deleted. A disk that
is full costs lines, never answers: the loss is told once in the server's own log.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson

MAX_BYTES = 64 * 1024 * 1024
KEPT = 5
SHOWN_CHARS = 200

logger = logging.getLogger("reward_harness")


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What is kept of a request; ``body`` only where the server was told to keep bodies."""

    request_id: str
    endpoint: str
    artifact_id: str | None
    prompt_id: str | None
    latency_ms: float
    status: int
    error_code: str | None
    body: str | None = None


class AuditLog:
    """Appends lines to ``path``; without one nothing is kept."""

    def __init__(self, path: Path | None, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._stream: BinaryIO | None = None
        self._losing = False
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = _open(path)

    @property
    def kept(self) -> bool:
        """Whether there is a file to write to."""
        return self._stream is not None

    def write(self, line: AuditLine) -> None:
        """Append one line."""
        if self._stream is None:
            return
        shown: dict[str, object] = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": line.request_id,
            "endpoint": line.endpoint,
            "artifact_id": line.artifact_id,
            "prompt_id": line.prompt_id[:SHOWN_CHARS] if line.prompt_id else line.prompt_id,
            "latency_ms": line.latency_ms,
            "status": line.status,
            "error_code": line.error_code,
        }
        if line.body is not None:
            shown["body"] = line.body
        text = orjson.dumps(shown) + b"\n"
        with self._lock:
            try:
                self._rotate()
                self._stream.write(text)
                self._losing = False
            except OSError as error:
                if not self._losing:
                    logger.error("audit log %s: lines are lost: %s", self._path, error.strerror)
                self._losing = True

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _rotate(self) -> None:
        assert self._stream is not None and self._path is not None
        if self._stream.tell() < self._max_bytes:
            return
        for age in range(KEPT - 1, 0, -1):
            older = _aged(self._path, age)
            if older.is_file():
                older.replace(_aged(self._path, age + 1))
        self._path.replace(_aged(self._path, 1))
        self._stream.close()
        self._stream = _open(self._path)


def log_failure(what: str, error: Exception) -> None:
    """Log an unexpected error by its kind and place; its message may quote a prompt or a key."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "".join(f"\n  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    logger.error("%s: %s%s", what, type(error).__name__, places)


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}")


def _open(path: Path) -> BinaryIO:
    """Unbuffered: a line is in the file when its request ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    stream = open(descriptor, "ab", buffering=0)  # noqa: SIM115, PTH123  kept open until close()
    stream.seek(0, os.SEEK_END)
    return stream
