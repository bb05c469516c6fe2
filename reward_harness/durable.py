"""Writing so that a crash leaves the old or the new, never a part."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that readers and crashes meet the old or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write_durably(temporary, data)
    temporary.replace(path)
    force_to_disk(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and force it to disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """One more name for a published file, which nobody changes; a copy where links cannot be."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
        force_to_disk(target)
