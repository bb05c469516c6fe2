"""Content identity: canonical JSON, digests of values, files and folders, and seeds derived from
names.

Every digest is a lowercase sha256 in hex. Two values have one digest exactly when their canonical
JSON is the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no white space, UTF-8; NaN and infinities are refused with ``ValueError``."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_bytes(data: bytes) -> str:
    """sha256 of raw bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's content, read in chunks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def digest_tree(root: Path, pattern: str = "**/*") -> str:
    """Digest of the relative names and contents of all files under ``root`` that match."""
    files = sorted(p for p in root.glob(pattern) if p.is_file())
    return digest_json([[p.relative_to(root).as_posix(), digest_file(p)] for p in files])


def derive_seed(seed: int, *names: str | int) -> int:
    """A 32-bit seed for a named purpose, stable across processes and versions."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def unit_interval(*names: str | int) -> float:
    """A number in [0, 1) that depends only on the names: for order-free assignment to splits."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def finite_or_none(value: float | None) -> float | None:
    """A float fit for JSON: NaN and infinities become None."""
    return value if value is not None and math.isfinite(value) else None


def digest_lines(lines: Iterable[Any]) -> str:
    """Digest of a sequence of JSON values, as of their canonical JSON lines."""
    hasher = hashlib.sha256()
    for line in lines:
        hasher.update(canonical_json(line))
        hasher.update(b"\n")
    return hasher.hexdigest()
