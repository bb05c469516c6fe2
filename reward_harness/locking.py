"""An exclusive lock on a file: the kernel drops it when its holder leaves or dies."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path) -> Generator[None]:
    """Wait until nobody else holds ``path``, then hold it; a killed holder lets go by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
